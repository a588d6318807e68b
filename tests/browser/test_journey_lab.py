"""An expert of one's own in a real browser: trained on drawn pictures, merged on the way, kept."""

from __future__ import annotations

import io
import re
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect
from safetensors import safe_open

from browser.driver import SLOW, idle, link, still
from mloss_core.training.lesson import LEAST

pytestmark = pytest.mark.browser
QUICK = "lab_task=own pictures&lab_steps=8&lab_checkpoints=2&lab_rate=0.001&lab_batch=16"


def drawn(each: int) -> bytes:
    """A .zip of rings and crosses, so many of each."""
    random, archive = np.random.default_rng(0), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for kind in ("rings", "crosses"):
            for number in range(each):
                picture = Image.new("RGB", (48, 48), "white")
                x, y, r = random.integers((18, 18, 8), (30, 30, 16))
                pen, box = ImageDraw.Draw(picture), (x - r, y - r, x + r, y + r)
                if kind == "rings":
                    pen.ellipse(box, outline="black", width=4)
                else:
                    pen.line(box, fill="black", width=4)
                    pen.line((x - r, y + r, x + r, y - r), fill="black", width=4)
                content = io.BytesIO()
                picture.save(content, "png")
                file.writestr(f"drawn/{kind}/{number}.png", content.getvalue())
    return archive.getvalue()


def conflict(page: Page) -> np.ndarray:
    """The map of M-Loss as it is drawn: blocks by checkpoints."""
    figure = page.get_by_label("M-Loss of each block, by checkpoint")
    expect(figure).to_be_visible()
    return np.array(
        figure.evaluate("e => e.querySelector('.js-plotly-plot').calcdata[0][0].z.map(r => [...r])")
    )


def verdict(page: Page) -> None:
    """Waits for the sentence that follows when all checkpoints are merged."""
    expect(page.get_by_text(re.compile("erging collapse")).first).to_be_visible(timeout=2 * SLOW)
    idle(page)
    still(page)


def test_trained_on_drawn_pictures_merged_with_two_sources_and_kept(
    open_page, server, short, tmp_path
):
    page = open_page(f"/lab?family={short}&{QUICK}&lab_from=zip")
    expect(page.get_by_text("Bring a .zip")).to_be_visible()
    page.locator("input[type=file]").set_input_files(
        {"name": "shapes.zip", "mimeType": "application/zip", "buffer": drawn(20)}
    )
    expect(page.get_by_text("2 classes (crosses, rings), 32 pictures to train on")).to_be_visible()
    page.get_by_role("button", name="Train", exact=True).click()
    verdict(page)
    first = conflict(page)
    assert first.shape == (12, 2)
    assert (first[:, -1] > first[:, 0]).mean() > 0.5, "it moves away from the base and the others"

    sources = page.get_by_role("button", name=re.compile("^(MNIST|Street digits|Capital letters)$"))
    pressed = [
        b.get_attribute("aria-checked") or b.get_attribute("aria-pressed") for b in sources.all()
    ]
    assert pressed.count("true") == 2, pressed
    page.get_by_role("button", name="Capital letters").click()
    page.get_by_role("button", name="Merge the checkpoints").click()
    expect(page.get_by_text(re.compile("With .*Capital letters:"))).to_be_visible()
    verdict(page)
    again = conflict(page)
    assert again.shape == first.shape and not np.allclose(again, first), "with others, another map"

    with page.expect_download() as info:
        page.get_by_role("button", name="Download the checkpoint").click()
    path = tmp_path / info.value.suggested_filename
    info.value.save_as(path)
    assert path.name == "shapes.safetensors"
    with safe_open(path, "pt") as file:
        assert all(name.startswith("visual.") for name in file.keys())

    page.get_by_text("Keep it as a source of a family of yours").click()
    name = page.get_by_role("textbox", name="Family of yours")
    name.fill("shapes-and-digits")
    name.press("Enter")
    idle(page)
    page.get_by_role("button", name="Keep", exact=True).click()
    expect(page.get_by_text("is a source of shapes-and-digits now")).to_be_visible()
    assert (server.models / "shapes-and-digits" / "sources" / "shapes.safetensors").is_file()

    fresh = open_page(link(page))
    verdict(fresh)
    expect(fresh.get_by_text("pictures of before are still here: shapes")).to_be_visible()


def test_drawn_by_key_alone(open_page, tiny):
    page = open_page(f"/lab?family={tiny}&{QUICK}&view=lecture")
    pad = page.locator(".pad canvas")
    expect(page.get_by_text("To go: class 1, class 2")).to_be_visible()
    expect(page.get_by_role("button", name="Add drawing")).to_be_disabled()
    for number, way in ((1, "ArrowRight"), (2, "ArrowDown")):
        choice = page.get_by_role("button", name=f"class {number}: 0 of {LEAST}")
        choice.focus()
        choice.press("Enter")
        for _ in range(LEAST):
            pad.focus()
            for key in (" ", *[way] * 5, "Enter"):
                pad.press(key)
        expect(page.get_by_role("button", name=f"class {number}: {LEAST}")).to_be_visible()
    expect(page.get_by_text("12 pictures to train on, 4 held out")).to_be_visible()
    page.get_by_role("button", name=f"Take out drawing {LEAST} of class 2").press("Enter")
    expect(page.get_by_role("button", name=f"class 2: {LEAST - 1} of {LEAST}")).to_be_visible()
