"""Times the live merge in chromium: from a control's release to "merged", and to readouts.

Prints a Markdown table and writes nothing. Each move comes as soon as the readouts of the one
before it are there, so that it also waits for the work that it replaces.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
from typing import Any

from bench_app import BROWSER, FLAGS, PATIENCE, server
from timing import ROOT

# Seconds by the page's own clock, from the event to the change of its text. A former setting's text
# has another first line.
WATCH = """() => {
  const text = () => document.querySelector('[role=status]')?.innerText ?? '';
  window.watched = kind => new Promise(done => {
    const former = text().split('\\n')[0];
    let start = null, merged = null;
    addEventListener(kind, () => { start = performance.now(); }, {capture: true, once: true});
    const look = () => {
      const now = text();
      if (start === null || now.split('\\n')[0] === former) return;
      if (merged === null && now.includes('merged in')) merged = performance.now() - start;
      if (!now.includes('measured on')) return;
      observer.disconnect();
      done([merged / 1000, (performance.now() - start) / 1000]);
    };
    const observer = new MutationObserver(look);
    observer.observe(document.body, {subtree: true, childList: true, characterData: true});
  });
}"""
# What is moved: its link, and how. No setting comes twice: the server knows what it has merged.
HALVES = ("1", "1.1")
CONTROLS = {
    "k": ("keep=0.5&variation=0.1", "Base keep rate k"),
    "e": ("keep=0.8&variation=0", "Pruning variation e"),
    "blocks": ("keep=0.8&variation=0.1", "Blocks with node-wise treatment"),
}


def main() -> None:
    """Reads the arguments, moves every control, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--moves", type=int, default=20, help="of each control, an even number")
    parser.add_argument("--settle", type=float, default=90, help="seconds before the first move")
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    loads = [os.getloadavg()[0]]
    with sync_playwright() as playwright, server(ROOT) as (url, _):
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        with contextlib.closing(browser.new_page()) as page:
            page.set_default_timeout(PATIENCE)
            page.goto(f"{url}/merge")
            page.get_by_text("measured on").wait_for()
            time.sleep(arguments.settle)  # base, own sources and ensemble are measured meanwhile
            timings = {name: moved(page, url, name, arguments.moves) for name in CONTROLS}
        browser.close()
    loads.append(os.getloadavg()[0])
    print(f"{os.cpu_count()} cores, load {loads[0]:.1f} before and {loads[1]:.1f} after\n")
    readouts = "readouts on 50 images per task: median, worst"
    print(f"| moved | times | merged: median, worst | {readouts} |")
    print("|---|---|---|---|")
    for name, times in timings.items():
        columns = [
            f"{statistics.median(t):.2f} s, {max(t):.2f} s" for t in zip(*times, strict=True)
        ]
        print(f"| {name} | {len(times)} | {' | '.join(columns)} |")


def moved(page: Any, url: str, name: str, moves: int) -> list[list[float]]:
    """Seconds to "merged" and to readouts of each move, half of them at either scaling."""
    link, label = CONTROLS[name]
    timings = []
    for scaling in HALVES:
        page.goto(f"{url}/merge?{link}&scaling={scaling}")
        page.get_by_text("measured on").wait_for()
        page.evaluate(WATCH)
        for number in range(moves // 2):
            kind = "click" if name == "blocks" else "keyup"
            page.evaluate("kind => { window.result = watched(kind); }", kind)
            if name == "blocks":
                group = page.get_by_test_id("stButtonGroup").filter(has_text=label)
                group.get_by_role("button", name=str(number), exact=True).click()
            else:
                page.get_by_role("slider", name=label).press("ArrowRight")
            timings.append(page.evaluate("() => window.result"))
    return timings


if __name__ == "__main__":
    main()
