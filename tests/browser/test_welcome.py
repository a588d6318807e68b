"""Links without a family: the demo. Last in this folder, by its name.

Opening the demo begins a minute of idle work, which ends with the server: nothing comes after it.
"""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from browser.test_journey_tour import arrived, press
from mloss_core import load

pytestmark = pytest.mark.browser


def test_a_first_visit_sees_the_demo_family(open_page):
    page = open_page("/")
    expect(page.locator(".explore .big")).to_have_text(re.compile(r"8\d\.\d %"))
    expect(page.locator(".explore .finding")).to_contain_text("of the M-Loss")
    demo = load("demo")
    pills = page.get_by_test_id("stButtonGroup")
    for source in demo.sources:
        expect(pills.get_by_role("button", name=demo.title(source), exact=True)).to_be_visible()


def test_on_a_phone_a_short_link_opens_its_step_and_nothing_scrolls_sideways(open_page):
    page = open_page("/?tour=5", viewport={"width": 390, "height": 844})
    arrived(page, 5)
    wide = "e => e.scrollWidth - e.clientWidth"
    assert page.get_by_test_id("stMain").evaluate(wide) <= 0
    assert page.locator("html").evaluate(wide) <= 0
    press(page, "Reset")
    expect(page.locator(".st-key-tour")).to_have_count(0)
    page.wait_for_url(lambda url: "tour=" not in url)
