#!/usr/bin/env python3
"""Takes pictures of every page of the app, light, dark and narrow, as a visitor sees them.

Starts the app on a free port with runs of its own and Debian's chromium (playwright). Without
options it renews the README's pictures in assets/; `--all FOLDER` also writes every page in every
look there, for somebody to look at. `--runs FOLDER` begins with a copy of these runs: the grid of
experts takes half an hour where it was not measured before.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
MINUTES = 15 * 60_000  # ms: how long a page may take to settle on a busy machine
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
PATHS = {
    "explore": "", "sources": "sources", "explain": "explain", "compatibility": "compatibility",
    "methods": "methods", "lab": "lab", "pad": "lab?lab_task=own pictures",
    "experiments": "experiments", "runs": "runs", "theory": "theory",
    "tour": "?tour=3",
    "lecture": "?view=lecture", "card": "", "kept": "?by=kept", "left": "?by=left",
    "blocks": "explain?explain=blocks", "experts": "experiments?experiment=experts",
}  # fmt: skip
LOOKS: dict[str, dict[str, Any]] = {
    "wide": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light"},
    "wide-dark": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark"},
    "light": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "narrow": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
    "narrow-dark": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}
TALLEST = 5000  # pixels of a picture


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture of the README.

    Args:
        name: its file in assets/, without the ending.
        height: of what is shown of the page; None for all of it.
        part: the page's element that is shown alone, as a CSS selector.
    """

    name: str
    page: str
    look: str
    height: int | None = None
    part: str | None = None


README = (
    Shown(name="app", page="explore", look="light", height=800),
    Shown(name="card", page="card", look="dark", height=800),
    Shown(name="tour", page="tour", look="light", height=800),
    Shown(name="experts", page="experts", look="light", part="[data-testid=stPlotlyChart]"),
)


@contextlib.contextmanager
def serving(folder: Path, runs: Path | None) -> Iterator[str]:
    """The app on a free port, with its runs in `folder`; gives its address.

    Args:
        runs: that it begins with; they stay as they are.
    """
    if runs is not None:
        shutil.copytree(runs, folder / "runs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless", "true"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--server.port", str(port)], cwd=ROOT, stdout=log, stderr=log,
            env=os.environ | {"MLOSS_RUNS": str(folder / "runs")},
        )  # fmt: skip
        try:
            wait_for(f"http://127.0.0.1:{port}/_stcore/health", process)
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.wait()


def wait_for(url: str, process: subprocess.Popen) -> None:
    """Returns when the server answers."""
    for _ in range(600):
        if process.poll() is not None:
            sys.exit("pictures: the app ended before it answered; start it by hand to see why")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    sys.exit("pictures: the app did not answer within two minutes")


def settle(page: Page) -> None:
    """Waits until nothing runs: neither the script nor a job, nor background measurements."""
    still = page.locator("[data-testid=stApp][data-test-script-state=notRunning]")
    page.get_by_role("heading", level=1).first.wait_for(timeout=MINUTES)
    for _ in range(2):
        still.wait_for(timeout=MINUTES)
        page.wait_for_function(
            "() => !document.querySelector('[data-testid=stSkeleton]')"
            " && !document.body.innerText.includes('measuring…')"
            " && ![...document.querySelectorAll('button')].some(b => b.innerText == 'Cancel')",
            timeout=MINUTES,
        )
        if page.locator(".explore").count():
            done = re.compile("nothing is recorded|kept, see")
            page.locator(".explore .status").get_by_text(done).wait_for(timeout=MINUTES)
        page.wait_for_timeout(2000)  # plotly draws after the script has ended


def taken(page: Page, height: int | None, part: str | None) -> bytes:
    """A picture of the page from its top, as high as asked or as high as it is; or of the first of
    its elements that `part` selects."""
    if part is not None:
        return page.locator(part).first.screenshot(timeout=MINUTES)
    size = page.viewport_size
    assert size is not None
    tall = page.get_by_test_id("stMain").evaluate("e => e.scrollHeight")
    tall = min(height or tall, TALLEST)
    page.set_viewport_size({"width": size["width"], "height": max(tall, size["height"])})
    page.wait_for_timeout(1500)
    picture = page.screenshot(timeout=MINUTES)
    page.set_viewport_size(size)
    return picture


def merged(page: Page, url: str) -> None:
    """Measures the sources and launches a merge, so that pages have something to show."""
    page.goto(url + "sources")
    settle(page)
    page.goto(url)
    settle(page)
    page.get_by_role("button", name="Launch and keep").click()
    page.locator(".explore .status").get_by_text("kept, see").wait_for(timeout=MINUTES)
    settle(page)


def point(page: Page) -> None:
    """Clicks a bright cell of the map, and waits for what its card draws."""
    box = page.locator(".explore canvas").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + 0.6 * box["height"])
    page.locator(".explore .card svg").wait_for(timeout=MINUTES)
    page.mouse.move(0, 0)


def experts(page: Page) -> None:
    """Measures the grid of experts, as far as it is not on disk."""
    page.get_by_role("button", name="Measure, or go on").click()
    page.get_by_text("What follows", exact=True).wait_for(timeout=4 * MINUTES)
    settle(page)


# What is done on a page before its picture is taken.
ACTS = {"card": point, "experts": experts}


def small(picture: bytes, path: Path) -> None:
    """Writes a picture with 256 colours, which plots and text do not miss, whole or not at all."""
    aside = path.with_suffix(".part")
    image = Image.open(BytesIO(picture)).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(aside, "PNG", optimize=True)
    aside.replace(path)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Starts everything, takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="every page in every look, too")
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="runs to begin with")
    given = parser.parse_args()
    folder = given.all
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("pictures: chromium is not installed (apt-get install chromium)")
    with (
        tempfile.TemporaryDirectory() as temporary,
        serving(Path(temporary), given.runs) as url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        page = browser.new_page()
        merged(page, url)
        page.close()
        wanted = {(s.page, s.look): s for s in README}
        for look, options in LOOKS.items():
            page = browser.new_page(**options)
            for name, path in PATHS.items():
                readme = wanted.get((name, look))
                if readme is None and folder is None:
                    continue
                page.goto(url + path)
                settle(page)
                if name in ACTS:
                    ACTS[name](page)
                if readme is not None:
                    picture = taken(page, readme.height, readme.part)
                    small(picture, ROOT / "assets" / f"{readme.name}.png")
                if folder is not None:
                    small(taken(page, None, None), folder / f"{name}-{look}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
