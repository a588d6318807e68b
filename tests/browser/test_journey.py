"""The main job in a real browser, on one screen: by mouse, by keyboard, from a link."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from safetensors import safe_open

from browser.driver import idle, link
from browser.explore import average, launch, linked, measured, press, settled, slider
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
    """Downloads the merge that was kept last; its recipe and tensor names."""
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
    """Launches and cancels: it stops within two seconds and says so."""
    page.get_by_role("button", name="Launch and keep").click()
    button = page.get_by_role("button", name="Cancel")
    expect(button).to_be_visible()
    # Not click(): that waits for the button to stand still, and it is drawn anew every second.
    button.dispatch_event("click")
    start = time.monotonic()
    expect(page.get_by_role("alert").filter(has_text="Cancelled: Merging")).to_be_visible()
    print(f"cancelled after {time.monotonic() - start:.2f} s")
    expect(button).to_have_count(0)


INSIDE = """() => {
  const host = [...document.querySelectorAll('*')].find(e => e.shadowRoot?.querySelector('.explore'));
  return ['canvas', '.finding', '.presets', '.sliders', '.big', '.tasks li:last-child', '.launch', '.status'].map(part => {
    const box = host.shadowRoot.querySelector(part).getBoundingClientRect();
    return [part, box.top >= 0 && box.left >= 0 && box.bottom <= innerHeight && box.right <= innerWidth && box.height > 0];
  }).filter(([, inside]) => !inside).map(([part]) => part);
}"""  # noqa: E501
# Layout shifts since the page was watched, other than those right after somebody's own click.
WATCH = """() => {
  window.shifts = [];
  new PerformanceObserver(list => window.shifts.push(...list.getEntries().map(
    e => [e.value, e.hadRecentInput, e.sources.map(s => s.node?.className || s.node?.nodeName)])))
    .observe({type: 'layout-shift'});
  window.heights = [document.querySelector('[data-testid=stMain]').scrollHeight];
  window.timer = setInterval(() => window.heights.push(
    document.querySelector('[data-testid=stMain]').scrollHeight), 50);
}"""


@pytest.mark.parametrize("size", [(1440, 900), (1280, 800)])
def test_the_whole_view_is_on_one_screen(open_page, short, size):
    page = open_page(
        f"/?family={short}", viewport=dict(zip(("width", "height"), size, strict=True))
    )
    measured(page)
    assert page.evaluate(INSIDE) == []
    main = page.get_by_test_id("stMain")
    assert main.evaluate("e => e.scrollWidth - e.clientWidth") <= 0


def test_the_main_job(open_page, family, tmp_path):
    page = open_page(f"/?family={family.name}")
    settled(page)
    choose_sources(page, family)
    settled(page)
    before = average(page)

    k = press(page, "Base keep rate k", "ArrowLeft", 8)
    e = press(page, "Pruning variation e", "ArrowRight", 2)
    linked(page, "keep", f"{k:g}")
    linked(page, "variation", f"{e:g}")
    measured(page, 80)
    assert average(page) != before
    # Paired with it image by image, though its own picture was known before the page asked.
    change = page.locator(".explore .change")
    expect(change).to_contain_text(re.compile("the setting before.*95 % interval"))
    expect(page.locator(".explore .track .ghost").first).to_be_attached()

    page.evaluate(WATCH)
    launch(page)
    shifts = [shift for shift in page.evaluate("window.shifts") if not shift[1]]
    assert shifts == [], "nothing moves because a job starts or ends"
    assert len(set(page.evaluate("window.heights"))) == 1
    recipe, names = download(page, tmp_path)
    assert (recipe["method"], recipe["keep"]) == ("m-ties", pytest.approx(k))
    assert recipe["variation"] == pytest.approx(e)
    assert names and all(name.startswith("visual.") for name in names)

    expect(page.locator(".explore .sentence")).not_to_contain_text("…")
    again = open_page(link(page))
    settled(again)
    assert average(again) == average(page)
    assert (
        again.locator(".explore .sentence").inner_text()
        == page.locator(".explore .sentence").inner_text()
    )
    for label in ("Base keep rate k", "Pruning variation e"):
        assert slider(again, label).input_value() == slider(page, label).input_value()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("dialog").get_by_text(re.compile("TIES at the same k"))).to_be_visible()
    page.keyboard.press("Escape")
    press(page, "Scaling λ", "ArrowRight", 1)
    cancel(page)  # 12 blocks: a tiny merge would have ended before anyone could


def test_by_keyboard_alone(open_page, tiny):
    page = open_page(f"/?family={tiny}&samples=6")
    settled(page)
    chart = page.locator(".explore canvas")
    for _ in range(40):  # from the top of the page, by Tab alone
        page.keyboard.press("Tab")
        if chart.evaluate("e => e.getRootNode().activeElement === e"):
            break
    for key in ("ArrowUp", "ArrowUp", "ArrowRight"):
        page.keyboard.press(key)
    page.keyboard.press(" ")
    linked(page, "blocks", "0,2")
    expect(page.locator(".explore .heard")).to_contain_text("Block 1 is not trimmed by M-Loss")
    page.keyboard.press("Enter")
    card = page.locator(".explore .card")
    expect(card.get_by_role("heading")).to_have_text(re.compile("Block 1, node"))
    expect(card.get_by_text("At a typical token the gap is")).to_be_visible()
    page.keyboard.press("Escape")
    expect(card).not_to_be_visible()
    page.keyboard.press("Control+z")
    page.wait_for_url(lambda url: "blocks=" not in url)
    slider(page, "Base keep rate k").focus()
    page.keyboard.press("ArrowRight")
    settled(page)
    page.get_by_role("button", name="Launch and keep").press("Enter")
    expect(page.locator(".explore .status")).to_contain_text("kept, see Compare")


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
    expect(page.get_by_text(re.compile(r"\d+ of \d+ cells")).first).to_be_visible()
    stop(page)
    expect(page.get_by_text(re.compile("Cancelled: Methods"))).to_be_visible()
    idle(page)
    measure.click()
    expect(page.get_by_text("What follows", exact=True)).to_be_visible()
    # the line redraws as cells come, and the old one stays for an instant
    expect(page.get_by_text(re.compile(r"[1-9]\d* found on disk")).first).to_be_visible()
    expect(page.get_by_text(re.compile("M-TIES is .* TIES"))).not_to_have_count(0)

    for method, live in (("m-ties", "on"), ("ties", "off")):
        page = open_page(f"/merge?family={tiny}&method={method}&samples=6&live={live}")
        launch(page)
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
        linked(page, f"theory_{name}", f"{press(page, label, 'ArrowRight', 1):g}")
        expect(exact).not_to_have_text(before)
    idle(page)
    page.get_by_role("button", name="Measure this family").click()
    expect(page.get_by_text("3 of 3 blocks measured")).to_be_visible()
    expect(page.get_by_text("of the measured M-Loss")).to_be_visible()


PATHS = ["/", "/sources", "/explain", "/compatibility", "/experiments", "/runs", "/theory"]


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
