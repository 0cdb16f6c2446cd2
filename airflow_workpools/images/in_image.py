# SPDX-License-Identifier: Apache-2.0
"""What happens inside the image while it is built. The engine runs this file there, with the image's own Python.

It knows nothing of the provider and of Airflow, and imports only what comes with Python.

``packages USER`` installs, and puts every file that this added or changed into ``/workpools-overlay``, at its own
path; a list of the files that are gone lies there, too. ``dags FOLDER`` compiles the files of DAGs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import shutil
import site
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CONTEXT = Path("/workpools-build")
OVERLAY = Path("/workpools-overlay")
REMOVED = "workpools-removed"

# Requirements must not change them: the base was made, and tested, with these.
PINNED = ("apache-airflow", "apache-airflow-core", "apache-airflow-task-sdk")
PROVIDER = "airflow-provider-workpools"


def main(arguments: list[str]) -> None:
    if arguments[0] == "dags":
        compile_folders([Path(arguments[1])])
    elif os.environ.get("WORKPOOLS_BUILD_HOME") is None:
        as_user(arguments[1])
    else:
        packages()


def as_user(user: str) -> None:
    """Go on with the home of the image's user: a base may have its packages there (the official one has)."""
    name = user.partition(":")[0]
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
        home = entry.pw_dir
    except KeyError:
        home = os.environ.get("HOME", "/root")
    environment = {**os.environ, "HOME": home, "WORKPOOLS_BUILD_HOME": home}
    # The context is left out of the search path: what pip finds there, it takes for installed.
    os.chdir("/")
    os.execve(sys.executable, [sys.executable, str(Path(__file__)), "packages", user], environment)


def packages() -> None:
    folders = package_folders()
    before = snapshot(folders)
    compile_what_is_not(folders)
    install()
    # The stages after this one must not see less than this one did.
    after = snapshot(folders)
    removed = sorted(str(path) for path in before.keys() - after.keys())
    for path, state in after.items():
        if before.get(path) != state:
            keep(path)
    OVERLAY.mkdir(exist_ok=True)
    (OVERLAY / REMOVED).write_text("".join(f"{path}\0" for path in removed))


def package_folders() -> list[Path]:
    """Return every folder that installing may change."""
    paths = sysconfig.get_paths()
    found = [Path(paths[kind]) for kind in ("stdlib", "purelib", "platlib", "scripts")]
    found += [Path(paths["data"], "share"), Path(paths["data"], "etc")]
    if site.ENABLE_USER_SITE:
        found += [Path(site.getuserbase())]
    # Debian keeps what pip installs apart from what its own packages bring.
    found += [Path(entry) for entry in site.getsitepackages()]
    if sys.prefix == "/usr":
        found += [Path("/usr/local/lib"), Path("/usr/local/bin"), Path("/usr/local/share")]
    if airflow := airflow_folder():
        found += [airflow]
    return sorted({path.resolve() for path in found})


def airflow_folder() -> Path | None:
    """Return the folder that the base has Airflow in."""
    spec = importlib.util.find_spec("airflow")
    return Path(spec.origin).parent.parent.resolve() if spec and spec.origin else None


def snapshot(folders: list[Path]) -> dict[Path, tuple[int, int, int]]:
    """Return size, time and inode of each file."""
    found = {}
    for folder in folders:
        for where, _, names in os.walk(folder):
            for name in names:
                path = Path(where, name)
                state = path.lstat()
                found[path] = (state.st_size, state.st_mtime_ns, state.st_ino)
    return found


def keep(path: Path) -> None:
    target = OVERLAY / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, target, follow_symlinks=False)


def compile_what_is_not(folders: list[Path]) -> None:
    """Compile Airflow, and Python's own library, where the base has left that to each start."""
    if not Path(importlib.util.cache_from_source(os.__file__)).exists():
        compile_folders([Path(os.__file__).parent])
    airflow = airflow_folder()
    if airflow and not Path(importlib.util.cache_from_source(str(airflow / "airflow/__init__.py"))).exists():
        compile_folders([airflow])


def compile_folders(folders: list[Path]) -> None:
    """Compile; a file that is no valid Python is no concern of the build."""
    command = [sys.executable, "-m", "compileall", "-q", "-j", "0", *map(str, folders)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)


def install() -> None:
    wanted = [str(wheel) for wheel in sorted(CONTEXT.glob("*.whl"))]
    for requirements in sorted((CONTEXT / "requirements").glob("*.requirements.txt")):
        wanted += ["--requirement", str(requirements)]
    pins = CONTEXT / "pins.txt"
    pins.write_text("".join(f"{name}=={has}\n" for name, has in pinned().items()))
    pip = Pip()
    wanted += ["--constraint", str(pins)]
    target = airflow_folder()
    if target is None or str(target) in map(str, own_folders()):
        if installed(PROVIDER):
            pip.run("uninstall", "--yes", PROVIDER)
        pip.run("install", "--compile", *wanted)
    else:
        install_beside(pip, target, wanted)


def pinned() -> dict[str, str]:
    """Return Airflow's version: that of the base, or else the one that was asked for."""
    here = {name: has for name in PINNED if (has := installed(name))}
    return here or json.loads((CONTEXT / "airflow.json").read_text())


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def own_folders() -> list[Path]:
    """Return the folders that pip installs into by itself."""
    own = [*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    if site.ENABLE_USER_SITE:
        own.append(site.getusersitepackages())
    return [Path(folder).resolve() for folder in own]


def install_beside(pip: Pip, target: Path, wanted: list[str]) -> None:
    """Install where the base has Airflow, if that is a folder on PYTHONPATH: it goes before all others."""
    report = CONTEXT / "report.json"
    pip.run("install", "--dry-run", "--quiet", "--report", str(report), *wanted)
    items = json.loads(report.read_text())["install"]
    provider = [item for item in items if item["metadata"]["name"] == PROVIDER]
    if not provider:
        items.append(
            {"download_info": {"url": next(CONTEXT.glob("*.whl")).as_uri()}, "metadata": {"name": PROVIDER}}
        )
    for item in items:
        forget(target, item["metadata"]["name"])
    addresses = [item["download_info"]["url"] for item in items]
    pip.run("install", "--compile", "--no-deps", "--upgrade", "--target", str(target), *addresses)


def forget(target: Path, name: str) -> None:
    """Remove what says that another version is installed; its modules are replaced."""
    for folder in target.glob("*.dist-info"):
        if normal(folder.name.partition("-")[0]) == normal(name):
            shutil.rmtree(folder)


def normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


class Pip:
    """The base's pip, or else the one that was lent."""

    def __init__(self) -> None:
        lent = CONTEXT / "lent/pip"
        if importlib.util.find_spec("pip"):
            self.command = [sys.executable, "-m", "pip"]
        elif lent.is_dir():
            self.command = [sys.executable, str(lent)]
        else:
            fail(
                "the base image has no pip, and Airflow's own environment has none to lend; "
                "take another base image, or install pip in one of the two"
            )

    def run(self, *arguments: str) -> None:
        done = subprocess.run([*self.command, *arguments], env=self.environment(), check=False)
        if done.returncode:
            fail(f"pip {arguments[0]} failed")

    def environment(self) -> dict[str, str]:
        settings = CONTEXT / "pip.json"
        given = json.loads(settings.read_text()) if settings.exists() else {}
        certificates = CONTEXT / "ca.pem"
        if certificates.exists():
            given |= {"PIP_CERT": str(certificates)}
        ours = {
            "PIP_BREAK_SYSTEM_PACKAGES": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            "PIP_PROGRESS_BAR": "off",
            "PIP_ROOT_USER_ACTION": "ignore",
        }
        return {**os.environ, **ours, **given}


def fail(reason: str) -> None:
    sys.exit(f"Error: {reason}")


if __name__ == "__main__":
    main(sys.argv[1:])
