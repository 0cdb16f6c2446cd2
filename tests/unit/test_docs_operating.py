# SPDX-License-Identifier: Apache-2.0
"""The pages for operators: every reason has its line, every command works, and figures are those measured."""

from __future__ import annotations

import ast
import re
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from airflow_workpools import metrics
from airflow_workpools.core.ends import EndCause
from airflow_workpools.core.exits import explain_exit
from airflow_workpools.core.explain import Gate
from airflow_workpools.infrastructure.kubernetes import status
from airflow_workpools.store import rules
from airflow_workpools.store.errands import LOST
from tests.airflow_home import ETL, insert_worker
from tests.dag_reader import Reading, read
from tests.unit.test_docs import BLOCKS, PAGES, ROOT, Block
from tests.unit.test_docs_reference import names, rows, sections

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tests.airflow_home import AirflowHome

PACKAGE = ROOT / "airflow_workpools"
OPERATING = (ROOT / "docs/operating.md").read_text()
MEANINGS = sections(sections(OPERATING, "##")["What each reason means"], "###")

# -- reasons in the code ---------------------------------------------------------------------------------------

_TAKE_REASONS = {
    "LaunchRejected",
    "InfrastructureUnavailable",
    "Refusal",
    "NotNow",
    "not_started",
    "give_back",
    "requeue",
    "_lose",
    "seek_later",
    "_noted",
    "_without_container",
    "PullFailed",
    "_gone",
    "ApiRefusal",
    "NotAccepted",
    "DoesNotExist",
}
"""What is called with a reason."""
_GIVE_REASONS = {
    "lost_reason",
    "missing",
    "_why_gone",
    "start_timeout_reason",
    "_out_of_memory",
    "start_refused",
    "removed_before_start",
    "_ended_by",
    "_why_job_failed",
    "_why_pod_failed",
}
"""What returns a reason."""
_JOINING = 8
"""Letters of a text that only joins others: "… (… attempts)"."""
_NO_JOB = {"cli/changes.py", "core/gates/of_job.py"}
"""Where ``reason`` is the reason of something else, or only put together."""


def reasons_in_the_code() -> set[str]:
    """Return every text that can become a reason, with … for what differs; not what only joins others."""
    found = {
        text
        for path in sorted(PACKAGE.rglob("*.py"))
        if not {"testing", "images"} & {*path.parts} and str(path.relative_to(PACKAGE)) not in _NO_JOB
        for text in _reasons_of(path)
    }
    words = {status._CAN_NOT_PULL, *status._IMAGE_WORDS.values(), *status._DISRUPTION_WORDS.values()}
    constants = words | {
        value for name, value in vars(rules).items() if name.isupper() and isinstance(value, str)
    }
    return {_plain(text) for text in {*found, *constants, LOST} if len(re.findall(r"[a-z]", text)) > _JOINING}


def _reasons_of(path: Path) -> Iterator[str]:
    takers = _TAKE_REASONS | ({"NotFound"} if path.parent.name == "worker" else set())
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            if _name(node.func) in takers:
                yield from _texts(*node.args)
            yield from _texts(*(word.value for word in node.keywords if word.arg == "reason"))
        elif isinstance(node, ast.Assign):
            if any(_name(target).lower() == "reason" for target in node.targets):
                yield from _texts(node.value)
        elif isinstance(node, ast.FunctionDef) and node.name in _GIVE_REASONS:
            yield from _texts(
                *(part.value for part in ast.walk(node) if isinstance(part, ast.Return) and part.value)
            )


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _texts(*nodes: ast.expr) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.BoolOp):
            yield from _texts(*node.values)
        elif isinstance(node, ast.IfExp):
            yield from _texts(node.body, node.orelse)
        elif isinstance(node, ast.BinOp):
            yield "".join(next(_texts(part), "…") for part in (node.left, node.right))


def _plain(text: str) -> str:
    return re.sub(r"(: …)+$|…+$|: $", "", text.replace("`", "").rstrip(". ")).strip()


# -- reasons in the docs ---------------------------------------------------------------------------------------


def documented(*headings: str) -> list[str]:
    """Return what stands in the first column of the tables under these headings."""
    return [
        _plain(text) for heading in headings for cells in rows(MEANINGS[heading]) for text in names(cells[0])
    ]


REASON_TABLES = (
    "Refused at the hand-over",
    "Could not start",
    "Ended while it started or ran",
    "Callbacks and connection tests",
)


def test_every_reason_in_the_code_has_a_line() -> None:
    lines = [*documented(*REASON_TABLES, "Where a task waits"), "The job could not be started"]
    missing = {text for text in reasons_in_the_code() if not any(text.startswith(line) for line in lines)}
    assert missing == set()


def test_no_line_is_about_a_reason_that_does_not_exist() -> None:
    in_code = reasons_in_the_code()
    made_up = [
        line for line in documented(*REASON_TABLES) if not any(text.startswith(line) for text in in_code)
    ]
    assert made_up == []


def test_what_introduces_a_job_that_could_not_start_is_said_once() -> None:
    assert "`The job could not be started: `" in MEANINGS["Could not start"]
    assert "The job could not be started" in reasons_in_the_code()


def test_every_line_says_what_it_means_and_what_to_do() -> None:
    lines = [cells for heading in REASON_TABLES for cells in rows(MEANINGS[heading])]
    assert [cells[0] for cells in lines if len(cells) != 3 or not all(cells)] == []


def test_the_words_for_exit_codes_are_those_of_the_code() -> None:
    described = {}
    for cells in rows(MEANINGS["Exit codes"]):
        for code in re.findall(r"-?\d+", cells[1]):
            described[int(code)] = names(cells[0])[0]
    said = {code: explain_exit(code) for code in (*range(256), *(-number for number in range(1, 65)))}
    words = {code: re.sub(r" \((?:SIG\w+, )?exit code .*", "", text) for code, text in said.items()}
    assert described == {code: words[code] for code in described}
    assert set(names(MEANINGS["Exit codes"])) >= {
        text for code, text in words.items() if not text.startswith("ended by signal ")
    }


def test_the_gates_are_all_there_in_their_order() -> None:
    gates = [str(gate) for gate in Gate]
    why = (ROOT / "docs/why-does-my-task-wait.md").read_text()
    assert [names(cells[0])[0] for cells in rows(sections(why, "##")["The gates"])] == gates
    first_table = MEANINGS["Where a task waits"].split("`preview` says")[0]
    assert [names(cells[0])[0] for cells in rows(first_table)] == gates


def test_the_causes_are_all_there_in_their_order() -> None:
    causes = [names(cells[0])[0] for cells in rows(MEANINGS["How a job ended, in one word"])]
    assert causes == [str(cause) for cause in EndCause]


# -- metrics and figures ---------------------------------------------------------------------------------------


def test_alerts_are_about_metrics_and_causes_that_exist() -> None:
    watched = sections(OPERATING, "##")["What to watch"]
    there_are = {one.name for one in metrics.METRICS}
    assert set(re.findall(r"`(workpools\.[\w.]+)`", watched)) <= there_are
    named = re.findall(r"cause `(\w+)`(?: or `(\w+)`)?", watched)
    causes = {cause for pair in named for cause in pair if cause}
    assert len(causes) > 3
    assert causes <= {str(cause) for cause in EndCause}


def test_what_a_task_costs_is_what_was_measured() -> None:
    measured = (ROOT / "docs/performance.md").read_text()
    row = re.search(r"^\| all \| [\d.]+ \| ([\d.]+) \|", measured, re.MULTILINE)
    assert row
    seconds = float(row.group(1)) / 1000
    said = re.search(r"about ([\d.]+) s in all for a task that does nothing", OPERATING)
    assert said
    assert float(said.group(1)) == round(seconds, 2)
    assert round(1 / seconds) == 7, "the page says seven tasks a second and core"


# -- commands --------------------------------------------------------------------------------------------------

OPERATORS_PAGES = ("docs/operating.md", "docs/runbooks.md", "docs/migrating.md")


def command_lines(*pages: str) -> Iterable[Any]:
    """Return every ``airflow workpools`` command of shell blocks, but those about one task."""
    for block in BLOCKS:
        if block.language == "bash" and block.where.rpartition(":")[0] in pages:
            for line in block.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:2] == ["airflow", "workpools"] and words[2] != "explain":
                    yield pytest.param(words[2:], id=f"{block.where} {' '.join(words[2:])}")


@pytest.mark.parametrize("words", command_lines(*OPERATORS_PAGES))
def test_the_commands_for_operators_work(home: AirflowHome, words: list[str]) -> None:
    if words[:2] != ["create", "etl"]:
        home.ok(ETL)
    if words[0] == "worker" and "edge-1" in words:
        insert_worker(home, "edge-1", kind="standalone", pools='["etl"]')
    home.ok(shlex.join(words))


def test_processes_are_found_by_the_titles_that_the_docs_say() -> None:
    titles = {
        title
        for page in PAGES
        for title in re.findall(r'pgrep -af "(.+)"', page.read_text())
        if title != "airflow scheduler"
    }
    code = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    assert titles == {"airflow_workpools: embedded worker", "airflow_workpools: process runner"}
    assert [title for title in titles if f'"{title}"' not in code] == []


# -- moving ----------------------------------------------------------------------------------------------------


def migrating(language: str) -> list[Block]:
    return [
        block
        for block in BLOCKS
        if block.where.startswith("docs/migrating.md:") and block.language == language
    ]


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    """Read the page's DAG with the executors that it names beside each other."""
    named = re.search(r"^executor = (\S+,\S+)$", migrating("ini")[0].text, re.MULTILINE)
    assert named
    (example,) = migrating("python")
    return read(tmp_path_factory.mktemp("moved"), {"orders.py": example.text}, executor=named.group(1))


def test_tasks_move_to_the_work_pool_one_by_one(moved: Reading) -> None:
    assert moved.errors == {}
    where = {
        name: (task["queue"], task["pool"], task["executor"]) for name, task in moved.dags["orders"].items()
    }
    ours = "airflow_workpools.WorkPoolExecutor"
    assert where == {
        "load": ("etl/low", "etl.low", ours),
        "refresh": ("etl/high", "etl.high", ours),
        "stays": ("high", "default_pool", None),
    }


def test_a_native_queue_with_a_slash_means_a_work_queue(tmp_path: Path) -> None:
    source = migrating("python")[0].text.replace('work_queue="etl/high"', 'queue="etl/high"')
    reading = read(
        tmp_path,
        {"orders.py": source.replace('default_args={"work_queue": "etl/low"}', "")},
        executor="CeleryExecutor,airflow_workpools.WorkPoolExecutor",
    )
    assert reading.errors == {}
    assert reading.dags["orders"]["refresh"]["pool"] == "etl.high"
    assert reading.dags["orders"]["load"]["executor"] is None


def test_without_the_executor_a_work_queue_is_an_import_error(tmp_path: Path) -> None:
    reading = read(tmp_path, {"orders.py": migrating("python")[0].text}, executor="CeleryExecutor")
    assert "needs the WorkPoolExecutor" in "".join(reading.errors.values())
