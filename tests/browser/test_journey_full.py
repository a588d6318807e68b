"""The main job with full-size towers in a real browser: ViT-B/32, four sources, and `evaluate`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, expect
from safetensors.torch import save_file

from browser.driver import ROOT, SLOW, Server, idle, running
from browser.explore import linked
from browser.test_journey import download, go
from mloss_core import Tower, list_runs, load
from mloss_core.data.calibration import preprocess

pytestmark = [pytest.mark.browser, pytest.mark.slow]
FAMILY, TASK, CLASSES = "synthetic-b32", "source00", ("bright", "dark")
LONG = 4 * SLOW  # two cores take minutes over a merge of this size


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """Another server, on a ViT-B/32 family of made-up weights: 2 GB that go with it."""
    folder = tmp_path_factory.mktemp("full")
    family = folder / "models" / FAMILY
    command = [sys.executable, "scripts/synthetic.py", "b32", str(family), "--sources", "4"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOSS_MODELS", str(family.parent))
        add_task(family)
    with running(folder) as started:
        yield started
    shutil.rmtree(folder)  # 2 GB


def add_task(family: Path) -> None:
    """Pictures in folders that count for a source, and the head that the base itself makes."""
    rng = np.random.default_rng(0)
    pictures = []
    for i, name in enumerate(CLASSES):
        place = family / "tasks" / TASK / "test" / name
        place.mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(100 * (1 - i), 256 - 100 * i, (224, 224, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{number:02d}.png")
            pictures.append(pixels)
    about = family / "family.json"
    titled = {"name": TASK, "title": "Bright or dark"}
    about.write_text(json.dumps(json.loads(about.read_text()) | {"tasks": [titled]}))
    loaded, device = load(FAMILY), torch.device("cpu")
    images = preprocess(np.stack(pictures), loaded.model, device)
    features = Tower(loaded.model, loaded.base().load(device)).features(images)
    save_file({TASK: features.view(2, 12, -1).mean(1)}, family / "heads.safetensors")


def measure(page: Page) -> None:
    """The map is measured when somebody asks for it, and the app answers meanwhile."""
    go(page, "Explain")
    expect(page.get_by_text(re.compile(r"needs about \d\.\d GB of memory"))).to_be_visible()
    idle(page)
    page.get_by_role("button", name="Measure M-Loss along the merge").click()
    expect(page.get_by_text(re.compile(r"^[1-9]\d? of 12 blocks running"))).to_be_visible()
    answers = []
    for title in ("Theory", "Runs", "Explain"):
        start = time.monotonic()
        go(page, title)
        answers.append(time.monotonic() - start)
    print(f"answers while measuring: {', '.join(f'{s:.2f} s' for s in answers)}")
    assert max(answers) < 10
    expect(page.get_by_text("12 of 12 blocks measured in")).to_be_visible(timeout=LONG)


def merge(page: Page) -> None:
    """M-TIES on the first and the last few blocks."""
    page.get_by_test_id("stTopNavLink").filter(has_text="Explore").click()
    expect(page.locator(".explore .status")).to_have_text(re.compile("Live is off"))
    page.get_by_role("button", name="the paper's blocks (ViT-B/32)").click()
    linked(page, "blocks", "0,8,9,10")
    idle(page)
    page.get_by_role("button", name="Launch and keep").click()
    page.wait_for_url(re.compile("merge_job="))
    status = page.locator(".explore .status")
    expect(status).to_have_text(re.compile("merging block"))
    expect(status).to_contain_text("kept, see Compare", timeout=LONG)
    expect(page.locator(".explore .big")).to_have_text(re.compile(r"\d+\.\d %"))
    idle(page)


def evaluated(model: Path, models: Path) -> dict:
    """What the command line says of a file."""
    command = [sys.executable, "-m", "mloss_core", "evaluate", "--family", FAMILY, "--json"]
    done = subprocess.run(
        [*command, "--model", str(model)],
        cwd=ROOT, env=os.environ | {"MLOSS_MODELS": str(models)},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[0])


def test_a_full_size_family_from_sources_to_evaluate(open_page, server, tmp_path, monkeypatch):
    start = time.monotonic()
    page = open_page(f"/sources?family={FAMILY}")
    expect(page.get_by_text("12 blocks")).to_be_visible()
    expect(page.get_by_test_id("stDataFrame").first).to_be_visible()
    measure(page)
    merge(page)
    recipe, names = download(page, tmp_path)
    assert (recipe["method"], recipe["blocks"]) == ("m-ties", [0, 8, 9, 10])
    assert len(names) == 152

    monkeypatch.setenv("MLOSS_RUNS", str(server.runs))
    (run,) = list_runs(("merge",))
    hits = run.hits["merged"][TASK]
    (file,) = tmp_path.glob("*.safetensors")
    said = evaluated(file, server.models)
    assert (said["task"], said["correct"], said["total"]) == (TASK, int(hits.sum()), 24)
    file.unlink()
    print(f"the journey took {time.monotonic() - start:.0f} s")
