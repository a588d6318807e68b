"""No page has a serious accessibility fault that axe finds, in light and in dark."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from browser.driver import idle, still

pytestmark = pytest.mark.browser

SEVERE = ("serious", "critical")
# Every page, and the states in which more of it shows.
PATHS = (
    "/?family={}",
    "/sources?family={}&tour=1",
    "/compatibility?family={}",
    "/?family={}&tour=3&node=1:4",
    "/explain?family={}&tour=4",
    "/explain?family={}&explain=blocks&view=lecture",
    "/explain?family={}&explain=left&method=ties",
    "/explain?family={}&explain=alignment&method=tsv-m",
    "/explain?family={}&explain=routing&method=smile",
    "/experiments?family={}",
    "/methods?family={}&method=tsv-m",
    "/lab?family={}&lab_task=own pictures",
    "/runs?family={}",
    "/theory?family={}&tour=2",
    "/theory?family={}&keep=7",
)


def settled(page: Page) -> None:
    """Waits until the page and its jobs have done their work and everything is drawn."""
    expect(page.get_by_role("heading", level=1).first).to_be_visible()
    idle(page)
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0)
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    idle(page)
    still(page)


def faults(page: Page) -> list[str]:
    """What axe finds of serious and critical faults: their ids, targets and why."""
    violations = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{v['id']} at {node['target']}: {node['failureSummary']} {node['html'][:150]}"
        for v in violations
        if v["impact"] in SEVERE
        for node in v["nodes"]
    ]


# Every page in one look in CI, in turns light and dark; the other looks are slow.
TURNS = [
    pytest.param(path, scheme, marks=[] if (number + dark) % 2 == 0 else [pytest.mark.slow])
    for number, path in enumerate(PATHS)
    for dark, scheme in enumerate(("light", "dark"))
]


@pytest.mark.parametrize(("path", "scheme"), TURNS)
def test_axe_finds_no_serious_fault(open_page, gallery, path, scheme):
    page = open_page(
        path.format(gallery), color_scheme=scheme, viewport={"width": 1280, "height": 900}
    )
    settled(page)
    assert faults(page) == []
