"""A real server and what a real browser says of its pages."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Page, expect

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "assets" / "zoo" / "demo"
# Streamlit asks for these below a page's own path first; it then finds them at the root.
EXPECTED_404 = ("_stcore/health", "_stcore/host-config")
# A table drawn anew before its button for downloads has probed the old file, which is gone then.
REPLACED = "Download Button source error - 404"
SLOW = 300_000  # ms: shared machines are slow, and waiting ends as soon as the thing is there
expect.set_options(timeout=SLOW)


@dataclass
class Server:
    """The app, started as a user starts it, with its runs aside."""

    url: str
    runs: Path
    log: Path
    process: subprocess.Popen

    @property
    def models(self) -> Path:
        """The folder of its families."""
        return self.runs.parent / "models"


@dataclass
class Watch:
    """What a page asked for and complained about."""

    foreign: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def follow(self, page) -> None:
        """Notes every request to another host, and every error."""
        page.on("request", self._request)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _request(self, request) -> None:
        where = urlsplit(request.url)
        if where.scheme not in ("data", "blob", "about") and where.hostname != "127.0.0.1":
            self.foreign.append(request.url)

    def _console(self, message) -> None:
        url = message.location.get("url", "")
        replaced = REPLACED in message.text or re.search(r"/media/\w+\.csv$", url)
        expected = replaced or any(name in url for name in EXPECTED_404)
        if message.type == "error" and not (expected and "404" in message.text):
            self.errors.append(f"{message.text} {message.location}")


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Server]:
    """The app on the families in `folder`/models, with its runs and its log in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    runs = {"MLOSS_RUNS": str(folder / "runs"), "MLOSS_MODELS": str(folder / "models")}
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless", "true"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--server.port", str(port)],
            cwd=ROOT,
            env=os.environ | runs,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/_stcore/health", process, folder / "log")
        yield Server(url, folder / "runs", folder / "log", process)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, f"the server stopped: {log.read_text()}"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the server did not answer: {log.read_text()}")


def idle(page: Page) -> None:
    """Waits until the script has run and what it sent is drawn."""
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


# Resolves once the document has not changed for a third of a second: plotly draws after the script.
STILL = """() => new Promise(resolve => {
  let last = setTimeout(resolve, 330);
  new MutationObserver(() => { clearTimeout(last); last = setTimeout(resolve, 330); })
    .observe(document.body, {subtree: true, childList: true, attributes: true});
})"""


def still(page: Page) -> None:
    """Waits until nothing on the page has changed for a while."""
    page.evaluate(STILL)


def link(page: Page) -> str:
    """The page's link below the server, to be opened in a fresh browser."""
    where = urlsplit(page.url)
    return f"{where.path}?{where.query}"
