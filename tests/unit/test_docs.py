# SPDX-License-Identifier: Apache-2.0
"""What the documentation shows works: its Python runs, its commands exist, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

import pytest
from packaging.version import Version

from airflow_workpools import __version__
from airflow_workpools.provider_info import get_provider_info

if TYPE_CHECKING:
    import argparse

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


class Block(NamedTuple):
    """A fenced block of a page."""

    where: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [
        Block(f"{page.relative_to(ROOT)}:{_line(page, match.start())}", match.group(1), match.group(2))
        for match in found
    ]


def _line(page: Path, position: int) -> int:
    return page.read_text().count("\n", 0, position) + 1


BLOCKS = [block for page in PAGES for block in blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def commands() -> list[tuple[str, list[str]]]:
    """Return every ``airflow …`` and ``make …`` command: of shell blocks, and complete ones in the text."""
    found = []
    for block in BLOCKS:
        if block.language == "bash":
            lines = block.text.replace("\\\n", " ").splitlines()
            found += [(block.where, shlex.split(line, comments=True)) for line in lines]
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        spans = re.findall(r"`((?:airflow|make) [^`…<]+)`", prose)
        found += [(str(page.relative_to(ROOT)), shlex.split(span)) for span in spans]
    return [(where, words) for where, words in found if words and words[0] in ("airflow", "make")]


def _id(value: object) -> str | None:
    return " ".join(value) if isinstance(value, list) else str(value)


AIRFLOW_COMMANDS = [(where, words) for where, words in commands() if words[0] == "airflow" and len(words) > 2]
MAKE_COMMANDS = [(where, words) for where, words in commands() if words[0] == "make"]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.where)
def test_the_python_in_the_docs_runs(block: Block) -> None:
    exec(compile(block.text, block.where, "exec"), {"__name__": "docs"})


@pytest.fixture(scope="session")
def airflow_parser() -> argparse.ArgumentParser:
    from airflow.cli.cli_parser import get_parser

    return get_parser()


@pytest.mark.parametrize(("where", "words"), AIRFLOW_COMMANDS, ids=_id)
def test_the_airflow_commands_in_the_docs_exist_with_these_arguments(
    where: str, words: list[str], airflow_parser: argparse.ArgumentParser
) -> None:
    try:
        arguments = airflow_parser.parse_args(words[1:])
    except SystemExit:
        pytest.fail(f"{where}: Airflow does not understand `{' '.join(words)}`")
    assert hasattr(arguments, "func"), f"{where}: `{' '.join(words)}` is not a whole command"


@pytest.mark.parametrize(("where", "words"), MAKE_COMMANDS, ids=_id)
def test_the_make_targets_in_the_docs_exist(where: str, words: list[str]) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert words[1] in targets, where


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_in_the_docs_lead_to_files_that_exist(page: Path) -> None:
    links = re.findall(r"""(?:\]\(|<img src=")([^)#\s"]+)""", page.read_text())
    local = [link for link in links if not link.startswith(("http://", "https://"))]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_every_page_can_be_reached_from_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text()
    pages = [page.name for page in (ROOT / "docs").glob("*.md") if page.name != "index.md"]
    assert [name for name in pages if f"({name})" not in index] == []


def test_one_version_everywhere() -> None:
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project
    assert project.group(1) == __version__ == get_provider_info()["versions"][0]


def test_the_changelog_is_kept_and_fits_the_version() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:]]
    assert all(released), f"a release looks like '[1.2.3] - 2026-01-31': {headings[1:]}"
    versions = [match.group(1) for match in released if match]
    assert versions == sorted(versions, key=Version, reverse=True)
    assert all(Version(version) <= Version(__version__) for version in versions)


def test_the_changelogs_sections_have_the_agreed_names() -> None:
    sections = re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_every_page_of_the_reference_can_be_reached_from_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text()
    pages = [page.name for page in (ROOT / "docs/reference").glob("*.md")]
    assert [name for name in pages if f"(reference/{name})" not in index] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_in_the_docs_lead_to_headings_that_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s#]*)#([^)\s]+)\)", page.read_text())
    local = [(target, anchor) for target, anchor in links if not target.startswith(("http://", "https://"))]
    broken = [
        f"{target}#{anchor}"
        for target, anchor in local
        if anchor not in _anchors(page.parent / target if target else page)
    ]
    assert broken == []


def _anchors(page: Path) -> list[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize(
    "plot", sorted((ROOT / "docs/plots").glob("*.svg")), ids=lambda plot: f"plot of {plot.stem}"
)
def test_a_plot_is_shown_with_words_for_those_who_do_not_see_it(plot: Path) -> None:
    shown = re.findall(
        rf'<img src="plots/{plot.name}" alt="(.{{20,}})">', (ROOT / "docs/performance.md").read_text()
    )
    assert len(shown) == 1


@pytest.mark.parametrize("picture", sorted((ROOT / "docs").glob("*.svg")), ids=lambda picture: picture.name)
def test_a_picture_can_be_read_in_the_dark_and_by_those_who_do_not_see_it(picture: Path) -> None:
    root = ElementTree.parse(picture).getroot()
    within = {element.tag.rpartition("}")[2]: element.text or "" for element in root}
    assert root.get("role") == "img"
    assert {root[0].get("id"), root[1].get("id")} == set((root.get("aria-labelledby") or "").split())
    assert within["title"].strip()
    assert within["desc"].strip()
    assert "@media (prefers-color-scheme: dark)" in within["style"]
    shown = [page for page in PAGES if re.search(rf"!\[[^]]{{40,}}\]\({picture.name}\)", page.read_text())]
    assert shown, f"no page shows {picture.name} with a text alternative"
