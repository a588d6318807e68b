"""Figures that explain a node: what is drawn is what was given."""

from __future__ import annotations

import numpy as np
import pytest

from views.explain import why_figures as figures


def curve(low, high):
    x = np.linspace(low, high, 9)
    return x, x**2


def test_histograms_hold_every_token_once_and_the_curve():
    h = np.random.default_rng(0).normal(size=(2, 5000))
    figure = figures.histograms(h, ("a", "b"), (0, 3), curve(-4, 4), 0.25)
    activation, *sources = figure.data
    assert activation.name == "activation σ" and list(activation.y) == list(activation.x**2)
    assert activation.yaxis == "y2", "the curve has its own axis"
    for values, trace in zip(h, sources, strict=True):
        low, high = figures.span(h)
        inside = ((values >= low) & (values <= high)).mean()
        assert sum(trace.y) == pytest.approx(inside) and inside > 0.99
        assert len(trace.x) == figures.BINS
    assert [t.name for t in sources] == ["a", "b"]
    assert sources[0].line.color != sources[1].line.color
    assert figure.layout.shapes[0].x0 == 0.25


@pytest.mark.parametrize("value", [0.0, -3.0, 1e6])
def test_equal_pre_activations_still_have_a_span(value):
    low, high = figures.span(np.full((3, 4), value))
    assert low < value < high
    assert figures.histograms(np.full((1, 4), value), ("a",), (0,), curve(low, high), value).data[
        1
    ].y == pytest.approx([float(i == figures.BINS // 2) for i in range(figures.BINS)])


def test_below_the_tangent_is_taken_away_and_the_gap_stays():
    h = np.array([-1.0, 0.0, 3.0])  # equal weights: mean 2/3
    mean, slope = 2 / 3, 4 / 3
    merged, ensembled = mean**2, 10 / 3
    figure = figures.gap(
        h, h**2, ("a", "b", "c"), (0, 1, 2), curve(-2, 4), (mean, merged, ensembled, slope)
    )
    above, below = (
        next(t for t in figure.data if t.yaxis == axis and t.name == "gap") for axis in ("y", "y2")
    )
    assert list(above.y) == pytest.approx([merged, ensembled])
    assert list(below.y) == pytest.approx([0, ensembled - merged])
    heights = [t.y[0] for t in figure.data if t.yaxis == "y2" and t.name in "abc"]
    assert sum(heights) / 3 == pytest.approx(ensembled - merged), "the gap is their mean height"
    names = [t.name for t in figure.data if t.showlegend]
    assert len(names) == len(set(names)) == 7, "each name once in the legend"
