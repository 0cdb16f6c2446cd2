# SPDX-License-Identifier: Apache-2.0
"""Pages of an Airflow with 50 pools of 20 queues that have run 10,000 jobs within the hour."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.scenes import CROWD_JOBS, CROWD_POOLS, CROWD_QUEUES, a_crowd
from tests.browser.site import LIST, PART, Site, picture, row, serious_faults

pytestmark = [pytest.mark.airflow, pytest.mark.browser, pytest.mark.postgres]


def test_pages_of_many_pools_queues_and_jobs(site: Site) -> None:
    pool = a_crowd(site.airflow)
    page = site.page(LIST)
    pools = page.get_by_role("region", name="Work pools").get_by_role("row").filter(has_text="crowd-")
    expect(pools).to_have_count(CROWD_POOLS)
    picture(page, "many-pools", of_docs=False)

    page.get_by_role("link", name=pool, exact=True).click()
    label = f"Work queues of {pool}"
    expect(page.get_by_role("region", name=label).get_by_role("row")).to_have_count(1 + CROWD_QUEUES)
    chart = page.get_by_role("img", name=re.compile("Slots in use, by queue.* 11 others "))
    expect(chart).to_be_visible()
    expect(page.get_by_text("Of the 9 busiest queues; the table has all.")).to_be_visible()
    page.get_by_label("Wait times shown").select_option("p50")
    expect(page.get_by_role("img", name=re.compile("Wait for a slot, median"))).to_be_visible()
    with page.expect_response(re.compile("window=24h")):
        page.get_by_label("Time shown").select_option("24h")
    expect(chart).to_be_visible()
    assert serious_faults(page, PART) == []
    chart.scroll_into_view_if_needed()
    picture(page, "many-queues", of_docs=False)

    page.get_by_role("tab", name="jobs").click()
    jobs = page.get_by_role("region", name=f"Jobs of {pool}").get_by_role("row")
    expect(jobs).to_have_count(1 + 25)
    seen: set[str] = set()
    per_pool = CROWD_JOBS // CROWD_POOLS
    for number in range(1, per_pool // 25 + 1):
        expect(page.get_by_text(f"page {number}", exact=True)).to_be_visible()
        expect(jobs).to_have_count(1 + 25)
        shown = page.get_by_role("button", name=re.compile("Details of job"))
        seen |= {str(one.get_attribute("aria-label")) for one in shown.all()}
        more = page.get_by_role("button", name="Next page")
        if number < per_pool // 25:
            with page.expect_response(re.compile(r"/jobs\?.*cursor=")):
                more.click()
    assert len(seen) == per_pool
    expect(more).to_be_disabled()
    page.get_by_label("Queue").select_option("queue-07")
    expect(jobs).to_have_count(1 + per_pool // CROWD_QUEUES)
    expect(row(page, "queue-07", f"Jobs of {pool}")).to_have_count(per_pool // CROWD_QUEUES)
