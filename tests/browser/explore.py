"""The Explore view in a real browser: where its cells are, and what it shows."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect

from browser.driver import SLOW, idle

HEAD, FOOT, GUTTER, GAP = 34, 40, 44, 16  # pixels, as browser/map.js draws from 560 on


def readouts(page: Page) -> Locator:
    return page.locator(".explore .readouts")


def measured(page: Page, images: int | None = None) -> None:
    """Waits until what is shown was measured at the very setting, on so many images per task."""
    expect(readouts(page)).to_have_attribute("data-kind", "exact", timeout=2 * SLOW)
    if images is not None:
        expect(page.locator(".explore .count")).to_contain_text(f"{images} images per task")


def settled(page: Page) -> None:
    """Waits until the setting is merged and measured on all images; the map may follow later."""
    measured(page)
    expect(page.locator(".explore .status")).to_have_text(
        re.compile("nothing is recorded|kept, see")
    )


def average(page: Page) -> float:
    return float(re.findall(r"[\d.]+", page.locator(".explore .big").inner_text())[0])


def slider(page: Page, label: str) -> Locator:
    return page.get_by_role("slider", name=label)


def press(page: Page, label: str, key: str, times: int) -> float:
    """Moves a slider of the view by its keys; returns where it stands, which the link holds."""
    for _ in range(times):
        slider(page, label).press(key)
    return float(slider(page, label).input_value())


def linked(page: Page, name: str, value: str) -> None:
    """Waits until the link holds it."""
    page.wait_for_url(re.compile(rf"[?&]{name}={value.replace(',', '(,|%2C)')}(&|$)"))


def cell(page: Page, block: int, share: float, blocks: int) -> tuple[float, float]:
    """Where a block's row is on the screen, at a share of the map's width; left of it for -1."""
    box = page.locator(".explore canvas").bounding_box()
    assert box is not None
    strip = max(44, min(110, round((box["width"] - GUTTER) * 0.15)))
    width = box["width"] - GUTTER - 3 * (strip + GAP) - 6
    row = (box["height"] - HEAD - FOOT) / blocks
    x = box["x"] + (10 if share < 0 else GUTTER + share * width)
    return x, box["y"] + HEAD + (blocks - 1 - block + 0.5) * row


def click_cell(page: Page, block: int, share: float, blocks: int) -> None:
    """Clicks a cell of the map, or with -1 the number of its row."""
    page.mouse.click(*cell(page, block, share, blocks))


def launch(page: Page) -> None:
    """Launches the setting and waits until it is kept."""
    page.get_by_role("button", name="Launch and keep").click()
    page.wait_for_url(re.compile("merge_job="))
    expect(page.locator(".explore .status")).to_contain_text("kept, see Compare", timeout=2 * SLOW)
    idle(page)


def chosen(page: Page) -> str:
    """The blocks that a screen reader is told of."""
    return page.locator(".explore .heard").inner_text()
