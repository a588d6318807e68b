"""The part of scripts/bench.py that times the app, in Debian's chromium."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BROWSER = "/usr/bin/chromium"
# Nothing but the app's own traffic; a container has neither a sandbox nor a GPU.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
WAITS = {  # what it is, and its limit in seconds
    "page": ("server's start to the first page's title", 5.0),
    "table": ("server's start to the sources table", None),
    "opened": ("opening the heatmap to all blocks measured", 3.0),
    "asked": ("click on Compute M-Loss to all blocks measured", 3.0),
}
PATIENCE = 120_000  # milliseconds until a wait is given up


def measure(
    root: Path, family: str, blocks: int, narrow: bool, repeat: int
) -> dict[str, list[float]]:
    """Seconds of each of WAITS, with a fresh server each repeat and the browser started before it.

    Args:
        narrow: whether the heatmap's page measures as soon as it is opened.
    """
    from playwright.sync_api import sync_playwright

    waits: dict[str, list[float]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        for _ in range(repeat):
            with contextlib.closing(browser.new_page()) as page, server(root) as (url, started):
                page.set_default_timeout(PATIENCE)
                timings = first_page(page, f"{url}/?family={family}", started)
                timings |= heatmaps(page, f"{url}/heatmap?family={family}", blocks, narrow)
                for what, seconds in timings.items():
                    waits.setdefault(what, []).append(seconds)
        browser.close()
    return waits


def first_page(page: Any, url: str, started: float) -> dict[str, float]:
    """Waits for the title and for the sources table, counted from the server's start."""
    page.goto(url)
    page.get_by_role("heading", name="Where do these models disagree?").wait_for()
    title = time.perf_counter() - started
    page.get_by_test_id("stDataFrame").first.wait_for()
    return {"page": title, "table": time.perf_counter() - started}


def heatmaps(page: Any, url: str, blocks: int, narrow: bool) -> dict[str, float]:
    """Waits for a heatmap measured by opening the page, and for one asked for by a click."""
    waits, measured = {}, page.get_by_text(f"{blocks} of {blocks} blocks measured")
    if narrow:
        start = time.perf_counter()
        page.goto(url)
        measured.wait_for()
        waits["opened"] = time.perf_counter() - start
    # With a job that the server doesn't know the page waits for the click; another seed, because
    # the server keeps what it has measured.
    page.goto(f"{url}&score_job=none&seed=43")
    page.get_by_text("The job of this link is gone").wait_for()
    start = time.perf_counter()
    page.get_by_role("button", name="Compute M-Loss").click()
    measured.wait_for()
    waits["asked"] = time.perf_counter() - start
    return waits


@contextlib.contextmanager
def server(root: Path) -> Iterator[tuple[str, float]]:
    """A fresh server of the app with a folder of runs of its own: its address, and its start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    runs = tempfile.mkdtemp()
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless=true"]
    command += ["--server.address=127.0.0.1", f"--server.port={port}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=root, env={**os.environ, "MLOSS_RUNS": runs}, **quiet)
    try:
        await_port(process, port)
        yield f"http://127.0.0.1:{port}", started
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:  # a browser that holds its connection delays the end
            process.kill()
            process.wait()
        shutil.rmtree(runs, ignore_errors=True)


def await_port(process: subprocess.Popen, port: int) -> None:
    """Returns as soon as the server takes connections."""
    while process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise SystemExit(f"error: the server ended with status {process.returncode} before it listened")
