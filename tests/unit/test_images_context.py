# SPDX-License-Identifier: Apache-2.0
"""Which files go into an image."""

from __future__ import annotations

import json
import tarfile
import zipfile
from io import BytesIO
from typing import TYPE_CHECKING

import pytest

from airflow_workpools.errors import InvalidInput, NotFound
from airflow_workpools.images.context import dag_files, lent_pip, packed, pip_files, requirement_files
from airflow_workpools.images.wheel import provider_wheel

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, **texts: str) -> Path:
    """Write files; their names are given with ``__`` for a slash."""
    for name, text in texts.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def test_every_file_of_the_dag_folder_goes_in(tmp_path: Path) -> None:
    touch(tmp_path, "a.py", "sql/load.sql", "team/lib/b.py")

    assert set(dag_files(tmp_path)) == {"a.py", "sql/load.sql", "team/lib/b.py"}


SECRETS = [
    ".git/config",
    "team/.git/HEAD",
    "prod.env",
    "team/.env",
    ".env.local",
    "airflow.cfg",
    "team/airflow.cfg",
    ".ssh/id_rsa",
    ".aws/credentials",
    ".netrc",
    "simple_auth_manager_passwords.json.generated",
    "__pycache__/a.cpython-311.pyc",
]


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_stay_out_whatever_the_ignore_file_says(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "a.py", name)
    (tmp_path / ".dockerignore").write_text(f"!{name}\n!**\n")

    assert set(dag_files(tmp_path)) == {"a.py", ".dockerignore"}


def test_the_dockerignore_file_of_the_dag_folder_holds(tmp_path: Path) -> None:
    touch(tmp_path, "a.py", "notes/1.md", "notes/keep.md", "big.csv", "team/big.csv")
    (tmp_path / ".dockerignore").write_text("# a comment\n\nnotes/*\n!notes/keep.md\n*.csv\n")

    assert set(dag_files(tmp_path)) == {"a.py", "notes/keep.md", "team/big.csv", ".dockerignore"}


def test_what_airflow_does_not_parse_goes_in_as_dags_may_import_it(tmp_path: Path) -> None:
    touch(tmp_path, "a.py", "lib/helper.py")
    (tmp_path / ".airflowignore").write_text("lib/\n")

    assert {".airflowignore", "lib/helper.py"} <= set(dag_files(tmp_path))


def test_a_link_out_of_the_dag_folder_is_refused_and_one_within_stays_a_link(tmp_path: Path) -> None:
    dags = tmp_path / "dags"
    touch(tmp_path, "dags/lib/a.py", "elsewhere/secret")
    (dags / "now").symlink_to("lib")

    with packed(dag_files(dags)) as archive_file, tarfile.open(fileobj=archive_file) as archive:
        assert archive.getmember("now").linkname == "lib"

    (dags / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInput, match="out is a link that leads out of the DAG folder"):
        dag_files(dags)


def test_a_missing_dag_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"nowhere.*--dags-folder"):
        dag_files(tmp_path / "nowhere")


def test_the_archive_is_the_same_whenever_and_by_whom_it_is_made(tmp_path: Path) -> None:
    touch(tmp_path, "a.py", "b.sh")
    (tmp_path / "a.py").chmod(0o600)
    (tmp_path / "b.sh").chmod(0o700)

    with packed({**dag_files(tmp_path), "Dockerfile": b"FROM x"}) as archive_file:
        first = archive_file.read()
    (tmp_path / "a.py").touch()
    with packed({"Dockerfile": b"FROM x", **dag_files(tmp_path)}) as archive_file:
        assert archive_file.read() == first

    with tarfile.open(fileobj=BytesIO(first)) as archive:
        modes = {member.name: (member.mode, member.uid) for member in archive}
    assert modes["a.py"] == (0o644, 0)
    assert modes["b.sh"] == (0o755, 0)


# -- requirements -------------------------------------------------------------------------------------------


def test_requirements_bring_the_files_that_they_name(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "team__base.txt": "-r ../shared.txt\n-c limits.txt  # ours\npolars\n",
            "shared.txt": "requests\n-r team/base.txt\n",
            "team__limits.txt": "polars<2\n",
        },
    )

    files = requirement_files([tmp_path / "team/base.txt"])

    assert files == {
        "0.requirements.txt": b"-r 1.included.txt\n-c 2.included.txt  # ours\npolars\n",
        "1.included.txt": b"requests\n-r 0.requirements.txt\n",
        "2.included.txt": b"polars<2\n",
    }


def test_addresses_in_requirements_stay(tmp_path: Path) -> None:
    text = "-c https://example.com/constraints.txt\n--index-url https://example.com/simple\n"
    write(tmp_path, **{"r.txt": text})

    assert requirement_files([tmp_path / "r.txt"]) == {"0.requirements.txt": text.encode()}


def test_a_missing_requirements_file_is_named_also_one_that_another_names(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"none\.txt.*No such file"):
        requirement_files([tmp_path / "none.txt"])

    write(tmp_path, **{"r.txt": "-r gone.txt\n"})
    with pytest.raises(NotFound, match=r"gone\.txt.*No such file"):
        requirement_files([tmp_path / "r.txt"])


# -- how packages are found ---------------------------------------------------------------------------------


def test_the_build_reaches_the_index_as_pip_does_here(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("certificate")
    environ = {
        "PIP_INDEX_URL": "https://me:secret@index.example.com/simple",
        "PIP_CERT": str(tmp_path / "ca.pem"),
        "PIP_TARGET": "/somewhere",
        "HOME": "/root",
    }

    files = pip_files(environ)

    assert json.loads(files["pip.json"]) == {"PIP_INDEX_URL": "https://me:secret@index.example.com/simple"}  # type: ignore[arg-type]
    assert files["ca.pem"] == b"certificate"


def test_certificates_that_are_not_there_are_named() -> None:
    with pytest.raises(NotFound, match=r"PIP_CERT.*nowhere\.pem"):
        pip_files({"PIP_CERT": "/nowhere.pem"})


def test_pip_is_lent_to_bases_that_have_none() -> None:
    assert "lent/pip/__main__.py" in lent_pip()


# -- the provider -------------------------------------------------------------------------------------------


def test_the_provider_s_wheel_is_made_of_what_is_installed_and_always_the_same() -> None:
    name, content = provider_wheel()

    assert provider_wheel() == (name, content)
    with zipfile.ZipFile(BytesIO(content)) as wheel:
        names = set(wheel.namelist())
        points = wheel.read("airflow_provider_workpools-0.1.0.dist-info/entry_points.txt").decode()
    assert name == "airflow_provider_workpools-0.1.0-py3-none-any.whl"
    assert {"airflow_workpools/executor.py", "airflow_workpools/py.typed"} <= names
    assert not any(path.endswith(".pyc") for path in names)
    assert "airflow_workpools.provider_info:get_provider_info" in points
