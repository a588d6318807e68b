"""views/shared/figures.py: what stands in a plot is what was measured; no streamlit, no torch."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from views.shared import figures, theme

ROOT = Path(__file__).resolve().parents[1]
COLOURS = ("log", "linear", "rank")
TABLES = arrays(
    np.float64,
    st.tuples(st.integers(1, 4), st.integers(1, 40)),
    elements=st.floats(0, 1e3, allow_subnormal=False),
)


def number(text: str) -> float:
    """What a colour bar's label says."""
    digits, _, power = text.removeprefix("≤ ").partition("×10")
    lowered = power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    return float(digits) * 10 ** int(lowered or 0)


def scores_of(table: np.ndarray) -> dict[int, np.ndarray]:
    return dict(enumerate(table))


def random_scores(blocks: int = 3, nodes: int = 20) -> dict[int, np.ndarray]:
    return scores_of(np.random.default_rng(0).gamma(0.5, 1e-4, (blocks, nodes)))


def means(values: np.ndarray, size: int) -> list[float]:
    """Group means, the naive way."""
    return [values[i : i + size].mean() for i in range(0, len(values), size)]


@given(TABLES, st.integers(1, 50))
def test_groups_are_the_means_of_consecutive_nodes(table, size):
    expected = [means(row, size) for row in table]
    np.testing.assert_allclose(figures.node_groups(table, size), expected, rtol=1e-12, atol=1e-15)


def test_the_last_group_may_be_smaller():
    groups = figures.node_groups(np.array([[1.0, 3.0, 5.0, 7.0, 20.0]]), 2)
    assert groups.tolist() == [[2.0, 6.0, 20.0]]
    heat = figures.heatmap({0: np.array([1.0, 3.0, 5.0, 7.0, 20.0])}, 1, 2).data[0]
    assert [cell[1] for cell in heat.customdata[0]] == ["0 to 1", "2 to 3", "4 to 4"]


@given(TABLES, st.integers(1, 50), st.sampled_from(COLOURS))
def test_hover_holds_the_exact_group_means_and_bars_hold_real_values(table, size, colours):
    heat = figures.heatmap(scores_of(table), len(table), size, colours).data[0]
    groups = figures.node_groups(table, size)
    assert (heat.customdata[..., 0].astype(float) == groups).all()
    labels = [number(text) for text in heat.colorbar.ticktext]
    assert len(labels) == len(heat.colorbar.tickvals) and labels == sorted(labels)
    assert labels[-1] == pytest.approx(groups.max(), rel=6e-3, abs=1e-12)
    positive = groups[groups > 0] if colours == "log" and groups.any() else groups
    assert labels[0] == pytest.approx(positive.min(), rel=6e-3, abs=1e-12)
    assert np.isfinite(heat.z).all()


@pytest.mark.parametrize("colours", COLOURS)
@pytest.mark.parametrize("scored", [{0, 2}, {1}, {0, 1, 2, 3}])
def test_blocks_without_scores_stay_empty(colours, scored):
    scores = {b: s for b, s in random_scores(4).items() if b in scored}
    figure = figures.heatmap(scores, 4, 7, colours)
    z = np.asarray(figure.data[0].z, dtype=float)
    assert z.shape == (4, 3)
    assert [np.isfinite(row).all() for row in z] == [block in scored for block in range(4)]
    assert not np.isfinite(z[[b for b in range(4) if b not in scored]]).any()
    assert list(figure.layout.yaxis.range) == [-0.5, 3.5]


def test_log_colours_keep_zeros_at_the_least_known_value():
    heat = figures.heatmap({0: np.array([0.0, 1e-4, 1e-2])}, 1, 1).data[0]
    assert heat.z[0] == pytest.approx([-4, -4, -2])
    assert heat.customdata[0][0][0] == 0, "hover tells the truth"
    assert heat.colorbar.ticktext[0] == "≤ 1.00×10⁻⁴", "the clipping is stated"


@pytest.mark.parametrize("value", [0.0, 3e-5, 2.0])
@pytest.mark.parametrize("colours", COLOURS)
def test_equal_values_are_drawn(value, colours):
    heat = figures.heatmap({0: np.full(6, value)}, 2, 2, colours).data[0]
    assert len(set(np.asarray(heat.z, dtype=float)[0])) == 1
    assert [number(text) for text in set(heat.colorbar.ticktext)] == [pytest.approx(value)]


def test_rank_colours_are_even_whatever_the_values():
    heat = figures.heatmap({0: np.array([1e-9, 5.0, 1e-3, 1e9])}, 1, 1, "rank").data[0]
    assert heat.z[0] == pytest.approx([0, 2 / 3, 1 / 3, 1])
    assert list(heat.colorbar.tickvals) == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.0, "0"),
        (0.01234, "0.0123"),
        (0.05, "0.0500"),
        (12, "12.0"),
        (123.4, "123"),
        (-0.00057, "-5.70×10⁻⁴"),
        (2.293e-5, "2.29×10⁻⁵"),
        (1.5e7, "1.50×10⁷"),
        (1000, "1.00×10³"),
        (999.6, "1.00×10³"),
        (0.00099999, "0.00100"),
        (9.996, "10.0"),
        (math.nan, "nan"),
    ],
)
def test_numbers_are_written_for_people(value, text):
    assert theme.written(value) == text


FINITE = st.floats(1e-30, 1e30) | st.floats(-1e30, -1e-30) | st.just(0.0)


@given(st.lists(FINITE, min_size=1, max_size=8))
def test_numbers_that_stand_together_have_three_digits_and_one_notation(values):
    texts = theme.written_alike(values)
    for value, text in zip(values, texts, strict=True):
        assert number(text) == pytest.approx(value, rel=5.01e-3)
        digits = text.lstrip("-").partition("×")[0].replace(".", "").lstrip("0")
        assert len(digits) == 3 or value == 0
    assert len({"×" in text for text in texts if text != "0"}) <= 1


def test_a_colour_bar_has_one_notation():
    bar = figures.heatmap({0: np.array([6e-5, 1.05e-4, 2e-3, 0.5])}, 1, 1, "log").data[0].colorbar
    assert all("×10" in text for text in bar.ticktext) and bar.ticktext[0] == "6.00×10⁻⁵"


def test_block_means_carry_their_intervals():
    figure = figures.block_means({2: (3.0, 2.5, 4.0), 0: (1.0, 0.9, 1.2)}, 3)
    points = figure.data[0]
    assert list(points.y) == [0, 2] and list(points.x) == [1, 3]
    assert points.error_x.array == pytest.approx([0.2, 1.0])
    assert points.error_x.arrayminus == pytest.approx([0.1, 0.5])


def test_cosines_leave_the_diagonal_out():
    z = figures.cosine_matrix(np.array([[1.0, 0.2], [0.2, 1.0]]), ["a", "b"]).data[0].z
    assert np.isnan(np.diag(z)).all() and z[0][1] == 0.2


def test_figures_load_neither_streamlit_nor_torch():
    code = "import sys, views.shared.figures; print({'streamlit', 'torch'} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert result.stdout.strip() == "set()", result.stderr
