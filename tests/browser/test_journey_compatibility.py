"""Compatibility of three sources in a real browser: asked before merging, then merged and seen."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from browser.driver import idle, link

pytestmark = pytest.mark.browser


def measured(page: Page, words: str) -> None:
    """The maps of that many sources are whole."""
    expect(page.get_by_text(re.compile(words))).to_be_visible()
    idle(page)


def test_three_sources_are_asked_about_then_merged_and_sent_on(open_page):
    page = open_page("/compatibility?family=contrast&samples=16")
    measured(page, r"5 sources, sum over 12 of 12 blocks")
    pills = page.get_by_test_id("stButtonGroup").filter(has_text="Sources in question")
    for fast in pills.get_by_role("button").filter(has_text="fast").all():
        fast.click()
        idle(page)
    measured(page, r"3 sources, sum over 12 of 12 blocks")
    leave = page.get_by_text(re.compile("^Leaving out .* lowers"))
    expect(leave.first).to_contain_text("other")
    named = page.get_by_label(re.compile("^M-Loss of each pair of sources, 12 blocks"))
    expect(named.locator(".yaxislayer-above text")).to_have_count(3)

    page.get_by_role("button", name="Merge them and see").click()
    expect(page.get_by_text(re.compile("3 pairs.*nothing can be said"))).to_be_visible()
    drops = page.get_by_label(re.compile("^Accuracy lost by every merged set"))
    expect(drops.locator(".point")).to_have_count(4)  # three pairs, and all three

    again = open_page(link(page))
    measured(again, r"3 sources, sum over 12 of 12 blocks")
    expect(again.get_by_text(re.compile("3 pairs.*nothing can be said"))).to_be_visible()
