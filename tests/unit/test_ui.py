# SPDX-License-Identifier: Apache-2.0
"""The pages of Airflow's UI, as far as Python has to do with them: how their bundle is found, served and built."""

from __future__ import annotations

import gzip
import importlib.util
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import pytest
from airflow.api_fastapi.core_api.datamodels.plugins import ReactAppResponse
from fastapi.testclient import TestClient

from airflow_workpools import ui
from airflow_workpools.plugin import WorkpoolsPlugin

ROOT = Path(__file__).parents[2]
MOST_BYTES = 150_000

needs_bundle = pytest.mark.browser
"""The part that has the built bundle; ``.ci/run`` requires it."""


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    ui._version.cache_clear()
    yield
    ui._version.cache_clear()


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle that need not be built."""
    (tmp_path / "icon.svg").write_text("<svg/>")
    path = tmp_path / "workpools.js"
    path.write_text("globalThis.AirflowPlugin = () => null;")
    monkeypatch.setattr(ui, "BUNDLE", path)
    return path


def test_airflow_is_told_of_every_part_of_the_bundle(bundle: Path) -> None:
    apps = [ReactAppResponse.model_validate(app) for app in WorkpoolsPlugin().react_apps]

    assert {(app.name, app.destination) for app in apps} == {
        (ui.NAV, "nav"),
        (ui.TASK_INSTANCE, "task_instance"),
        (ui.DASHBOARD, "dashboard"),
    }
    # Airflow loads a bundle anew for every name that it does not find: one address, and all names in it.
    (url,) = {app.bundle_url for app in apps}
    assert not url.startswith("/"), "Airflow may be served under a path"
    parts = re.search(r"const parts = {(.*?)};", (ROOT / "ui/src/main.tsx").read_text(), re.DOTALL)
    assert parts is not None
    assert set(re.findall(r'"([^"]+)":', parts[1])) == {app.name for app in apps}
    routes = [app.url_route for app in apps if app.url_route]
    assert len(routes) == len(set(routes)) == 2
    links = (ROOT / "ui/src/links.ts").read_text()
    assert f'"/plugin/{ui.NAV_ROUTE}"' in links
    assert f"/plugin/{ui.TASK_INSTANCE_ROUTE}`" in links


def test_the_bundle_is_served_as_javascript_and_its_address_changes_with_it(bundle: Path) -> None:
    (served,) = ui.fastapi_apps()
    before = ui.react_apps()[0]["bundle_url"]
    with TestClient(served["app"]) as client:
        answer = client.get(f"/{Path(urlsplit(before).path).name}")
        assert answer.headers["content-type"].partition(";")[0] == "text/javascript"
        assert answer.text == bundle.read_text()
        assert client.get("/icon.svg").headers["content-type"].startswith("image/svg+xml")
        assert client.get("/../__init__.py").status_code == 404
        assert client.get("/%2e%2e/__init__.py").status_code == 404
    bundle.write_text("globalThis.AirflowPlugin = () => 1;")
    ui._version.cache_clear()
    assert ui.react_apps()[0]["bundle_url"] != before
    assert f"/{before}".startswith(f"{served['url_prefix']}/")


def test_without_a_bundle_there_are_no_pages_and_one_line_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ui, "BUNDLE", tmp_path / "workpools.js")
    with caplog.at_level(logging.WARNING, logger=ui.log.name):
        assert ui.react_apps() == ui.fastapi_apps() == ui.react_apps() == []
    (line,) = caplog.messages
    assert "make ui" in line
    assert "everything else works" in line


@needs_bundle
def test_the_bundle_is_small_and_brings_nothing_that_airflow_shares() -> None:
    text = ui.BUNDLE.read_bytes()
    assert len(gzip.compress(text)) <= MOST_BYTES
    for shared in ("React", "ReactJSXRuntime", "ReactRouterDOM", "ChakraUI"):
        assert re.search(rb"\be\." + shared.encode(), text), f"{shared} is not Airflow's"
    assert b"react.dev/errors" not in text, "a React of its own"


def test_the_lock_file_says_what_but_not_from_where() -> None:
    lock = (ROOT / "ui/package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert lock.count('"integrity"') > 50
    package = (ROOT / "ui/package.json").read_text()
    assert not re.findall(r'"[~^][0-9]', package), "versions are exact"


# -- the build -----------------------------------------------------------------------------------------------


@pytest.fixture
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A source folder, with an npm that only notes what it was asked for and makes the bundle."""
    (tmp_path / "ui/src").mkdir(parents=True)
    (tmp_path / "ui/package.json").write_text("{}")
    (tmp_path / "ui/src/main.tsx").write_text("")
    programs = tmp_path / "bin"
    programs.mkdir()
    dist = tmp_path / "airflow_workpools/ui/dist"
    npm = f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\nmkdir -p {dist} && touch {dist}/workpools.js\n'
    (programs / "npm").write_text(npm)
    (programs / "node").write_text("#!/bin/sh\necho v20.19.0\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    return tmp_path


def _asked(sources: Path) -> list[str]:
    asked = sources / "asked"
    return asked.read_text().splitlines() if asked.exists() else []


def test_a_wheel_gets_a_new_bundle_only_if_the_sources_changed(
    hook: ModuleType, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{sources / 'bin'}:{os.environ['PATH']}")
    hook.make_bundle(sources)
    assert [line.split()[0] for line in _asked(sources)] == ["ci", "run"]
    hook.make_bundle(sources)
    assert len(_asked(sources)) == 2
    later = (sources / "airflow_workpools/ui/dist/workpools.js").stat().st_mtime + 10
    os.utime(sources / "ui/src/main.tsx", (later, later))
    hook.make_bundle(sources)
    assert len(_asked(sources)) == 4


def test_without_node_or_with_an_old_one_what_is_there_is_taken(
    hook: ModuleType, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{sources / 'bin'}:{os.environ['PATH']}")
    (sources / "bin/node").write_text("#!/bin/sh\necho v18.19.0\n")
    hook.make_bundle(sources)
    monkeypatch.setenv("PATH", str(sources / "empty"))
    hook.make_bundle(sources)
    assert _asked(sources) == []


def test_a_build_that_fails_ends_the_build_of_the_wheel(
    hook: ModuleType, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{sources / 'bin'}:{os.environ['PATH']}")
    (sources / "bin/npm").write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(SystemExit, match=r"`ci .* failed in"):
        hook.make_bundle(sources)


def test_make_ui_says_what_it_needs(tmp_path: Path) -> None:
    for program in ("bash", "sort", "head", "printf", "tr"):
        found = shutil.which(program)
        assert found is not None
        (tmp_path / program).symlink_to(found)
    done = subprocess.run(
        [str(tmp_path / "bash"), str(ROOT / "tools/node.sh")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Node.js 20.19 or newer, not none" in done.stderr
