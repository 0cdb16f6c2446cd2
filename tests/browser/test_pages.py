# SPDX-License-Identifier: Apache-2.0
"""The pages of work pools in a real Chromium, on a real Airflow whose tasks run and wait.

The tests are in the order of their file: what one changes, the next ones find changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from airflow_workpools import ui
from tests.airflow.harness import ROOT
from tests.browser.conftest import PROBE, Site

pytestmark = [pytest.mark.airflow, pytest.mark.browser, pytest.mark.postgres]

LIST = f"/plugin/{ui.NAV_ROUTE}"
POOL = f"{LIST}/etl"
IMAGES = ROOT / ("docs/images" if os.environ.get("WORKPOOLS_PICTURES") else ".test/pictures")
"""Only `make pictures` makes those of the docs anew: no two look quite the same."""

Axe = Callable[..., list[str]]


def row(page: Page, name: str, table: str = "Work queues of etl") -> Locator:
    """Return the row of a table that has this word for itself."""
    rows = page.get_by_role("region", name=table, exact=True).get_by_role("row")
    return rows.filter(has=page.get_by_text(name, exact=True))


def pool_row(page: Page, name: str) -> Locator:
    return row(page, name, "Work pools")


def picture(page: Page, name: str) -> None:
    """Make a picture: one of the docs, if they are to have new ones (``make pictures``)."""
    # What moves is at rest, and nothing is under the pointer.
    page.mouse.move(0, 0)
    page.screenshot(path=IMAGES / f"{name}.png", animations="disabled")


def test_the_list_shows_all_pools_as_they_are(site: Site, axe: Axe) -> None:
    page = site.page(LIST)

    etl = pool_row(page, "etl")
    expect(etl).to_contain_text("ready", ignore_case=True)
    expect(etl.get_by_role("meter")).to_have_attribute("aria-valuetext", re.compile(r"[34] of 10"))
    expect(pool_row(page, "elsewhere")).to_contain_text("workpools worker start --pool elsewhere")
    expect(pool_row(page, "declared")).to_be_visible()
    assert axe(page, "main, #root [role=region]") == []
    picture(page, "work-pools")


def test_what_people_write_is_shown_as_it_is(site: Site) -> None:
    site.airflow.create_pool("probe", description=PROBE, queues={"low": {"description": PROBE}})
    page = site.page(LIST)
    expect(pool_row(page, "probe")).to_contain_text(PROBE)
    page.goto(f"{LIST}/probe")
    expect(page.get_by_text(PROBE)).to_have_count(2)
    assert page.title() != "hacked"
    assert page.locator("img[src=x]").count() == 0
    site.airflow.api.call("DELETE", "connections/probe")


def test_a_queue_is_paused_by_its_switch_and_resumed(site: Site, axe: Axe) -> None:
    page = site.page(POOL)
    low = row(page, "low")
    expect(low).to_contain_text("ready", ignore_case=True)
    assert axe(page, "main, #root [role=tabpanel]") == []
    picture(page, "work-pool")

    low.locator("label").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Pause").click()
    expect(low).to_contain_text("paused", ignore_case=True)
    (found,) = site.airflow.rows("select paused from workpool_queue where pool = 'etl' and name = 'low'")
    assert found["paused"]

    low.locator("label").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Resume").click()
    expect(low).not_to_contain_text("paused", ignore_case=True)


def test_who_may_only_look_can_change_nothing(site: Site) -> None:
    page = site.page(POOL, role="VIEWER")

    expect(row(page, "low")).to_be_visible()
    for name in ("Pause", "Edit", "Delete", "Add queue", "Edit queue low"):
        expect(page.get_by_role("button", name=name, exact=True).first).to_be_disabled()
    expect(page.get_by_role("checkbox", name="Queue low delivers jobs")).to_be_disabled()
    # And the button is not all that stands before it.
    answer = page.request.post("/workpools/api/v1/pools/etl/pause")
    assert answer.status == 403
    page.get_by_role("tab", name="tokens").click()
    expect(page.get_by_role("button", name="Make token")).to_be_disabled()


def test_a_pool_that_is_declared_elsewhere_says_where(site: Site) -> None:
    page = site.page(f"{LIST}/declared")

    expect(page.get_by_text(re.compile("read-only here.*AIRFLOW_CONN_DECLARED"))).to_be_visible()
    expect(page.get_by_role("button", name="Edit", exact=True)).to_be_disabled()
    expect(page.get_by_role("button", name="Pause", exact=True)).to_be_enabled()


def test_the_tab_of_a_task_says_why_it_waits_until_a_higher_limit_frees_it(site: Site, axe: Axe) -> None:
    waiting = _waiting(site)
    task = site.page(site.task("hourly_reports", index=waiting))
    expect(task.get_by_text("It waits at gate queue limit")).to_be_visible()
    expect(task.get_by_text(re.compile("1 of 1 slot")).first).to_be_visible()
    expect(task.get_by_text("What would free it:")).to_be_visible()
    assert axe(task, "[role=tabpanel], [role=region]") == []
    picture(task, "why-it-waits")

    page = site.page(POOL)
    page.get_by_role("button", name="Edit queue high").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Concurrency limit").fill("3")
    dialog.get_by_role("button", name="Save").click()
    expect(row(page, "high").get_by_role("meter")).to_have_attribute("aria-valuetext", re.compile("of 3"))

    expect(task.get_by_text("Gate running")).to_be_visible(timeout=60_000)
    expect(task.get_by_role("heading", name="Timeline")).to_be_visible()
    expect(task.get_by_text(re.compile(r"process: ")).first).to_be_visible()
    # How the job is rendered, without its secrets.
    rendered = task.get_by_label("Rendered job")
    expect(rendered).to_contain_text("API_PASSWORD")
    assert "hunter2" not in task.content()


def _waiting(site: Site) -> int:
    """Return the map index of a task that waits for the only slot of its queue."""

    def find() -> list[int]:
        tries = site.airflow.tries("hourly_reports", site.runs["hourly_reports"])
        waits = [task.map_index for task in tries if task.state in ("scheduled", "queued")]
        return waits if len(waits) == 2 else []

    found: list[int] = site.airflow.wait(find, what="two tasks to wait")
    return found[0]


def test_jobs_are_filtered_and_lead_to_their_tasks(site: Site, axe: Axe) -> None:
    page = site.page(f"{POOL}/jobs?state=succeeded")
    link = page.get_by_role("link", name="quick.done")
    expect(link).to_be_visible()
    expect(page.get_by_role("link", name=re.compile("backfill"))).to_have_count(0)

    page.get_by_label("State").select_option("running")
    expect(page.get_by_role("link", name="backfill.load[0]")).to_be_visible()
    expect(link).to_have_count(0)
    page.get_by_role("button", name=re.compile("Details of job")).first.click()
    expect(page.get_by_role("heading", name="Rendered job")).to_be_visible()
    assert axe(page, "[role=tabpanel]") == []
    picture(page, "jobs")

    page.get_by_role("link", name="backfill.load[0]").click()
    page.wait_for_url(re.compile(r"/dags/backfill/runs/.+/tasks/load/mapped/0"))


def test_a_job_is_cancelled_after_a_question(site: Site) -> None:
    page = site.page(f"{POOL}/jobs?state=running&dag_id=backfill&queue=low")
    page.get_by_role("button", name=re.compile("Details of job")).first.click()
    page.get_by_role("button", name="Cancel job").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Cancel job").click()

    expect(page.get_by_role("alertdialog")).to_have_count(0)
    wished = site.airflow.rows("select reason from workpool_job where desired_state = 'cancelled'")
    assert [job["reason"].startswith("cancelled by") for job in wished] == [True]


def test_a_template_says_what_is_wrong_in_its_line(site: Site, axe: Axe) -> None:
    page = site.page(f"{POOL}/template")
    editor = page.get_by_label(re.compile("Base job template"))
    expect(editor).to_have_value(re.compile("job_configuration"))
    expect(page.get_by_role("region", name="Rendered job")).to_be_visible()
    assert axe(page, "[role=tabpanel]") == []
    picture(page, "template")

    right = editor.input_value()
    editor.fill(right.replace("{{ env }}", "{{ evn }}"))
    line = next(n for n, text in enumerate(right.splitlines(), 1) if "{{ env }}" in text)
    expect(page.get_by_text(re.compile(f"Line {line}: .*evn"))).to_be_visible()
    expect(page.get_by_role("button", name="Save template")).to_be_disabled()


def test_a_token_is_made_shown_once_and_revoked(site: Site) -> None:
    page = site.page(f"{LIST}/elsewhere/tokens")
    page.get_by_role("button", name="Make token").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Description").fill(PROBE)
    dialog.get_by_role("button", name="Make token").click()
    expect(page.get_by_role("region", name="The token")).to_be_visible()
    page.get_by_role("button", name="I have it").click()
    expect(page.get_by_text(PROBE)).to_be_visible()
    assert page.title() != "hacked"

    page.get_by_role("button", name="Revoke").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("revoked", exact=True)).to_be_visible()


def test_a_pool_is_created_and_deleted_with_the_keyboard(site: Site) -> None:
    page = site.page(LIST)
    button = page.get_by_role("button", name="Create work pool")
    expect(button).to_be_enabled()
    button.focus()
    page.keyboard.press("Enter")
    name = page.get_by_role("dialog").get_by_label("Name")
    name.press_sequentially("new pool")
    page.keyboard.press("Enter")
    # A name that can't be: the form says so, and nothing typed is lost.
    expect(page.get_by_role("dialog").get_by_text(re.compile("new pool"))).to_be_visible()
    name.fill("brand-new")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/plugin/workpools/brand-new"))
    page.get_by_role("button", name="Delete", exact=True).first.click()
    dialog = page.get_by_role("alertdialog")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="Delete", exact=True).first.click()
    dialog.get_by_role("button", name="Delete").click()
    page.wait_for_url(re.compile("/plugin/workpools$"))
    expect(pool_row(page, "etl")).to_be_visible()
    expect(page.get_by_role("link", name="brand-new")).to_have_count(0)


def test_workers_are_listed(site: Site, axe: Axe) -> None:
    page = site.page(f"{POOL}/workers")
    expect(page.get_by_text(re.compile("embedded on"))).to_be_visible()
    expect(page.get_by_role("region", name="Workers of etl").get_by_text("online")).to_be_visible()
    assert axe(page, "[role=tabpanel]") == []


def test_the_dashboard_shows_pools_at_a_glance(site: Site, axe: Axe) -> None:
    page = site.page("/")
    panel = page.get_by_role("region", name="Work pools", exact=True)
    expect(panel).to_contain_text(re.compile(r"\d of \d pools ready"))
    expect(panel.get_by_role("link", name="etl")).to_be_visible()
    assert axe(page, "section[aria-label='Work pools']") == []
    panel.scroll_into_view_if_needed()
    picture(page, "dashboard")


@pytest.mark.parametrize("width", [360, 3840])
def test_it_fits_on_small_and_large_screens_in_the_dark(site: Site, axe: Axe, width: int) -> None:
    page = site.page(POOL, scheme="dark", width=width)
    page.evaluate("localStorage.setItem('theme', 'dark')")
    page.reload()
    expect(row(page, "low")).to_be_visible()
    assert "dark" in (page.locator("html").get_attribute("class") or "")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert axe(page, "[role=tabpanel]") == []
    if width == 360:
        picture(page, "small-and-dark")


def test_an_open_page_asks_little_and_nothing_when_nobody_looks(site: Site) -> None:
    page = site.page(POOL)
    expect(row(page, "low")).to_be_visible()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/workpools/api" in request.url else None)
    page.wait_for_timeout(6_000)
    assert 1 <= len(asked) <= 3
    page.evaluate(
        "() => { Object.defineProperty(document, 'hidden', {configurable: true, get: () => true});"
        " document.dispatchEvent(new Event('visibilitychange')) }"
    )
    page.wait_for_timeout(300)
    asked.clear()
    page.wait_for_timeout(5_500)
    assert asked == []


def test_a_server_that_does_not_answer_is_told(site: Site) -> None:
    page = site.page(LIST)
    expect(pool_row(page, "etl")).to_be_visible()
    page.route("**/workpools/api/**", lambda route: route.abort())
    expect(page.get_by_text(re.compile("does not answer.*as old as the last answer"))).to_be_visible()
    expect(pool_row(page, "etl")).to_be_visible()
    page.unroute("**/workpools/api/**")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_text(re.compile("does not answer"))).to_have_count(0)
