# SPDX-License-Identifier: Apache-2.0
"""An Airflow as people see it in a browser, and the pages that they look at."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jwt
from playwright.sync_api import Page, expect

from airflow_workpools import ui
from tests.airflow.harness import ROOT, AirflowInstance

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator

PATIENCE_SECONDS = 20
LIST = f"/plugin/{ui.NAV_ROUTE}"
POOL = f"{LIST}/etl"
PICTURES = ROOT / ".test/pictures"
IMAGES = ROOT / "docs/images" if os.environ.get("WORKPOOLS_PICTURES") else PICTURES
"""Only `make pictures` makes those of the docs anew: no two look quite the same."""

_AXE = ROOT / "ui/node_modules/axe-core/axe.min.js"
_RUN_AXE = """async part => {
    // What fades in has no contrast yet.
    const ends = one => one.effect.getComputedTiming().iterations !== Infinity;
    await Promise.allSettled(document.getAnimations().filter(ends).map(one => one.finished));
    return axe.run(part, {resultTypes: ['violations']});
}"""
_GO = """async path => {
    // By way of another page, so that nothing is left of what the one before held.
    for (const to of ['/plugin/none', path]) {
        history.pushState({idx: history.length}, '', to);
        dispatchEvent(new PopStateEvent('popstate', {state: history.state}));
        await new Promise(done => setTimeout(done, 30));
    }
}"""


@dataclass
class Site:
    """An Airflow in a browser. A page stays open from one test to the next: to load Airflow's UI takes seconds."""

    airflow: AirflowInstance
    browser: Browser
    runs: dict[str, str] = field(default_factory=dict)
    _contexts: dict[Any, BrowserContext] = field(default_factory=dict)
    _pages: dict[Any, Page] = field(default_factory=dict)
    _own: list[Page] = field(default_factory=list)

    def page(self, path: str, *, role: str | None = None, scheme: Any = "light", own: bool = False) -> Page:
        """Go to a page of Airflow's.

        :param role: of who looks; None is the admin that everyone is here.
        :param own: in a window that is closed after the test.
        """
        key = (role, scheme)
        if own or key not in self._pages:
            page = self._context(role, scheme).new_page()
            page.goto(path)
            if own:
                self._own.append(page)
                return page
            self._pages[key] = page
        else:
            page = self._pages[key]
            self.go(page, path)
        return page

    def go(self, page: Page, path: str) -> None:
        """Lead a page to another address as links do."""
        page.evaluate(_GO, path)

    def new_page(self) -> Page:
        """Open an empty window that is closed after the test."""
        page = self._context(None, "light").new_page()
        self._own.append(page)
        return page

    def _context(self, role: str | None, scheme: Any) -> BrowserContext:
        key = (role, scheme)
        if key not in self._contexts:
            context = self._contexts[key] = self.browser.new_context(
                base_url=self.airflow.local.api.url,
                viewport={"width": 1440, "height": 1000},
                color_scheme=scheme,
                extra_http_headers={"Authorization": f"Bearer {self.token(role)}"} if role else {},
            )
            context.set_default_timeout(PATIENCE_SECONDS * 1000)
            # Airflow asks the browser only at the very first.
            context.add_init_script(f"localStorage.setItem('theme', '{scheme}')")
        return self._contexts[key]

    def token(self, role: str) -> str:
        """Return a login of somebody with this role."""
        now = int(time.time())
        claims = {
            "sub": f"a {role}",
            "role": role,
            "aud": "apache-airflow",
            "iat": now,
            "nbf": now,
            "exp": now + 3600,
        }
        secret = self.airflow.local.environment()["AIRFLOW__API_AUTH__JWT_SECRET"]
        return jwt.encode(claims, secret, algorithm="HS512")

    def task(self, dag_id: str, task_id: str = "load", index: int | None = 0) -> str:
        """Return the path of the tab of a task."""
        mapped = "" if index is None else f"/mapped/{index}"
        run = self.runs[dag_id]
        return f"/dags/{dag_id}/runs/{run}/tasks/{task_id}{mapped}/plugin/{ui.TASK_INSTANCE_ROUTE}"

    def tidy(self) -> None:
        """End what a test has begun."""
        while self._own:
            self._own.pop().close()


def row(page: Page, name: str, table: str = "Work queues of etl") -> Locator:
    """Return the row of a table that has this word for itself."""
    rows = page.get_by_role("region", name=table, exact=True).get_by_role("row")
    return rows.filter(has=page.get_by_text(name, exact=True))


def pool_row(page: Page, name: str) -> Locator:
    return row(page, name, "Work pools")


def picture(page: Page, name: str, *, of_docs: bool = True) -> None:
    """Make a picture: one of the docs, if they are to have new ones (``make pictures``)."""
    # What moves is at rest, and nothing is under the pointer.
    page.mouse.move(0, 0)
    page.screenshot(path=(IMAGES if of_docs else PICTURES) / f"{name}.png", animations="disabled")


def confirm(page: Page, verb: str) -> None:
    """Say yes to a question."""
    dialog = page.get_by_role("alertdialog")
    dialog.get_by_role("button", name=verb, exact=True).click()
    expect(dialog).to_have_count(0)


def serious_faults(page: Page, part: str) -> list[str]:
    """Return what axe says which serious faults of accessibility our part of a page has."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(_AXE.read_text())
    found = page.evaluate(_RUN_AXE, part)
    return [
        f"{fault['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


PART = "[data-workpools]"
"""Our part of a page."""


@dataclass(frozen=True)
class Screen:
    """A page, or a state of one."""

    name: str
    path: str
    ready: str
    """A text that is there when it shows what it has to show."""

    def open(self, site: Site, page: Page) -> None:
        site.go(page, self.path)
        expect(page.locator(PART).get_by_text(re.compile(self.ready)).first).to_be_visible()
        if self.name == "job":
            page.get_by_role("button", name=re.compile("Details of job")).first.click()
            expect(page.get_by_role("heading", name="Timeline")).to_be_visible()


def screens(site: Site, pool: str = "etl", *, dag_id: str = "backfill") -> list[Screen]:
    """Return all pages, one with a job opened."""
    at = f"{LIST}/{pool}"
    return [
        Screen("list", LIST, "^elsewhere$"),
        Screen("queues", at, "^Slots in use, by queue"),
        Screen("jobs", f"{at}?tab=jobs", "^Handed over$"),
        Screen("job", f"{at}?tab=jobs", "^Handed over$"),
        Screen("workers", f"{at}?tab=workers", "^Last heard of$"),
        Screen("template", f"{at}?tab=template", "^What a task can change$"),
        Screen("tokens", f"{at}?tab=tokens", "Workers elsewhere need one|^Last used$"),
        Screen("task", site.task(dag_id), "^Its way$"),
        Screen("dashboard", "/", "pools ready"),
    ]
