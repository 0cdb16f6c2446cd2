# SPDX-License-Identifier: Apache-2.0
"""What people do on the pages of work pools, in a real Chromium, on a real Airflow whose tasks run and wait.

The tests are in the order of their file: what one changes, the next ones find changed.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from airflow_workpools import __version__
from airflow_workpools.store.records import WorkerKind
from airflow_workpools.worker.http_client import HttpClient
from tests.browser.site import LIST, PART, POOL, Site, confirm, picture, pool_row, row, serious_faults
from tests.store.rigs import new_worker

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Route

pytestmark = [pytest.mark.airflow, pytest.mark.browser, pytest.mark.postgres]


def test_browse_leads_to_all_pools_as_they_are(site: Site) -> None:
    page = site.page("/")
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="Work pools").click()
    page.wait_for_url(re.compile(f"{LIST}$"))

    etl = pool_row(page, "etl")
    expect(etl).to_contain_text("ready", ignore_case=True)
    expect(etl.get_by_role("meter")).to_have_attribute("aria-valuetext", re.compile(r"[34] of 10"))
    expect(pool_row(page, "elsewhere")).to_contain_text("workpools worker start --pool elsewhere")
    torn = pool_row(page, "torn")
    expect(torn).to_contain_text("invalid", ignore_case=True)
    expect(torn).to_contain_text("concurrency_limit must be a whole number")
    expect(pool_row(page, "declared")).to_be_visible()
    drawn = etl.get_by_role(
        "img", name=re.compile("Slots in use in etl over the last hour: .* at most [1-9]")
    )
    expect(drawn).to_be_visible()
    assert serious_faults(page, PART) == []
    picture(page, "work-pools")


def test_a_queue_is_paused_by_its_switch_and_resumed(site: Site) -> None:
    page = site.page(POOL)
    low = row(page, "low")
    expect(low).to_contain_text("ready", ignore_case=True)
    expect(page.get_by_role("img", name=re.compile("Slots in use, by queue.*limit 10"))).to_be_visible()
    assert serious_faults(page, PART) == []
    picture(page, "work-pool")

    low.locator("label").click()
    expect(page.get_by_role("alertdialog")).to_be_visible()
    assert serious_faults(page, "[role=alertdialog]") == []
    confirm(page, "Pause")
    expect(low).to_contain_text("paused", ignore_case=True)
    (found,) = site.airflow.rows("select paused from workpool_queue where pool = 'etl' and name = 'low'")
    assert found["paused"]

    low.locator("label").click()
    confirm(page, "Resume")
    expect(low).not_to_contain_text("paused", ignore_case=True)


def test_a_queue_is_dragged_to_the_priority_of_another(site: Site) -> None:
    page = site.page(POOL)
    row(page, "low").drag_to(row(page, "critical"))
    expect(
        page.get_by_text("low has priority 1 now. To make room, critical moved from 1 to 2,")
    ).to_be_visible()
    expect(_priorities(page).nth(1)).to_contain_text("low")
    answer = page.request.get("/workpools/api/v1/pools/etl/queues").json()
    assert [(queue["name"], queue["priority"]) for queue in answer["queues"]] == [
        ("low", 1),
        ("critical", 2),
        ("default", 3),
        ("high", 5),
    ]


def test_a_priority_is_also_a_number_in_a_form(site: Site) -> None:
    page = site.page(POOL)
    page.get_by_role("button", name="Edit queue low").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    assert serious_faults(page, "[role=dialog]") == []
    dialog.get_by_label(re.compile("^Priority")).fill("2")
    expect(dialog.get_by_text("critical has 2: it will move to 3")).to_be_visible()
    dialog.get_by_label(re.compile("^Priority")).fill("10")
    dialog.get_by_role("button", name="Save").click()
    expect(page.get_by_text("low has priority 10 now.")).to_be_visible()
    expect(_priorities(page).last).to_contain_text("low")


def test_a_queue_is_added_and_deleted(site: Site) -> None:
    page = site.page(POOL)
    page.get_by_role("button", name="Add queue").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("high")
    dialog.get_by_role("button", name="Add").click()
    expect(dialog.get_by_text(re.compile("high.* exists|already"))).to_be_visible()
    dialog.get_by_label("Name").fill("spare")
    dialog.get_by_label("Job variables").fill('{"nice": 3}')
    dialog.get_by_role("button", name="Add").click()
    spare = row(page, "spare")
    expect(spare).to_contain_text("ready", ignore_case=True)
    answer = page.request.get("/workpools/api/v1/pools/etl").json()
    (added,) = [queue for queue in answer["queues"] if queue["name"] == "spare"]
    assert added["job_variables"] == {"nice": 3}
    spare.get_by_role("button", name="Delete").click()
    confirm(page, "Delete")
    expect(spare).to_have_count(0)


def _priorities(page: Page) -> Locator:
    return page.get_by_role("region", name="Work queues of etl").get_by_role("row")


def test_a_pool_that_is_declared_elsewhere_says_where(site: Site) -> None:
    page = site.page(f"{LIST}/declared")

    expect(page.get_by_text(re.compile("read-only here.*AIRFLOW_CONN_DECLARED"))).to_be_visible()
    expect(page.get_by_role("button", name="Edit", exact=True)).to_be_disabled()
    page.get_by_role("button", name="Pause", exact=True).click()
    confirm(page, "Pause")
    expect(page.get_by_text("paused", exact=True).first).to_be_visible()
    page.get_by_role("button", name="Resume", exact=True).click()
    confirm(page, "Resume")


def test_a_pool_that_is_invalid_says_why_and_is_mended(site: Site) -> None:
    page = site.page(f"{LIST}/torn")
    expect(page.get_by_text(re.compile("concurrency_limit must be a whole number")).first).to_be_visible()
    expect(page.get_by_text("No work queues can be shown")).to_be_visible()
    page.get_by_role("button", name="Edit", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Concurrency limit").fill("5")
    dialog.get_by_role("button", name="Save").click()
    expect(row(page, "default", "Work queues of torn")).to_contain_text("ready", ignore_case=True)


def test_the_tab_of_a_task_says_why_it_waits_until_a_higher_limit_frees_it(site: Site) -> None:
    waiting = _waiting(site)
    task = site.page(site.task("hourly_reports", index=waiting))
    expect(task.get_by_text("It waits at gate queue limit")).to_be_visible()
    expect(task.get_by_text(re.compile("1 of 1 slot")).first).to_be_visible()
    expect(task.get_by_text("What would free it:")).to_be_visible()
    assert serious_faults(task, PART) == []
    picture(task, "why-it-waits")

    page = site.page(POOL, own=True)
    page.get_by_role("button", name="Edit queue high").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Concurrency limit").fill("3")
    dialog.get_by_role("button", name="Save").click()
    expect(row(page, "high").get_by_role("meter")).to_have_attribute("aria-valuetext", re.compile("of 3"))

    # Nobody loads the page anew.
    expect(task.get_by_text("It runs")).to_be_visible(timeout=60_000)
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


def test_jobs_are_filtered_and_lead_to_their_tasks(site: Site) -> None:
    page = site.page(f"{POOL}?tab=jobs&state=succeeded")
    jobs = page.get_by_role("region", name="Jobs of etl")
    link = jobs.get_by_role("link", name="quick.done")
    expect(link).to_be_visible()
    expect(jobs.get_by_role("link", name=re.compile("backfill"))).to_have_count(0)
    page.get_by_role("textbox", name="DAG").fill("customer_facts")
    page.keyboard.press("Enter")
    expect(link).to_have_count(0)
    expect(jobs.get_by_role("link", name="customer_facts.refresh").first).to_be_visible()
    page.get_by_role("button", name="Next page").click()
    expect(page.get_by_text("page 2")).to_be_visible()
    page.get_by_label("Queue").select_option("high")
    expect(page.get_by_text("page 1")).to_be_visible()
    expect(jobs.get_by_role("cell", name="critical", exact=True)).to_have_count(0)

    site.go(page, f"{POOL}?tab=jobs")
    page.get_by_label("State").select_option("failed")
    expect(jobs.get_by_text("the process ended with 1").first).to_be_visible()
    page.get_by_label("State").select_option("running")
    expect(jobs.get_by_role("link", name="backfill.load[0]")).to_be_visible()
    page.get_by_role("button", name=re.compile("Details of job")).first.click()
    expect(page.get_by_role("heading", name="Rendered job")).to_be_visible()
    assert serious_faults(page, PART) == []
    picture(page, "jobs")

    backfill = jobs.get_by_role("row").filter(has_text="backfill.load[0]")
    expect(backfill.get_by_role("link", name="Why")).to_have_attribute("href", re.compile("plugin/workpool$"))
    backfill.get_by_role("link", name="Log").click()
    page.wait_for_url(re.compile(r"/dags/backfill/runs/.+/tasks/load/mapped/0\?try_number=1"))


def test_a_job_is_cancelled_after_a_question(site: Site) -> None:
    page = site.page(f"{POOL}?tab=jobs&state=running&dag_id=backfill&queue=low")
    page.get_by_role("button", name=re.compile("Details of job")).first.click()
    page.get_by_role("button", name="Cancel job").click()
    confirm(page, "Cancel job")

    wished = site.airflow.rows("select reason from workpool_job where desired_state = 'cancelled'")
    assert [job["reason"].startswith("cancelled by") for job in wished] == [True]


def test_a_template_says_what_is_wrong_in_its_line_and_shows_the_job_while_one_types(site: Site) -> None:
    page = site.page(f"{POOL}?tab=template")
    editor = page.get_by_label(re.compile("Base job template"))
    expect(editor).to_have_value(re.compile("job_configuration"))
    rendered = page.get_by_role("region", name="Rendered job")
    expect(rendered).to_be_visible()
    page.get_by_label("nice").fill("7")
    expect(rendered).to_contain_text('"nice": 7')
    expect(row(page, "nice", "Variables")).to_contain_text("task")
    assert serious_faults(page, PART) == []
    picture(page, "template")

    right = editor.input_value()
    editor.fill(right.replace("{{ env }}", "{{ evn }}"))
    line = next(n for n, text in enumerate(right.splitlines(), 1) if "{{ env }}" in text)
    expect(page.get_by_text(re.compile(f"Line {line}: .*evn"))).to_be_visible()
    expect(page.get_by_role("button", name="Save template")).to_be_disabled()

    editor.fill(right.replace('"{{ working_dir }}"', '"/srv/etl"'))
    expect(row(page, "/working_dir", "Fields of the job configuration")).to_contain_text("locked")
    page.get_by_role("button", name="Save template").click()
    confirm(page, "Save")
    expect(page.get_by_role("button", name="Back to the type's default")).to_be_enabled()
    page.get_by_role("button", name="Back to the type's default").click()
    confirm(page, "Use the default")
    expect(editor).to_have_value(right)


def test_a_token_lets_a_worker_in_which_is_drained_and_no_more_when_it_is_revoked(site: Site) -> None:
    page = site.page(f"{LIST}/elsewhere?tab=tokens")
    page.get_by_role("button", name="Make token").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Description").fill("rack 7")
    assert serious_faults(page, "[role=dialog]") == []
    dialog.get_by_role("button", name="Make token").click()
    token = page.get_by_role("region", name="The token").inner_text()
    page.get_by_role("button", name="I have it").click()
    expect(page.get_by_text("rack 7")).to_be_visible()
    assert token not in page.content()
    assert serious_faults(page, PART) == []

    client = HttpClient(
        site.airflow.local.api.url,
        token,
        kinds=frozenset({"process"}),
        pools=("elsewhere",),
        queues=None,
        timeout_seconds=20,
    )
    now = datetime.now(timezone.utc)
    worker = new_worker(
        name="rack-7",
        kind=WorkerKind.STANDALONE,
        pools=("elsewhere",),
        slots=4,
        version=__version__,
        heartbeat_seconds=60.0,
    )
    client.register(worker, now=now)
    page.get_by_role("tab", name="workers").click()
    listed = row(page, "rack-7", "Workers of elsewhere")
    expect(listed).to_contain_text("online", ignore_case=True)
    expect(listed).to_contain_text(__version__)
    expect(listed.get_by_role("meter")).to_have_attribute("aria-valuetext", "0 of 4")
    assert serious_faults(page, PART) == []
    listed.get_by_role("button", name="Drain").click()
    confirm(page, "Drain")
    expect(listed).to_contain_text("draining", ignore_case=True)
    assert client.heartbeat(worker.id, hindered={}, now=now).value == "draining"
    listed.get_by_role("button", name="Resume").click()
    confirm(page, "Resume")
    expect(listed).to_contain_text("online", ignore_case=True)
    client.stop(worker.id, now=now)
    expect(page.get_by_text("No worker serves this pool")).to_be_visible()
    page.get_by_text("Also those that have stopped").click()
    expect(listed).to_contain_text("stopped", ignore_case=True)

    page.get_by_role("tab", name="tokens").click()
    page.get_by_role("button", name="Revoke").click()
    confirm(page, "Revoke")
    expect(page.get_by_text("revoked", exact=True)).to_be_visible()


def test_a_pool_is_created_edited_and_deleted_with_the_keyboard(site: Site) -> None:
    page = site.page(LIST)
    button = page.get_by_role("button", name="Create work pool")
    expect(button).to_be_enabled()
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    name = dialog.get_by_label("Name")
    expect(dialog).to_be_visible()
    assert serious_faults(page, "[role=dialog]") == []
    name.press_sequentially("new pool")
    page.keyboard.press("Enter")
    # A name that can't be: the form says so, and nothing typed is lost.
    expect(dialog.get_by_text(re.compile("new pool"))).to_be_visible()
    name.fill("brand-new")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/plugin/workpools/brand-new"))

    edit = page.get_by_role("button", name="Edit", exact=True).first
    edit.press("Enter")
    variables = dialog.get_by_label("Job variables")
    variables.fill('{"env": {"STAGE": "prod"}}')
    dialog.get_by_label("Description").press("Enter")
    expect(dialog).to_have_count(0)
    expect(edit).to_be_focused()
    answer = page.request.get("/workpools/api/v1/pools/brand-new")
    assert answer.json()["job_variables"] == {"env": {"STAGE": "prod"}}

    delete = page.get_by_role("button", name="Delete", exact=True).first
    delete.press("Enter")
    question = page.get_by_role("alertdialog")
    expect(question).to_be_visible()
    page.keyboard.press("Escape")
    expect(question).to_have_count(0)
    expect(delete).to_be_focused()
    delete.press("Enter")
    question.get_by_role("button", name="Delete").press("Enter")
    page.wait_for_url(re.compile("/plugin/workpools$"))
    expect(pool_row(page, "etl")).to_be_visible()
    expect(page.get_by_role("link", name="brand-new")).to_have_count(0)


def test_the_dashboard_shows_pools_at_a_glance(site: Site) -> None:
    page = site.page("/")
    panel = page.get_by_role("region", name="Work pools", exact=True)
    expect(panel).to_contain_text(re.compile(r"\d of \d pools ready"))
    expect(panel.get_by_role("link", name="etl")).to_be_visible()
    assert serious_faults(page, PART) == []
    panel.scroll_into_view_if_needed()
    picture(page, "dashboard")


def test_a_server_that_does_not_answer_is_told(site: Site) -> None:
    page = site.new_page()
    page.clock.install()  # its clock is ours, so that nobody waits
    page.goto(LIST)
    expect(pool_row(page, "etl")).to_be_visible()
    page.route("**/workpools/api/**", lambda route: route.abort())
    page.clock.fast_forward(5_000)
    expect(page.get_by_text(re.compile("does not answer.*as old as the last answer"))).to_be_visible()
    expect(pool_row(page, "etl")).to_be_visible()
    # A page that is opened meanwhile has nothing old to show.
    site.go(page, POOL)
    expect(page.get_by_text(re.compile("does not answer; it is asked again"))).to_be_visible()
    page.unroute("**/workpools/api/**")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_text(re.compile("does not answer"))).to_have_count(0)
    expect(row(page, "low")).to_be_visible()


def test_what_is_not_there_is_told(site: Site) -> None:
    page = site.page(f"{LIST}/nosuch")
    expect(page.get_by_text(re.compile("there is no work pool 'nosuch'|nosuch"))).not_to_have_count(0)
    site.go(page, f"{LIST}/narrow?tab=jobs&state=failed")
    expect(page.get_by_text("None that the filter lets through.")).to_be_visible()
    site.go(page, f"{LIST}/narrow?tab=tokens")
    expect(page.get_by_text("No tokens open this pool")).to_be_visible()
    # Until there is an answer, that is to be seen and heard.
    held: list[Route] = []
    page.route("**/workpools/api/**", lambda route: held.append(route))
    site.go(page, LIST)
    expect(page.get_by_role("status", name="Loading")).to_be_visible()
    for route in held:
        route.continue_()
    page.unroute("**/workpools/api/**")
    expect(pool_row(page, "etl")).to_be_visible()
