# SPDX-License-Identifier: Apache-2.0
"""What must hold on every page: for all eyes and screens, for those who may only look, and whatever text it shows."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Request, expect

from tests.browser.scenes import PROBE, markup_everywhere
from tests.browser.site import LIST, PART, POOL, Site, picture, row, screens, serious_faults

pytestmark = [pytest.mark.airflow, pytest.mark.browser, pytest.mark.postgres]

SMALL, LARGE = {"width": 360, "height": 1000}, {"width": 3840, "height": 2160}


def test_every_page_is_for_small_and_large_screens_and_for_the_dark(site: Site) -> None:
    page = site.page(LIST, scheme="dark")
    wide = "document.documentElement.scrollWidth - innerWidth"
    for screen in screens(site):
        page.set_viewport_size(SMALL)
        screen.open(site, page)
        assert "dark" in (page.locator("html").get_attribute("class") or "")
        assert page.evaluate(wide) <= 0, f"{screen.name}: 360 px"
        assert serious_faults(page, PART) == [], f"{screen.name}: 360 px, in the dark"
        if screen.name == "queues":
            picture(page, "small-and-dark")
        page.set_viewport_size(LARGE)
        assert page.evaluate(wide) <= 0, f"{screen.name}: 3840 px"
        box = page.locator(PART).first.bounding_box()
        assert box is not None
        assert box["width"] > LARGE["width"] / 3, f"{screen.name}: 3840 px"


def test_who_may_only_look_finds_nothing_to_press(site: Site) -> None:
    page = site.page(LIST, role="VIEWER")
    harmless = re.compile(r"Details of job|Hide|Next page|Undo")
    for screen in screens(site):
        screen.open(site, page)
        buttons = page.locator(PART).locator("button:enabled:not([role=tab])")
        names = [button.get_attribute("aria-label") or button.inner_text() for button in buttons.all()]
        assert [name for name in names if not harmless.search(name)] == [], screen.name
    site.go(page, POOL)
    expect(page.get_by_role("checkbox", name="Queue low delivers jobs")).to_be_disabled()
    # And the button is not all that stands before it.
    answer = page.request.post("/workpools/api/v1/pools/etl/pause")
    assert answer.status == 403


def test_everything_on_a_page_is_reached_with_the_keyboard(site: Site) -> None:
    page = site.page(POOL, own=True)
    expect(row(page, "low")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("Slots in use"))).to_be_visible()
    missed = page.locator(PART).evaluate(
        """part => {
            const those = 'a[href], button:enabled, input:enabled, select:enabled, textarea:enabled, [tabindex="0"]';
            window.missed = new Set([...part.querySelectorAll(those)].filter(one => one.tabIndex >= 0));
            return window.missed.size;
        }"""
    )
    assert missed > 20
    page.get_by_role("link", name="Work pools", exact=True).first.focus()
    for _ in range(missed):
        page.evaluate("window.missed.delete(document.activeElement)")
        page.keyboard.press("Tab")
    left = page.evaluate("[...window.missed].map(one => one.outerHTML.slice(0, 200))")
    assert left == []

    page.get_by_role("tab", name="queues").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_url(re.compile("tab=jobs"))
    expect(page.get_by_role("tab", name="jobs")).to_be_focused()
    # A key that comes before the tab has changed would count from the old one.
    expect(page.get_by_role("tab", name="jobs", selected=True)).to_be_focused()
    expect(page.get_by_role("region", name="Jobs of etl")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("tab", name="queues", selected=True)).to_be_focused()
    switch = page.get_by_role("checkbox", name="Queue low delivers jobs")
    switch.press("Space")
    question = page.get_by_role("alertdialog")
    expect(question.get_by_role("button", name="Keep as it is")).to_be_visible()
    page.keyboard.press("Escape")
    expect(question).to_have_count(0)
    expect(switch).to_be_focused()
    expect(switch).to_be_checked()


class Listener:
    """Notes what a page asks the pool API, and what the answers weigh."""

    def __init__(self, page: Page) -> None:
        self.sizes: list[int] = []
        self.asked = 0
        self._page, self._open = page, 0
        page.on("request", self._asks)
        page.on("requestfinished", self._has)
        page.on("requestfailed", self._has_not)

    def _ours(self, request: Request) -> bool:
        return "/workpools/api" in request.url

    def _asks(self, request: Request) -> None:
        self.asked += self._ours(request)
        self._open += self._ours(request)

    def _has(self, request: Request) -> None:
        if self._ours(request):
            self._open -= 1
            self.sizes.append(request.sizes()["responseBodySize"])

    def _has_not(self, request: Request) -> None:
        self._open -= self._ours(request)

    def pass_seconds(self, seconds: int) -> int:
        """Let time pass for the page; return how often it asked."""
        self.sizes, self.asked = [], 0
        for _ in range(seconds):
            self._page.clock.fast_forward(1000)
            while self._open:
                self._page.wait_for_timeout(5)
        return self.asked


def test_an_open_page_asks_for_little_at_most_once_in_two_seconds(site: Site) -> None:
    # Its clock is ours, so that nobody waits.
    page = site.new_page()
    page.clock.install()
    listener = Listener(page)
    page.goto(LIST)
    told = {}
    for screen in screens(site):
        screen.open(site, page)
        asked = listener.pass_seconds(12)
        told[screen.name] = asked, max(listener.sizes)
        assert 1 <= asked <= 6, told
        # As Airflow's server sends it, which packs it.
        assert max(listener.sizes) <= 8_000, told
    print(f"requests in 12 s, and bytes of the largest: {told}")
    page.evaluate(
        "() => { Object.defineProperty(document, 'hidden', {configurable: true, get: () => true});"
        " document.dispatchEvent(new Event('visibilitychange')) }"
    )
    assert listener.pass_seconds(12) == 0


def test_markup_is_shown_as_it_is_wherever_somebody_can_write(site: Site) -> None:
    pool = markup_everywhere(site.airflow, "quick")
    page = site.page(LIST)
    seen = {}
    for screen in screens(site, pool, dag_id="quick"):
        if screen.name == "task":
            site.go(page, site.task("quick", "done", None))
            expect(page.get_by_text(PROBE).first).to_be_visible()
        else:
            screen.open(site, page)
        if screen.name in ("template", "job"):
            expect(page.get_by_role("region", name="Rendered job")).to_be_visible()
        seen[screen.name] = page.locator(PART).evaluate(
            "(part, probe) => part.innerText.split(probe).length - 1", PROBE[:40]
        )
        assert page.locator("img[src=x]").count() == 0, screen.name
        assert page.title() != "hacked", screen.name
    assert not [name for name, times in seen.items() if times == 0], seen
    # In what asks before it acts, and in the forms.
    site.go(page, f"{LIST}/{pool}?tab=workers")
    page.get_by_role("button", name="Drain").click()
    expect(page.get_by_role("alertdialog")).to_contain_text(PROBE)
    site.go(page, f"{LIST}/{pool}")
    page.get_by_role("button", name="Edit queue low").click()
    expect(page.get_by_role("dialog").get_by_label("Description")).to_have_value(PROBE)
    assert page.locator("img[src=x]").count() == 0
    assert page.title() != "hacked"
