"""Choosing blocks in a real browser: on the map, by keyboard, from the link; then a merge."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import expect

from browser.driver import idle, link
from browser.explore import cell, click_cell, launch, linked, press, settled
from mloss_core import BlockScored, MergeRecipe, keep_rates, load, run

pytestmark = pytest.mark.browser

BLOCKS = 3


def test_blocks_are_chosen_on_the_map(open_page, tiny):
    page = open_page(f"/?family={tiny}&samples=6")
    settled(page)
    click_cell(page, 1, -1, BLOCKS)  # its number: away
    linked(page, "blocks", "0,2")
    settled(page)
    expect(page.locator(".explore .finding")).to_contain_text("Your 2 blocks hold")
    start, end = cell(page, 0, 0.3, BLOCKS), cell(page, 1, 0.6, BLOCKS)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=5)
    page.mouse.up()
    linked(page, "blocks", "0,1")
    page.get_by_role("button", name="Undo").click()
    linked(page, "blocks", "0,2")
    page.get_by_role("button", name="Redo").click()
    linked(page, "blocks", "0,1")
    page.get_by_role("button", name="none (TIES)").click()
    linked(page, "blocks", "none")
    page.get_by_role("button", name="this family's 3 highest").click()
    page.wait_for_url(lambda url: "blocks=" not in url)
    page.locator(".explore canvas").dblclick(position={"x": 120, "y": 60})
    expect(page.locator(".explore .card")).to_be_visible()
    page.keyboard.press("Escape")
    assert "blocks=" not in page.url, "a double click chooses nothing"


def test_a_method_without_a_single_model_says_that_it_is_not_live(open_page, tiny):
    page = open_page(f"/?family={tiny}&samples=6")
    settled(page)
    page.locator(".explore .method select").select_option("emr")
    expect(page.locator(".explore .status")).to_have_text(re.compile("Not live: .* Launch it"))
    expect(page.locator(".explore .readouts")).to_have_attribute("data-kind", "former")
    launch(page)
    expect(page.locator(".explore .readouts")).to_have_attribute("data-kind", "exact")


def test_a_cell_opens_its_card_and_keeps_the_choice(open_page, tiny):
    page = open_page(f"/?family={tiny}&samples=6&blocks=0,2")
    settled(page)
    click_cell(page, 1, 0.5, BLOCKS)
    card = page.locator(".explore .card")
    expect(card.get_by_role("heading")).to_have_text(
        re.compile(r"Block 1, node (4[89]|[56]\d|7\d)")
    )
    expect(card.locator(".said p")).to_have_count(3)
    expect(card.locator(".cause")).to_have_count(3)
    page.wait_for_url(re.compile("node=1(:|%3A)"))
    assert re.search("blocks=0(,|%2C)2", page.url), "looking and choosing are two things"
    node = card.get_by_role("heading").inner_text().split()[-1]
    idle(page)
    card.get_by_role("button", name="More on the Explain page").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Explain")
    expect(page.get_by_text(f"M-Loss of node {node}, block 1")).to_be_visible()


def test_an_open_card_follows_the_setting(open_page, tiny):
    page = open_page(f"/?family={tiny}&samples=6&keep=0.6&variation=0")
    settled(page)
    click_cell(page, 1, 0.5, BLOCKS)
    card = page.locator(".explore .card")
    kept = card.locator(".said p").last
    expect(kept).to_contain_text("keeps 60.0 % of its row's changes")
    expect(card.locator(".cause")).to_have_count(3)
    former = card.locator("svg").get_attribute("aria-label")
    assert former
    assert press(page, "Base keep rate k", "ArrowRight", 2) == pytest.approx(0.7)
    expect(kept).to_contain_text("keeps 70.0 % of its row's changes")
    expect(card.locator("svg")).not_to_have_attribute("aria-label", former)
    page.locator(".explore .method select").select_option("ties")
    expect(kept).to_contain_text("TIES keeps 70.0 % of its tensor's changes")
    node = int(card.get_by_role("heading").inner_text().split()[-1])
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("slider", name="Nodes per group").press("ArrowLeft")  # of 16
    first = node // 15 * 15
    expect(card.locator(".said p").first).to_contain_text(f"of nodes {first} to {first + 14}")


def test_a_choice_is_merged_and_found_again(open_page, tiny):
    page = open_page(f"/explain?explain=blocks&family={tiny}&samples=6&blocks=1,2")
    page.get_by_role("button", name="Merge with blocks 1,2").click()
    expect(
        page.get_by_text(re.compile("istinguishable: M-TIES, blocks 1,2 is .* M-TIES, all blocks"))
    ).to_be_visible()
    expect(page.get_by_text(re.compile("istinguishable: M-TIES"))).to_have_count(3)
    expect(page.get_by_text(re.compile("2 choices tried with these settings"))).to_be_visible()
    idle(page)
    frontier = page.get_by_label(re.compile("^Mean accuracy over the cost")).locator(".legendtext")
    expect(frontier.get_by_text("this choice")).to_be_visible()
    expect(frontier.get_by_text("all blocks")).to_be_visible()

    page.get_by_role("button", name="Named choices").click()
    page.get_by_label("Name for these blocks").fill("late")
    page.get_by_label("Name for these blocks").press("Enter")
    idle(page)
    page.get_by_role("button", name="Save", exact=True).click()
    page.wait_for_url(re.compile("saved=late"))
    again = open_page(link(page))
    expect(again.get_by_text("2 choices tried with these settings")).to_be_visible()
    idle(again)
    again.get_by_role("button", name="Named choices").click()
    expect(again.get_by_role("button", name="late: 1,2")).to_be_visible()


def test_the_table_chooses_by_keyboard(open_page, tiny):
    page = open_page(f"/explain?explain=blocks&family={tiny}&samples=6&blocks=0")
    expect(page.get_by_test_id("stMetricValue").first).to_have_text("1 of 3")
    page.get_by_text("The blocks as a table").click()
    table = page.get_by_test_id("stExpander").filter(has_text="The blocks as a table")
    grid = table.get_by_test_id("stDataFrame")
    expect(grid).to_be_visible()
    idle(page)
    grid.locator("canvas").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    page.wait_for_url(re.compile(r"[?&]blocks=0(,|%2C)[12]"))


def test_the_map_is_exported_as_it_is_drawn(open_page, tiny, server, tmp_path, monkeypatch):
    page = open_page(f"/?family={tiny}&samples=6&blocks=0,2&keep=0.6&variation=0.3")
    settled(page)
    files = {}
    for kind in ("csv", "svg", "png"):
        with page.expect_download() as info:
            page.get_by_role("button", name=kind.upper(), exact=True).click()
        files[kind] = tmp_path / info.value.suggested_filename
        info.value.save_as(files[kind])
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    picture = ElementTree.parse(files["svg"]).getroot()
    rows = [t.text for t in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"M-Loss", "mean M-Loss", "share kept", "accuracy so far"} <= set(rows)

    monkeypatch.setenv("MLOSS_MODELS", str(server.models))
    family = load(tiny)
    recipe = MergeRecipe(
        family=tiny, method="m-ties", sources=family.sources, samples=6, keep=0.6, variation=0.3
    )
    scores = [e.scores for e in run(recipe, family, device="cpu") if isinstance(e, BlockScored)]
    table = pd.read_csv(files["csv"])
    for block, of_block in table.groupby("block"):
        np.testing.assert_allclose(of_block["mloss"], scores[block].node, rtol=1e-4)
        expected = keep_rates(scores[block].node, 0.6, 0.3) if block != 1 else 0.6
        np.testing.assert_allclose(of_block["keep_rate"], expected, atol=1e-6)


def test_what_is_not_measured_cannot_be_exported(open_page, tiny):
    page = open_page(f"/?family={tiny}&samples=6&live=off")
    csv, png = (page.get_by_role("button", name=kind, exact=True) for kind in ("CSV", "PNG"))
    expect(csv).to_be_disabled()
    expect(csv).to_have_attribute("title", "M-Loss is not measured yet")
    expect(png).to_be_disabled()
    launch(page)
    expect(csv).to_be_enabled()
    expect(png).to_be_enabled()
