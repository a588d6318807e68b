"""The main job in a real browser: sources, heatmap, sliders, M-TIES, readouts, download, reload."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from safetensors import safe_open

from browser.driver import SLOW, idle
from mloss_core import METHODS, load

pytestmark = pytest.mark.browser


@pytest.fixture
def family(server, short, monkeypatch):
    """The demo family with few test images."""
    monkeypatch.setenv("MLOSS_MODELS", str(server.models))
    return load(short)


def go(page: Page, title: str) -> None:
    """To a page by its link in the navigation."""
    page.get_by_test_id("stTopNavLink").filter(has_text=title).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(title)


def choose_sources(page: Page, family) -> None:
    """One source out and in again; the link follows."""
    first = family.sources[0]
    pill = page.get_by_test_id("stButtonGroup").get_by_role("button", name=family.title(first))
    pill.click()
    page.wait_for_url(re.compile("sources="))
    assert first not in page.url
    pill.click()
    page.wait_for_url(lambda url: "sources=" not in url)


def press(page: Page, label: str, key: str, times: int) -> float:
    """Moves a slider by its keys; returns where it stands."""
    thumb = page.get_by_role("slider", name=label)
    for _ in range(times):
        before = thumb.input_value()
        thumb.press(key)
        expect(thumb).not_to_have_value(before)
    return float(thumb.input_value())


def linked(page: Page, name: str, value: float) -> None:
    """Waits until the link holds it."""
    page.wait_for_url(re.compile(rf"[?&]{name}={value:g}(&|$)"))


def taken(page: Page, label: str, folder) -> Path:
    """The file behind a link of that label."""
    link = page.get_by_role("link", name=re.compile(label))
    expect(link).to_be_visible()
    link.evaluate("a => a.target = ''")
    with page.expect_download() as info:
        link.click()
    path = folder / info.value.suggested_filename
    info.value.save_as(path)
    return path


def download(page: Page, folder) -> tuple[dict, set[str]]:
    """Downloads the merge that the page shows; its recipe and tensor names."""
    path = taken(page, "Download", folder)
    assert re.fullmatch(r"[\w-]+\.safetensors", path.name)
    with safe_open(path, "pt") as file:
        (text,) = file.metadata().values()
        return json.loads(text)["recipe"], set(file.keys())


def tick(page: Page, row: int) -> None:
    """Ticks, or unticks, a row of the table of runs."""
    # The table is a canvas: a header row and rows of 35 pixels, boxes to tick on the left.
    page.get_by_test_id("stDataFrame").first.click(position={"x": 18, "y": 35 * (row + 1) + 17})


def cancel(page: Page) -> None:
    """Launches again and cancels: it stops within two seconds and says so."""
    page.get_by_role("button", name="Launch merge").click()
    button = page.get_by_role("button", name="Cancel")
    expect(button).to_be_visible()
    # Not click(): that waits for the button to stand still, and it is drawn anew every second.
    button.dispatch_event("click")
    start = time.monotonic()
    expect(page.get_by_text("Cancelled: Merging")).to_be_visible()
    print(f"cancelled after {time.monotonic() - start:.2f} s")
    expect(button).to_have_count(0)


def test_the_main_job(open_page, family, tmp_path):
    page = open_page(f"/?family={family.name}")
    expect(page.get_by_text("This app measures it")).to_be_visible()
    expect(page.get_by_test_id("stDataFrame").first).to_be_visible()
    choose_sources(page, family)

    go(page, "M-Loss heatmap")
    blocks = family.model.blocks
    expect(page.get_by_text(f"{blocks} of {blocks} blocks measured in")).to_be_visible()
    page.get_by_role("radio", name="rank").or_(page.get_by_role("button", name="rank")).click()
    page.wait_for_url(re.compile("colours=rank"))
    expect(page.get_by_test_id("stPlotlyChart").first).to_be_visible()

    go(page, "Merge")
    k = press(page, "Base keep rate k", "ArrowRight", 2)
    linked(page, "keep", k)
    idle(page)
    e = press(page, "Pruning variation e", "ArrowRight", 1)
    linked(page, "variation", e)
    idle(page)
    page.get_by_role("button", name="Launch merge").click()
    page.wait_for_url(re.compile("merge_job="))
    expect(page.get_by_test_id("stMetric")).to_have_count(len(family.sources))
    page.reload()
    expect(page.get_by_test_id("stMetric")).to_have_count(len(family.sources))
    expect(page.get_by_text(re.compile("Merged in"))).to_be_visible(timeout=2 * SLOW)
    expect(page.get_by_test_id("stMetricValue").first).to_have_text(re.compile(r"\d+\.\d%"))

    idle(page)

    recipe, names = download(page, tmp_path)
    assert (recipe["method"], recipe["keep"]) == ("m-ties", pytest.approx(k))
    assert recipe["variation"] == pytest.approx(e)
    assert names and all(name.startswith("visual.") for name in names)
    cancel(page)  # 12 blocks: a tiny merge would have ended before anyone could


def stop(page: Page) -> None:
    """Cancels what works, as soon as there is something to cancel."""
    button = page.get_by_role("button", name="Cancel")
    expect(button).to_be_visible()
    button.dispatch_event("click")
    expect(button).to_have_count(0)


def test_an_experiment_is_stopped_and_goes_on_and_two_runs_are_compared(open_page, tiny, tmp_path):
    page = open_page(f"/experiments?family={tiny}&experiment=methods&samples=6")
    measure = page.get_by_role("button", name="Measure, or go on")
    measure.click()
    expect(page.get_by_text(re.compile(r"\d+ of \d+ cells"))).to_be_visible()
    stop(page)
    expect(page.get_by_text(re.compile("Cancelled: Methods"))).to_be_visible()
    idle(page)
    measure.click()
    expect(page.get_by_text("What follows", exact=True)).to_be_visible()
    # the line redraws as cells come, and the old one stays for an instant
    expect(page.get_by_text(re.compile(r"[1-9]\d* found on disk")).first).to_be_visible()
    expect(page.get_by_text(re.compile("M-TIES is .* TIES"))).not_to_have_count(0)

    for method in ("m-ties", "ties"):
        page = open_page(f"/merge?family={tiny}&method={method}&samples=6")
        page.get_by_role("button", name="Launch merge").click()
        expect(page.get_by_text(re.compile("Merged in"))).to_be_visible()
    idle(page)
    go(page, "Runs")
    expect(page.get_by_text("Tick one to see")).to_be_visible()
    idle(page)
    for row in (0, 1):
        tick(page, row)
        idle(page)
    expect(page.get_by_text("Side by side")).to_be_visible()
    expect(page.get_by_text(re.compile("istinguishable: "))).not_to_have_count(0)
    tick(page, 1)
    model = taken(page, "Download", tmp_path)
    card = taken(page, "Model card", tmp_path)
    with safe_open(model, "pt") as file:
        (text,) = file.metadata().values()
    method = json.loads(text)["recipe"]["method"]
    assert METHODS[method].title in card.read_text() and "95 %" in card.read_text()


def test_the_theory_pages_sliders(open_page, tiny):
    page = open_page(f"/theory?family={tiny}")
    exact = page.get_by_test_id("stMetricValue").first
    expect(exact).to_have_text(re.compile(r"0\.0\d+"))
    for label, name in (("Range K", "k"), ("Shift s", "s"), ("Sources q", "q")):
        idle(page)
        before = exact.inner_text()
        linked(page, f"theory_{name}", press(page, label, "ArrowRight", 1))
        expect(exact).not_to_have_text(before)
    idle(page)
    page.get_by_role("button", name="Measure this family").click()
    expect(page.get_by_text("3 of 3 blocks measured")).to_be_visible()
    expect(page.get_by_text("of the measured M-Loss")).to_be_visible()


PATHS = ["/", "/compatibility", "/heatmap", "/merge", "/experiments", "/runs", "/theory"]


@pytest.mark.parametrize("path", PATHS)
def test_dark_on_a_laptop_nothing_scrolls_sideways(open_page, gallery, path):
    size = {"width": 1280, "height": 800}
    page = open_page(f"{path}?family={gallery}", viewport=size, color_scheme="dark")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    idle(page)
    wide = "e => e.scrollWidth - e.clientWidth"
    assert page.get_by_test_id("stMain").evaluate(wide) <= 0
    assert page.locator("html").evaluate(wide) <= 0
    colour = page.get_by_test_id("stApp").evaluate("e => getComputedStyle(e).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", colour)[:3])) < 150, f"not dark: {colour}"
