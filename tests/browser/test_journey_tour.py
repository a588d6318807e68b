"""The guided tour in a real browser: all of it, left and resumed, and a step's link sent on."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from browser.driver import idle
from browser.explore import launch
from views.shared import nav
from views.state import tour_steps

pytestmark = pytest.mark.browser
HEADINGS = {**nav.TITLES, "explore": re.compile(r"models: base")}


def arrived(page: Page, number: int) -> None:
    """The step's page is open, its panel above it, and the link says so."""
    step = tour_steps.STEPS[number - 1]
    expect(
        page.get_by_text(f"Step {number} of {len(tour_steps.STEPS)} · {step.title}")
    ).to_be_visible()
    expect(page.get_by_role("heading", level=1).first).to_have_text(HEADINGS[step.page])
    page.wait_for_url(re.compile(rf"[?&]tour={number}(&|$)"))
    idle(page)


def press(page: Page, name: str) -> None:
    """Presses a button from the keyboard: everything must be reachable with it."""
    button = page.get_by_role("button", name=name, exact=True)
    button.focus()
    button.press("Enter")


def answered(page: Page, number: int) -> None:
    """The answer is folded away until somebody opens it."""
    panel, step = page.locator(".st-key-tour"), tour_steps.STEPS[number - 1]
    start = re.split(r"[*\[:]", step.answer)[0][:30]
    answer = panel.get_by_text(start)
    expect(answer).not_to_be_visible()
    panel.get_by_text(step.question).click()
    expect(answer).to_be_visible()


def test_the_whole_tour_left_and_resumed(open_page, tiny):
    page = open_page(f"/?family={tiny}")
    press(page, "Tour")
    for number in range(1, len(tour_steps.STEPS) + 1):
        arrived(page, number)
        if number in (1, 3):
            answered(page, number)
        if number == 5:
            launch(page)
            press(page, "Leave")
            expect(page.locator(".st-key-tour")).to_have_count(0)
            page.wait_for_url(re.compile("tour=left-5"))
            page.reload()
            press(page, "Resume tour at step 5")
            arrived(page, 5)
            expect(page.locator(".explore .status")).to_contain_text("kept, see Compare")
        if number < len(tour_steps.STEPS):
            press(page, "Next")
    press(page, "Back")
    arrived(page, len(tour_steps.STEPS) - 1)


def test_a_steps_link_opens_what_the_teacher_saw(open_page, tiny):
    teacher = open_page(f"/?family={tiny}&tour=6&view=lecture")
    arrived(teacher, 6)
    thumb = teacher.get_by_role("slider", name="Pruning variation e")
    before = thumb.input_value()
    thumb.press("ArrowRight")
    assert thumb.input_value() != before
    teacher.wait_for_url(re.compile("variation="))
    idle(teacher)
    link = teacher.url.split("/", 3)[3]
    pupil = open_page(f"/{link}")
    arrived(pupil, 6)
    same = pupil.get_by_role("slider", name="Pruning variation e")
    expect(same).to_have_value(thumb.input_value())
    expect(pupil.get_by_role("button", name="Full view")).to_be_visible()
    expect(pupil.get_by_text("Released code and controls")).to_have_count(0)
