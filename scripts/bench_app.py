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
    "page": ("server's start to the first picture of Explore", 5.0),
    "live": ("server's start to the live merge's numbers on all test images", None),
    "opened": ("opening a setting's address to its numbers on 50 images per task", 3.0),
}
PATIENCE = 120_000  # milliseconds until a wait is given up


def measure(root: Path, family: str, narrow: bool, repeat: int) -> dict[str, list[float]]:
    """Seconds of each of WAITS, with a fresh server each repeat and the browser started before it.

    Args:
        narrow: whether the page merges and measures as soon as it is opened.
    """
    from playwright.sync_api import sync_playwright

    waits: dict[str, list[float]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        for _ in range(repeat):
            with contextlib.closing(browser.new_page()) as page, server(root) as (url, started):
                page.set_default_timeout(PATIENCE)
                for what, seconds in explored(page, f"{url}/?family={family}", started, narrow):
                    waits.setdefault(what, []).append(seconds)
        browser.close()
    return waits


def explored(page: Any, url: str, started: float, narrow: bool) -> Iterator[tuple[str, float]]:
    """Waits for the first picture and for live numbers, then for another setting's."""
    page.goto(url)
    page.locator(".explore canvas").wait_for()
    yield "page", time.perf_counter() - started
    if not narrow:
        return
    page.locator(".explore .status").get_by_text("nothing is recorded").wait_for()
    page.locator(".explore .status").get_by_text("merged in").wait_for()
    yield "live", time.perf_counter() - started
    start = time.perf_counter()
    page.goto(f"{url}&keep=0.45&variation=0.2")
    page.locator(".explore .readouts[data-kind=exact]").wait_for()
    yield "opened", time.perf_counter() - start


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
