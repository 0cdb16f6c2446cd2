# SPDX-License-Identifier: Apache-2.0
"""The files that a build gets: which, and under which names. They are the same for the same input, whoever builds."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import tarfile
import tempfile
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, TYPE_CHECKING

from airflow_workpools.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Files = dict[str, "bytes | Path"]
"""From the path in the context to the content, or to the file that has it."""

NEVER = (
    ".git",
    "*.env",
    ".env.*",
    "airflow.cfg",
    "airflow.db",
    "simple_auth_manager_passwords.json*",
    ".netrc",
    ".pypirc",
    "pip.conf",
    ".aws",
    ".docker",
    ".kube",
    ".ssh",
    "__pycache__",
    "*.pyc",
    ".venv",
)
"""Names of files and folders that stay out whatever ``.dockerignore`` says: secrets, and what is of this host only."""

IGNORE_FILE = ".dockerignore"

_LONG_AGO = 315532800  # 1980-01-01: as in wheels; time is part of no layer then
_INCLUDE = re.compile(r"^(\s*(?:-r|-c|--requirement|--constraint)(?:\s*=?\s*))([^\s#]+)(.*)$", re.MULTILINE)


def dag_files(folder: Path) -> Files:
    """Return the files of the DAG folder, but for what ``.dockerignore`` there, or :data:`NEVER`, leaves out.

    ``.airflowignore`` goes along and means there what it means here: files that are not parsed may well be imported.

    :raises NotFound: if there is no such folder.
    :raises InvalidInput: if a link leads out of the folder: what it leads to would be missing.
    """
    from docker.utils import exclude_paths

    if not folder.is_dir():
        raise NotFound(f"there is no DAG folder {str(folder)!r}; name it with --dags-folder")
    root = folder.resolve()
    found: Files = {}
    # The patterns save the walk through such folders; "!" in the ignore file could undo them, and no more than that.
    patterns = [*_ignored(root), *(f"**/{name}" for name in NEVER)]
    for path in sorted(exclude_paths(str(root), patterns)):
        place = root / path
        if _never(path):
            continue
        if place.is_symlink() and not place.resolve().is_relative_to(root):
            raise InvalidInput(
                f"{place} is a link that leads out of the DAG folder, so what it leads to would be missing in the "
                f"image; move it in, or list it in {IGNORE_FILE}"
            )
        if place.is_file() or place.is_symlink():
            found[path] = place
    return found


def _never(path: str) -> bool:
    return any(fnmatchcase(part, name) for part in Path(path).parts for name in NEVER)


def _ignored(root: Path) -> list[str]:
    try:
        lines = (root / IGNORE_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def requirement_files(paths: Sequence[Path]) -> Files:
    """Return files of requirements, and those that they name with ``-r`` and ``-c``, under names of their own.

    :raises NotFound: if one of them is missing.
    """
    names: dict[Path, str] = {}
    for number, path in enumerate(paths):
        names.setdefault(path.resolve(), f"{number}.requirements.txt")
    found: Files = {}
    waiting = list(names)
    while waiting:
        path = waiting.pop(0)
        text, included = _with_included(path, names)
        found[names[path]] = text.encode()
        waiting += included
    return found


def _with_included(path: Path, names: dict[Path, str]) -> tuple[str, list[Path]]:
    new: list[Path] = []

    def renamed(match: re.Match[str]) -> str:
        if "://" in match[2]:
            return match[0]
        other = (path.parent / match[2]).resolve()
        if other not in names:
            names[other] = f"{len(names)}.included.txt"
            new.append(other)
        return f"{match[1].rstrip()} {names[other]}{match[3]}"

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise NotFound(f"requirements file {str(path)!r} cannot be read: {reason}") from error
    return _INCLUDE.sub(renamed, text), new


_PIP_SETTINGS = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_NO_INDEX",
    "PIP_TRUSTED_HOST",
    "PIP_PROXY",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_TIMEOUT",
    "PIP_RETRIES",
    "PIP_PRE",
)


def pip_files(environ: Mapping[str, str]) -> Files:
    """Return how pip reaches its index, as this environment says it: its address, a proxy, certificates."""
    given = {name: value for name in _PIP_SETTINGS if (value := environ.get(name))}
    found: Files = {"pip.json": json.dumps(given, sort_keys=True).encode()}
    if certificates := environ.get("PIP_CERT"):
        try:
            found["ca.pem"] = Path(certificates).read_bytes()
        except OSError as error:
            raise NotFound(f"PIP_CERT: {certificates!r} cannot be read: {error.strerror}") from error
    return found


def lent_pip() -> Files:
    """Return the pip of this environment, for a base that has none; nothing if there is none here either."""
    spec = importlib.util.find_spec("pip")
    if spec is None or spec.origin is None:
        return {}
    root = Path(spec.origin).parent
    paths = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {f"lent/pip/{path.relative_to(root).as_posix()}": path for path in paths}


def program() -> bytes:
    """Return what runs in the image while it is built."""
    return Path(__file__).with_name("in_image.py").read_bytes()


def below(folder: str, files: Mapping[str, bytes | Path]) -> Files:
    """Return the files in a folder."""
    return {f"{folder}/{path}": content for path, content in files.items()}


def packed(files: Mapping[str, bytes | Path]) -> IO[bytes]:
    """Return the files as the archive that an engine takes, in a temporary file."""
    archive_file = tempfile.TemporaryFile()  # noqa: SIM115
    with tarfile.open(fileobj=archive_file, mode="w") as archive:
        for folder in _folders(files):
            archive.addfile(_entry(folder, 0o755, kind=tarfile.DIRTYPE))
        for name in sorted(files):
            _add(archive, name, files[name])
    archive_file.seek(0)
    return archive_file


def _folders(files: Iterable[str]) -> list[str]:
    # COPY fails if there is no such folder: an empty DAG folder is one, too.
    parents = {str(parent) for name in files for parent in Path(name).parents}
    return sorted((parents | {"dags", "packages", "packages/requirements"}) - {"."})


def _add(archive: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    if isinstance(content, bytes):
        archive.addfile(_entry(name, 0o644, size=len(content)), io.BytesIO(content))
    elif content.is_symlink():
        link = _entry(name, 0o777, kind=tarfile.SYMTYPE)
        link.linkname = str(content.readlink())
        archive.addfile(link)
    else:
        with content.open("rb") as file:
            state = content.stat()
            # Readable for everyone: who runs in the image is not who owns the files here.
            mode = 0o755 if state.st_mode & 0o100 else 0o644
            archive.addfile(_entry(name, mode, size=state.st_size), file)


def _entry(name: str, mode: int, *, size: int = 0, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size, entry.type, entry.mtime = mode, size, kind, _LONG_AGO
    return entry
