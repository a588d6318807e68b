"""A server for looking in a real browser: the one screen shows itself and says why it is still."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from browser.driver import Server, Watch, idle, running
from tiny import write_family

pytestmark = pytest.mark.browser
LOOKING = "This server is for looking (MLOSS_MODE=view): nothing is begun or changed here."


@pytest.fixture
def looking(tmp_path) -> Iterator[Server]:
    write_family(tmp_path / "models" / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOSS_MODE", "view")
        with running(tmp_path) as started:
            yield started


def test_explore_says_why_nothing_can_be_launched(chromium, looking):
    watch, context = Watch(), chromium.new_context()
    page = context.new_page()
    watch.follow(page)
    page.goto(f"{looking.url}/?family=tiny")
    launch = page.get_by_role("button", name="Launch and keep")
    expect(launch).to_be_disabled()
    expect(launch).to_have_attribute("title", LOOKING)
    expect(page.get_by_text(LOOKING)).to_be_visible()
    idle(page)
    context.close()
    assert (watch.foreign, watch.errors) == ([], [])
    assert not looking.runs.exists()
