"""A real server and a real browser, for the tests marked `browser`."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tiny import write_family

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "assets" / "zoo" / "demo" / "family.json"
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
# Streamlit asks for these below a page's own path first; it then finds them at the root.
KNOWN_404 = ("_stcore/health", "_stcore/host-config")
SLOW = 300_000  # ms: shared machines are slow, and waiting ends as soon as the thing is there
expect.set_options(timeout=SLOW)


@dataclass
class Server:
    """The app, started as a user starts it, with its runs aside."""

    url: str
    family: str
    runs: Path
    log: Path
    process: subprocess.Popen


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
        expected = any(name in message.location.get("url", "") for name in KNOWN_404)
        if message.type == "error" and not (expected and "404" in message.text):
            self.errors.append(f"{message.text} {message.location}")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """The running app, on the demo family where it is there, else on a tiny one."""
    folder = tmp_path_factory.mktemp("server")
    write_family(folder / "models" / "tiny")
    with running(folder, "demo" if DEMO.is_file() else "tiny") as started:
        yield started


@contextlib.contextmanager
def running(folder: Path, family: str) -> Iterator[Server]:
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
        yield Server(url, family, folder / "runs", folder / "log", process)
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


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    """Debian's chromium, driven by Playwright."""
    path = shutil.which("chromium")
    if path is None:
        reason = "chromium is not installed (apt-get install chromium)"
        if os.environ.get("MLOSS_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


def idle(page: Page) -> None:
    """Waits until the script has run and what it sent is drawn."""
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def link(page: Page) -> str:
    """The page's link below the server, to be opened in a fresh browser."""
    where = urlsplit(page.url)
    return f"{where.path}?{where.query}"


@pytest.fixture
def open_page(chromium, server) -> Iterator[Callable]:
    """Opens a page of the app; at the end nothing foreign was asked for and nothing broke."""
    watch = Watch()
    contexts = []

    def opened(path: str = "/", **options):
        context = chromium.new_context(**{"viewport": {"width": 1440, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SLOW)
        watch.follow(page)
        page.goto(server.url + path)
        return page

    yield opened
    pages = [page for context in contexts for page in context.pages]
    boxes = [page.locator("[data-testid=stException]").count() for page in pages]
    for context in contexts:
        context.close()
    assert server.process.poll() is None, f"the server ended: {server.log.read_text()[-3000:]}"
    assert (watch.foreign, watch.errors, sum(boxes)) == ([], [], 0), server.log.read_text()[-3000:]
