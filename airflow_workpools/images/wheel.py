# SPDX-License-Identifier: Apache-2.0
"""The provider's own wheel, made of its installed files.

An image gets exactly the provider that runs here, whether that came from an index, from a wheel, or is a source folder
that somebody works on; no index needs to be reached for it. The same files make the same wheel, byte by byte.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from airflow_workpools.errors import InvalidInput

DISTRIBUTION = "airflow-provider-workpools"
PACKAGES = ("airflow_workpools", "airflow_provider_workpools")

_WHEEL = (
    "Wheel-Version: 1.0\nGenerator: airflow workpools image build\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
)
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


def provider_wheel() -> tuple[str, bytes]:
    """Return the file name of the wheel, and the wheel.

    :raises InvalidInput: if the provider was never installed, only put on Python's search path.
    """
    try:
        installed = distribution(DISTRIBUTION)
    except PackageNotFoundError:
        raise InvalidInput(
            f"{DISTRIBUTION} is not installed here (its files are only on Python's search path), so it can't be put "
            "into an image; install it: pip install ."
        ) from None
    name = f"{DISTRIBUTION.replace('-', '_')}-{installed.version}"
    files = {path: content for package in PACKAGES for path, content in _files_of(package).items()}
    for described in ("METADATA", "entry_points.txt"):
        files[f"{name}.dist-info/{described}"] = (installed.read_text(described) or "").encode()
    files[f"{name}.dist-info/WHEEL"] = _WHEEL.encode()
    record = f"{name}.dist-info/RECORD"
    files[record] = _record(files, record)
    return f"{name}-py3-none-any.whl", _zipped(files)


def _files_of(package: str) -> dict[str, bytes]:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise InvalidInput(f"package {package!r} of {DISTRIBUTION} is missing; install the provider again")
    root = Path(spec.origin).parent
    paths = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(root.parent).as_posix(): path.read_bytes() for path in paths}


def _record(files: dict[str, bytes], name: str) -> bytes:
    lines = [f"{path},sha256={_digest(content)},{len(content)}" for path, content in files.items()]
    return "".join(f"{line}\n" for line in (*lines, f"{name},,")).encode()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path, date_time=_LONG_AGO)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, compress_type=zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
