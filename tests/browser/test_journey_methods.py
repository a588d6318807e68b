"""Methods of the demo compared in a real browser; the best is kept and downloaded."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect
from safetensors import safe_open

from browser.driver import SLOW, idle, link
from mloss_core import METHODS

pytestmark = pytest.mark.browser
QUICK = ("ties", "iso-c", "tsv-m")


def compared(page: Page) -> str:
    """Waits for the comparison; what it says of the best."""
    best = page.get_by_text("is the best that leaves one model")
    expect(best).to_be_visible(timeout=2 * SLOW)
    idle(page)
    return best.inner_text()


def test_methods_are_compared_and_the_best_is_kept(open_page, short, tmp_path):
    page = open_page(f"/methods?family={short}&methods={','.join(QUICK)}")
    expect(page.get_by_role("heading", level=1)).to_have_text("Methods")
    page.get_by_role("button", name="Compare", exact=True).click()
    title = compared(page).split(" is the best")[0]
    verdicts = page.get_by_text(re.compile("istinguishable: "))
    expect(verdicts).to_have_count(len(QUICK) - 1 + 3)  # and base, own sources, ensemble
    figure = page.get_by_label(re.compile("^Mean accuracy over seconds of merging, of 3 methods"))
    expect(figure).to_be_visible()
    expect(figure.get_by_text(title).first).to_be_attached()
    assert title in {METHODS[name].title for name in QUICK}

    page.get_by_role("button", name=f"Keep the best: {title}").click()
    kept = page.get_by_role("link", name=re.compile(r"Download \("))
    expect(kept).to_be_visible(timeout=2 * SLOW)
    idle(page)
    kept.evaluate("a => a.target = ''")
    with page.expect_download() as info:
        kept.click()
    path = tmp_path / info.value.suggested_filename
    info.value.save_as(path)
    with safe_open(path, "pt") as file:
        (text,) = file.metadata().values()
        assert all(name.startswith("visual.") for name in file.keys())
    assert METHODS[json.loads(text)["recipe"]["method"]].title == title

    again = open_page(link(page))
    assert compared(again).startswith(title), "the link holds the comparison"
