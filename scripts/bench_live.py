"""Times the Explore view in chromium: from the move of a control to readouts, alone and in a class.

    python scripts/bench_live.py               # one visitor: 20 moves each of k, e and the blocks
    python scripts/bench_live.py --class 20    # and 20 browser sessions that move at the same time

Prints Markdown tables and writes nothing. First: readouts that say ≈, between measured settings.
Exact: measured at the very setting on 50 images per task. All: on all test images. A setting never
comes twice, but in a class, where equal ones are computed once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
from typing import Any

from bench_app import BROWSER, FLAGS, PATIENCE, server
from timing import ROOT

# Moves a control as a hand does, and notes by the page's own clock when the readouts change.
MOVE = """([control, value]) => {
  const root = [...document.querySelectorAll('*')].find(e => e.shadowRoot?.querySelector('.explore')).shadowRoot;
  const readouts = root.querySelector('.readouts'), count = root.querySelector('.count');
  const start = performance.now(), times = {first: null, exact: null, all: null};
  window.result = new Promise(done => {
    let left = false;
    const look = () => {
      const kind = readouts.dataset.kind, now = (performance.now() - start) / 1000;
      left ||= kind !== 'exact';
      if (kind === 'estimate' || (kind === 'exact' && left)) times.first ??= now;
      if (kind !== 'exact' || !left) return;
      times.exact ??= now;
      if (!count.textContent.includes(' 50 images')) { times.all = now; observer.disconnect(); done(times); }
    };
    const observer = new MutationObserver(look);
    observer.observe(readouts, {subtree: true, childList: true, attributes: true, characterData: true});
    if (control === 'blocks') {
      const canvas = root.querySelector('canvas');
      for (const key of ['ArrowUp', ' ']) canvas.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
    } else {
      const input = root.querySelector(`.slider[data-name=${control}] input`);
      input.value = value;
      for (const kind of ['input', 'change']) input.dispatchEvent(new Event(kind, {bubbles: true}));
    }
  });
}"""  # noqa: E501
RESULT = "() => window.result"
KEEPS = [round(0.05 * step, 2) for step in range(4, 20)]
COLUMNS = ("first", "exact", "all")


def main() -> None:
    """Reads the arguments, moves every control, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--moves", type=int, default=20, help="of each control")
    parser.add_argument("--class", type=int, default=0, dest="pupils", help="sessions at once")
    parser.add_argument("--rounds", type=int, default=5, help="moves of each pupil")
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    load = os.getloadavg()[0]
    with sync_playwright() as playwright, server(ROOT) as (url, _):
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        with contextlib.closing(opened(browser, url)) as page:
            rows = {name: alone(page, url, name, arguments.moves) for name in CONTROLS}
        print(f"{os.cpu_count()} cores, load {load:.1f} before\n")
        table("moved", rows)
        if arguments.pupils:
            pages = [opened(browser, url) for _ in range(arguments.pupils)]
            print()
            table("a class", {f"{len(pages)} sessions": together(pages, arguments.rounds)})
        browser.close()


def opened(browser: Any, url: str) -> Any:
    """A session of its own on the demo family, once everything is measured."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    settled(page)
    return page


def settled(page: Any) -> None:
    page.locator(".explore .status").get_by_text("nothing is recorded").wait_for()
    page.locator(".explore .readouts[data-kind=exact]").wait_for()


CONTROLS = ("keep", "variation", "blocks")
BEGIN = {  # where each control begins, a half of the moves from each
    "keep": ("keep=1&variation=0.125", "keep=1&variation=0.175"),
    "variation": ("keep=0.85&variation=0", "keep=0.65&variation=0"),
    "blocks": ("keep=0.85&variation=0.225", "keep=0.65&variation=0.225"),
}


def alone(page: Any, url: str, name: str, moves: int) -> list[dict[str, float]]:
    """Seconds of each move of one control by one visitor."""
    times = []
    for half in BEGIN[name]:
        page.goto(f"{url}/?{half}")
        settled(page)
        for number in range(1, moves // 2 + 1):
            value = 1 - 0.05 * number if name == "keep" else 0.025 * number
            page.evaluate(MOVE, [name, round(value, 3)])
            times.append(page.evaluate(RESULT))
    return times


def together(pages: list[Any], rounds: int) -> list[dict[str, float]]:
    """Seconds of the moves of all sessions, which each choose a k at the same moment."""
    choose, times, chosen = random.Random(0), [], [0.8] * len(pages)
    for _ in range(rounds):
        chosen = [choose.choice([k for k in KEEPS if k != former]) for former in chosen]
        for page, k in zip(pages, chosen, strict=True):
            page.evaluate(MOVE, ["keep", k])
        times += [page.evaluate(RESULT) for page in pages]
    return times


def table(head: str, rows: dict[str, list[dict[str, float]]]) -> None:
    """Median and worst of each column."""
    print(f"| {head} | times | {' | '.join(f'{c}: median, worst' for c in COLUMNS)} |")
    print("|---|---|---|---|---|")
    for name, times in rows.items():
        cells = []
        for column in COLUMNS:
            seconds = [t[column] for t in times if t[column] is not None]
            cells.append(f"{statistics.median(seconds):.2f} s, {max(seconds):.2f} s")
        print(f"| {name} | {len(times)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
