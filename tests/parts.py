# SPDX-License-Identifier: Apache-2.0
"""What a test may need beyond Python, and whether this machine has it.

Each part is a pytest marker of the same name. A test whose part is missing is skipped with the reason, unless
``WORKPOOLS_TEST_REQUIRE`` (comma-separated) lists the part: then the test fails.
"""

from __future__ import annotations

import os
import shutil
import socket
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def postgres_bin() -> Path | None:
    """Return the folder with PostgreSQL's server binaries, or None if there is none."""
    on_path = shutil.which("initdb")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    debian = Path("/usr/lib/postgresql")
    if debian.is_dir():
        versions = sorted(debian.iterdir(), key=lambda folder: _version_key(folder.name), reverse=True)
        candidates += [folder / "bin" for folder in versions]
    for folder in candidates:
        if all((folder / binary).exists() for binary in ("initdb", "postgres", "pg_ctl")):
            return folder
    return None


def _version_key(name: str) -> float:
    try:
        return float(name)
    except ValueError:
        return 0.0


def _no_postgres() -> str | None:
    return None if postgres_bin() else "PostgreSQL's server binaries are missing (apt-get install postgresql)"


def mariadb_server_binary() -> Path | None:
    """Return MariaDB's server, or None if there is none."""
    # Debian's is where only root's PATH leads.
    found = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin:/usr/local/sbin")
    return Path(found) if found and shutil.which("mariadb-install-db") else None


def _no_mysql() -> str | None:
    if mariadb_server_binary() is None:
        return "MariaDB's server binaries are missing (apt-get install mariadb-server)"
    for driver in ("MySQLdb", "aiomysql"):
        if find_spec(driver) is None:
            return (
                f"the driver {driver} is missing (apt-get install libmariadb-dev gcc pkg-config python3-dev; "
                "make venv)"
            )
    return None


def _no_docker() -> str | None:
    path = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    if not path.startswith("/"):
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(path)
        except OSError as error:
            return f"no Docker Engine answers at {path} ({error.strerror})"
    return None


def _no_podman() -> str | None:
    if os.geteuid() != 0:
        return "Podman is tested as root, as the owner of a rootful service"
    return None if shutil.which("podman") else "Podman is missing (apt-get install podman catatonit)"


def _no_registry() -> str | None:
    return (
        None if shutil.which("docker-registry") else "a registry is missing (apt-get install docker-registry)"
    )


def _no_kubernetes() -> str | None:
    configured = os.environ.get("KUBECONFIG") or Path("~/.kube/config").expanduser().exists()
    return None if configured else "no Kubernetes cluster is configured (KUBECONFIG)"


def _no_breakable_kubernetes() -> str | None:
    from tests.kubernetes import testbed

    return testbed.missing()


def _no_worker() -> str | None:
    if os.geteuid() != 0 or not shutil.which("ip"):
        return "network namespaces need root and the `ip` command (apt-get install iproute2)"
    return None


def chromium() -> str | None:
    """Return the browser, or None if there is none."""
    return shutil.which("chromium")


def _no_browser() -> str | None:
    if chromium() is None:
        return "Chromium is missing (apt-get install chromium)"
    root = Path(__file__).parents[1]
    # The second comes with what builds the first, and looks for faults of accessibility.
    needed = ("airflow_workpools/ui/dist/workpools.js", "ui/node_modules/axe-core/axe.min.js")
    if not all((root / path).exists() for path in needed):
        return "the pages are not built (make ui)"
    return None


def _no_own_engine() -> str | None:
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        return "an engine of the test's own needs root and dockerd (apt-get install docker.io)"
    return None


PARTS: Mapping[str, Callable[[], str | None]] = {
    "postgres": cache(_no_postgres),
    "mysql": cache(_no_mysql),
    "docker": cache(_no_docker),
    "own_engine": cache(_no_own_engine),
    "podman": cache(_no_podman),
    "registry": cache(_no_registry),
    "kubernetes": cache(_no_kubernetes),
    "breakable_kubernetes": cache(_no_breakable_kubernetes),
    "worker": cache(_no_worker),
    "browser": cache(_no_browser),
}
"""From each part's marker, what says why it is missing, or None if it is there."""


def required_parts(environ: Mapping[str, str] = os.environ) -> frozenset[str]:
    """Return the parts that ``WORKPOOLS_TEST_REQUIRE`` lists.

    :raises ValueError: if it lists a part that does not exist; a typo must not switch tests off.
    """
    listed = {name.strip() for name in environ.get("WORKPOOLS_TEST_REQUIRE", "").split(",")} - {""}
    if unknown := listed - PARTS.keys():
        raise ValueError(
            f"WORKPOOLS_TEST_REQUIRE lists {', '.join(sorted(unknown))}; known are {', '.join(PARTS)}"
        )
    return frozenset(listed)
