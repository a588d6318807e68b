"""What the Explore view computes in the browser, against the library."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from mloss_core import keep_rates
from mloss_core.text import three_digits
from views.explore.component import BROWSER
from views.explore.picture import packed
from views.shared.figures import node_groups

pytestmark = pytest.mark.browser
RNG = np.random.default_rng(4)


@pytest.fixture(scope="module")
def script(chromium):
    """A page of nothing but the view's own functions."""
    page = chromium.new_page()
    page.add_script_tag(
        content="\n".join((BROWSER / f"{n}.js").read_text() for n in ("values", "grid"))
    )
    yield page
    page.close()


def test_blocks_come_out_of_their_packing_as_they_went_in(script):
    blocks = RNG.random((3, 7)).astype(np.float32)
    out = script.evaluate(
        "([t, b, n]) => unpacked(t, b, n).map(r => [...r])", [packed(blocks), 3, 7]
    )
    np.testing.assert_array_equal(np.float32(out), blocks)
    assert len(base64.b64decode(packed(blocks))) == 4 * blocks.size


def test_keep_rates_are_the_librarys_also_of_equal_scores(script):
    for scores in (RNG.random(50), np.zeros(5), np.array([2.0, 1.0, 2.0, 1.0]), np.ones(1)):
        scores = scores.astype(np.float32)
        ranks = np.array(
            script.evaluate("s => [...ranksOf(Float32Array.from(s))]", scores.tolist())
        )
        ours = 0.8 - 0.3 * ranks
        np.testing.assert_allclose(ours, keep_rates(scores.astype(float), 0.8, 0.3), atol=1e-7)


def test_groups_are_the_means_of_consecutive_nodes(script):
    values = RNG.random(23)
    for size in (1, 4, 23, 50):
        ours = script.evaluate("([v, s]) => groupMeans(v, s)", [values.tolist(), size])
        np.testing.assert_allclose(ours, node_groups(values[None], size)[0])


def test_numbers_are_written_as_the_library_writes_them(script):
    numbers = [0.0, 1.0, 0.05, 1e-3, 9.994e-4, 9.996e-4, 0.12345, 12.345, 123.45, 999.4, 999.6]
    numbers += [1e3, 2.29e-5, -0.0312, -4.2e-7, 5e9, *(10 ** RNG.uniform(-8, 5, 200)).tolist()]
    written = script.evaluate("v => v.map(threeDigits)", numbers)
    assert written == [three_digits(value) for value in numbers]


def test_shares_are_rounded_as_the_tables_round_them(script):
    rates = [n / 4000 for n in range(2900, 2960)] + [0.0, 1.0, 0.005, 0.015, 0.125]
    for digits in (0, 1):
        written = script.evaluate("([r, d]) => r.map(v => percent(v, d))", [rates, digits])
        assert written == [f"{rate:.{digits}%}".replace("%", " %") for rate in rates]


@pytest.mark.parametrize(
    ("points", "text"),
    [(2.553, "+2.55"), (-0.1, "−0.10"), (0.0, "0.00"), (0.0006, "+0.0006"), (-0.004, "−0.004")],
)
def test_an_end_near_zero_says_on_which_side_it_lies(script, points, text):
    assert script.evaluate("p => signed(p)", points) == text


def test_colours_run_from_the_lowest_to_the_highest_whatever_the_scale(script):
    groups = [[1e-6, 1e-3], [0.5, 0.0]]
    for scale in ("log", "linear", "rank"):
        places, ticks = script.evaluate(
            "([g, s]) => { const of = scaled(g, s); return [g.flat().map(of.place), of.ticks]; }",
            [groups, scale],
        )
        order = np.argsort(np.ravel(groups))
        assert np.all(np.diff(np.array(places)[order]) >= 0) and max(places) == pytest.approx(1)
        assert min(places) >= 0 and ticks[-1] == pytest.approx(0.5)


GRID = {
    "keeps": [0.2, 0.6, 1.0], "shares": [0.0, 0.5, 1.0], "scaling": 1.0, "images": 50,
    "cells": [
        {"keep": k, "share": s, "rates": {"a": k * (1 - s), "b": s}}
        for k in (0.2, 0.6, 1.0) for s in (0.0, 0.5, 1.0)
    ],
}  # fmt: skip


def glance(script, **setting) -> dict | None:
    usual = {"method": "m-ties", "keep": 0.6, "variation": 0.3, "scaling": 1.0, "blocks": None}
    return script.evaluate(
        "([grid, s]) => { const g = new Grid(grid);"
        " return g.fits(s) ? g.rates(s, 12, ['a', 'b']) : null; }",
        [GRID, usual | setting],
    )  # fmt: skip


def test_the_first_glance_is_exact_at_measured_settings_and_between_them_bilinear(script):
    for cell in GRID["cells"]:
        rates = glance(script, keep=cell["keep"], variation=cell["keep"] * cell["share"])
        assert rates == pytest.approx(cell["rates"])
    between = glance(script, keep=0.8, variation=0.2)  # half way, and half way from TIES to e = k/2
    assert between == pytest.approx({"a": 0.8 * 0.75, "b": 0.25})


def test_the_first_glance_knows_what_it_does_not_know(script):
    assert glance(script, method="dare") is None and glance(script, scaling=1.5) is None
    assert glance(script, method="ties") == glance(script, variation=0)
    assert glance(script, blocks=[]) == glance(script, variation=0)
    assert glance(script, blocks=list(range(12))) == glance(script)
