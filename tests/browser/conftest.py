"""One server and one chromium for every test here; a browser context and a family for each test.

A test that changes anything asks for `tiny`: jobs and runs belong to a family, so that no test sees
another's. Pages that are only looked at share `gallery`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from browser.driver import DEMO, SLOW, Server, Watch, running
from mloss_core import MergeRecipe, load, recorded, run
from tiny import write_family

ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
SOURCES = 4  # of the demo's eight
IMAGES = 80  # for each task's test: more than the 50 that a live merge looks at first


@pytest.fixture(scope="package")
def server(tmp_path_factory) -> Iterator[Server]:
    """The running app; whoever names no family sees the demo."""
    folder = tmp_path_factory.mktemp("server")
    write_family(folder / "models" / "tiny")
    with running(folder) as started:
        yield started


@pytest.fixture(scope="package")
def chromium() -> Iterator:
    """Debian's chromium, driven by Playwright."""
    path = shutil.which("chromium")
    if path is None:
        reason = "chromium is not installed (apt-get install chromium)"
        if os.environ.get("MLOSS_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    # Its event loop runs in this thread until it is closed, which asyncio.run in tests of other
    # folders would not stand: hence the scope "package", not "session".
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def tiny(server) -> str:
    """The name of a tiny family that no other test uses."""
    name = f"tiny-{len(list(server.models.iterdir()))}"
    write_family(server.models / name)
    return name


@pytest.fixture(scope="package")
def gallery(server) -> str:
    """The name of a tiny family with a merge and a map among its runs, for pages looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOSS_MODELS", str(server.models))
        patch.setenv("MLOSS_RUNS", str(server.runs))
        family = load("tiny")
        recipe = MergeRecipe(family="tiny", method="m-ties", sources=family.sources, samples=6)
        for kind in ("score", "merge"):
            list(recorded(run(recipe, family, device="cpu"), recipe, kind=kind))
    return "tiny"


@pytest.fixture(scope="package")
def short(server) -> str:
    """The name of a family of the demo's first sources, with few test images: the demo's towers
    without its minutes of evaluation."""
    folder, about = server.models / "short", json.loads((DEMO / "family.json").read_text())
    about["tasks"] = about["tasks"][:SOURCES]
    for part in ("sources", "tasks"):
        (folder / part).mkdir(parents=True)
    for name in ("base.safetensors", "heads.safetensors", "calibration.npz"):
        shutil.copy(DEMO / name, folder)
    for task in (task["name"] for task in about["tasks"]):
        shutil.copy(DEMO / "sources" / f"{task}.safetensors", folder / "sources")
        with np.load(DEMO / "tasks" / f"{task}.npz") as file:
            arrays = {key: file[key] for key in file.files}
        for key in ("images", "labels"):
            arrays[key] = arrays[key][:IMAGES]
        np.savez(folder / "tasks" / f"{task}.npz", **arrays)
    (folder / "family.json").write_text(json.dumps(about))
    return "short"


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
