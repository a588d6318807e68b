"""Choosing blocks in a real browser: on the map, by keyboard, from the link; then a merge."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from browser.driver import idle, link

pytestmark = pytest.mark.browser

WHERE = """([block, x]) => {
  const plot = document.querySelector('.js-plotly-plot'), drawn = plot._fullLayout;
  const box = plot.getBoundingClientRect(), left = drawn.xaxis.range[0];
  const across = x === null ? (left - 0.5) / 2 : x;
  return [box.left + drawn.xaxis._offset + drawn.xaxis.l2p(across),
          box.top + drawn.yaxis._offset + drawn.yaxis.l2p(block)];
}"""


def point(page: Page, block: int, group: int | None = None) -> None:
    """Clicks a cell of the map, or the mark of a row."""
    idle(page)
    plot = page.get_by_test_id("stPlotlyChart").first
    expect(plot.locator(".nsewdrag").first).to_be_attached()
    plot.scroll_into_view_if_needed()
    x, y = page.evaluate(WHERE, [block, group])
    page.mouse.move(x, y)
    expect(page.locator(".hoverlayer .hovertext").first).to_be_visible()  # it is listening
    page.mouse.click(x, y)


def chosen(page: Page, blocks: str, count: int) -> None:
    """Waits until the link holds these blocks, and the views show them."""
    page.wait_for_url(re.compile(rf"[?&]blocks={blocks.replace(',', '(,|%2C)')}(&|$)"))
    expect(page.get_by_test_id("stMetricValue").first).to_have_text(f"{count} of 3")
    idle(page)
    names = page.get_by_test_id("stPlotlyChart").nth(2).locator(".legendtext")
    if count > 1:  # one line has no legend
        expect(names).to_have_text([f"block {block}" for block in blocks.split(",")])


def test_blocks_are_chosen_merged_and_found_again(open_page, tiny):
    page = open_page(f"/heatmap?family={tiny}&samples=6")
    expect(page.get_by_text("3 of 3 blocks measured in")).to_be_visible()
    expect(page.get_by_test_id("stMetricValue").first).to_have_text("3 of 3")

    point(page, 1)  # its mark: away
    chosen(page, "0,2", 2)
    point(page, 1, 3)  # a cell: this block alone, and its highest node in focus
    chosen(page, "1", 1)
    page.wait_for_url(re.compile("node=1(:|%3A)(4[89]|5[0-9]|6[0-3])"))
    page.get_by_role("button", name="Undo").click()
    chosen(page, "0,2", 2)
    page.get_by_role("button", name="Redo").click()
    chosen(page, "1", 1)

    group = page.get_by_test_id("stButtonGroup").filter(has_text="Blocks with node-wise")
    pill = group.get_by_role("button", name="2", exact=True)
    pill.focus()
    page.keyboard.press("Space")
    chosen(page, "1,2", 2)
    expect(pill).to_be_focused()

    page.get_by_role("button", name="Merge with blocks 1,2").click()
    expect(
        page.get_by_text(re.compile("istinguishable: M-TIES, blocks 1,2 is .* M-TIES, all blocks"))
    ).to_be_visible()
    expect(page.get_by_text(re.compile("istinguishable: M-TIES"))).to_have_count(3)
    expect(page.get_by_text(re.compile("2 choices tried with these settings"))).to_be_visible()
    idle(page)
    frontier = page.get_by_label(re.compile("^Mean accuracy over the cost")).locator(".legendtext")
    expect(frontier.get_by_text("this choice")).to_be_visible()
    expect(frontier.get_by_text("all blocks")).to_be_visible()

    page.get_by_role("button", name="Named choices").click()
    page.get_by_label("Name for these blocks").fill("late")
    page.get_by_label("Name for these blocks").press("Enter")
    idle(page)
    page.get_by_role("button", name="Save", exact=True).click()
    page.wait_for_url(re.compile("saved=late"))
    again = open_page(link(page))
    expect(again.get_by_text("2 choices tried with these settings")).to_be_visible()
    chosen(again, "1,2", 2)
    again.get_by_role("button", name="Named choices").click()
    expect(again.get_by_role("button", name="late: 1,2")).to_be_visible()


def test_the_table_chooses_by_keyboard(open_page, tiny):
    page = open_page(f"/heatmap?family={tiny}&samples=6&blocks=0")
    expect(page.get_by_test_id("stMetricValue").first).to_have_text("1 of 3")
    page.get_by_text("The blocks as a table").click()
    table = page.get_by_test_id("stExpander").filter(has_text="The blocks as a table")
    grid = table.get_by_test_id("stDataFrame")
    expect(grid).to_be_visible()
    idle(page)
    grid.locator("canvas").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    page.wait_for_url(re.compile(r"[?&]blocks=0(,|%2C)[12]"))
