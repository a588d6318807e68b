"""views/compatibility/figures.py: what stands in a plot is what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from views.compatibility import figures
from views.shared.theme import DIVERGING, HUES


def test_a_matrix_leaves_the_diagonal_out_and_writes_its_values():
    values = np.array([[0, 0.25, -0.001], [0.25, 0, 0.5], [-0.001, 0.5, 0]])
    tree = (np.zeros((2, 4)), np.ones((2, 4)))
    figure = figures.matrix(values, ["a", "b", "c"], "cosine", (0.0, 0.5), tree)
    heat = figure.data[-1]
    assert np.isnan(np.diag(heat.z)).all() and heat.z[0][1] == 0.25
    assert list(heat.text[0]) == ["", "0.25", "0.00"]
    assert len(figure.data) == 3 and (heat.zmin, heat.zmax) == (0, 0.5)


def test_gains_carry_the_colours_of_their_tasks_and_their_intervals():
    gains = np.array([[0.1, -0.2], [0.05, -0.3], [0.2, -0.1]])
    figure = figures.gains(gains, ["a", "b"], [5, 1], np.array([0.25, np.nan]))
    assert [t.marker.color for t in figure.data] == [HUES[5], HUES[1]]
    assert figure.data[0].error_x.array[0] == pytest.approx(0.1)
    assert figure.data[1].error_x.arrayminus[0] == pytest.approx(0.1)
    dashed, zero = figure.layout.shapes
    assert (dashed.x0, dashed.x1, dashed.y0, dashed.y1) == (0.25, 0.25, -0.5, 0.5)
    assert zero.x0 == 0


def test_differences_have_grey_at_zero():
    heat = figures.left_out(np.array([[0.1, -0.4]]), ["a"], [0, 1]).data[0]
    assert (heat.zmin, heat.zmax) == (-0.4, 0.4)
    assert dict(heat.colorscale)[0.5] == DIVERGING[2], "grey"
    assert [colour for _, colour in heat.colorscale] == list(DIVERGING[::-1]), "blue: it falls"


def test_drops_name_their_sets():
    drop = np.array([[1.0, 5.0], [0.0, 4.0], [3.0, 7.0]])
    figure = figures.drops(np.array([0.1, 0.2]), drop, [("a", "b"), ("a", "b", "c")], "M-Loss")
    assert [(t.name, list(t.text)) for t in figure.data] == [
        ("pairs", ["a, b"]), ("triples", ["a, b, c"])
    ]  # fmt: skip
    assert list(figure.data[1].y) == [5] and figure.data[0].error_y.array[0] == 2


def test_correlations_stand_beside_their_names():
    rows = {"M-Loss": {"pairs": (0.5, (0.1, 0.8)), "triples": (0.2, (-0.1, 0.4))},
            "cosine": {"pairs": (-0.2, (-0.5, 0.1))}}  # fmt: skip
    figure = figures.correlations(rows)
    assert [list(t.x) for t in figure.data] == [[0.5, -0.2], [0.2]]
    assert list(figure.layout.yaxis.ticktext) == ["M-Loss", "cosine"]
    assert figure.data[0].error_x.array == pytest.approx([0.3, 0.3])


def test_the_gap_has_a_bar_a_merge():
    rows = {"a": (np.array([0.3, 0.2, 0.4]), np.array([0.5, 0.4, 0.7]))}
    figure = figures.ensemble_gap(rows)
    assert [(bar.name, bar.y[0]) for bar in figure.data] == [("M-TIES", 0.3), ("TIES, same k", 0.5)]
    assert figure.data[1].error_y.array[0] == pytest.approx(0.2)
