"""What leaving a source out would do if all were alike: against simulations and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mloss_core.analysis.compatibility import words
from mloss_core.analysis.exchangeable import gains_if_alike, variance_if_alike
from mloss_core.mloss import MEASURES

HEAVY = (0.7, 0.1, 0.1, 0.1)


def without(alpha, i):
    others = np.array([0.0 if j == i else a for j, a in enumerate(alpha)])
    return others / others.sum()


def simulated(alpha, draw, shift, tokens=60, nodes=3000, seed=0):
    """Gains of Eqs. 4, 3 and 6 from sources that are alike, through SiLU written out here."""
    rng, q = np.random.default_rng(seed), len(alpha)
    centre = rng.normal(-0.7, 1.2, (tokens, nodes))
    h = centre + shift * draw(rng, (q, tokens, nodes))
    silu = lambda x: x / (1 + np.exp(-x))  # noqa: E731

    def losses(weights):
        mixed = silu(np.tensordot(weights, h, 1))
        gap = np.abs(mixed - np.tensordot(weights, silu(h), 1))
        layer = np.linalg.norm(gap, axis=1)
        size = np.linalg.norm(mixed, axis=1) + 1e-4
        return np.array([gap.mean(), layer.mean(), (layer / size).mean()])

    whole = losses(np.array(alpha))
    return np.array([1 - losses(without(alpha, i)) / whole for i in range(q)])


def normal(rng, shape):
    return rng.standard_normal(shape)


def heavy_tailed(rng, shape):
    return rng.standard_t(5, shape) * math.sqrt(3 / 5)


def unequal_rows(rng, shape):
    """Each source moves each node by an amount of its own."""
    q, _, nodes = shape
    return rng.standard_normal(shape) * np.exp(0.5 * rng.standard_normal((q, 1, nodes)))


@pytest.mark.parametrize("alpha", [(1 / 3,) * 3, (1 / 4,) * 4, (1 / 8,) * 8, HEAVY])
def test_all_measures_are_those_of_simulated_sources_that_are_alike(alpha):
    gains = simulated(alpha, normal, 0.05)
    light = slice(1, None) if alpha is HEAVY else slice(None)
    for column, measure in enumerate(MEASURES):
        like = gains_if_alike(alpha, measure)
        assert gains[light, column].mean() == pytest.approx(like[-1], abs=0.003)
        if alpha is HEAVY:
            assert gains[0, column] == pytest.approx(like[0], abs=0.015)


@pytest.mark.parametrize(("q", "node", "layer"), [
    (3, 0.25, 1 - math.sqrt(27 / 32)), (4, 1 / 9, 1 - math.sqrt(128 / 135)),
    (8, 1 / 49, 1 - math.sqrt(1024 / 1029)),
])  # fmt: skip
def test_equal_weights_by_hand(q, node, layer):
    """(1 - 1/(q-1)) / (1 - 1/q) of nodes; (1 - 1/(q-1)^2) / (1 - 1/q^2) under the layer's root."""
    assert gains_if_alike((1 / q,) * q, "node") == pytest.approx([node] * q)
    for measure in ("layer", "normalised"):
        assert gains_if_alike((1 / q,) * q, measure) == pytest.approx([layer] * q)


def test_unequal_weights_by_hand():
    """A is .52; of the others 1/3 without the heavy source, and 51/81 without a light one."""
    node = gains_if_alike(HEAVY, "node")
    assert node == pytest.approx([1 - (2 / 3) / 0.48, *[1 - (30 / 81) / 0.48] * 3])
    assert np.round(100 * node, 1).tolist() == [-38.9, 22.8, 22.8, 22.8]


@pytest.mark.parametrize("draw", [heavy_tailed, unequal_rows])
@pytest.mark.parametrize("q", [3, 4, 8])
def test_nodes_keep_their_gain_whatever_the_distribution_and_layers_do_not(draw, q):
    """Why a layer's is called an estimate: the range that docs/theory.md gives."""
    gains = simulated((1 / q,) * q, draw, 0.05).mean(0)
    assert gains[0] == pytest.approx(gains_if_alike((1 / q,) * q, "node")[0], abs=0.004)
    low, high = {3: (0.08, 0.10), 4: (0.005, 0.03), 8: (-0.017, 0.005)}[q]
    assert low < gains[1] < high and low < gains[2] < high


def test_weights_that_leave_no_loss_have_no_gain():
    assert np.isnan(gains_if_alike((1.0, 0.0, 0.0), "layer")).all()
    assert gains_if_alike((0.5, 0.5, 0.0), "node") == pytest.approx([1, 1, 0])
    assert words.alike(math.nan, "node") == ""


@pytest.mark.parametrize("alpha", [(0.2,) * 5, HEAVY, (0.5, 0.3, 0.2)])
def test_shares_of_the_variance_are_those_of_simulated_sources(alpha):
    d = np.random.default_rng(1).standard_normal((len(alpha), 200_000))
    parts = np.array(alpha) * np.square(d - np.array(alpha) @ d).mean(1)
    assert variance_if_alike(alpha) == pytest.approx(parts / parts.sum(), abs=0.004)
    assert variance_if_alike(alpha).sum() == pytest.approx(1)
    assert np.isnan(variance_if_alike((1.0, 0.0))).all()


def gains(*rows):
    return np.array(rows, dtype=float).T


def test_words_say_what_each_source_would_give_for_its_measure_and_weight():
    intervals = gains((0.3, 0.25, 0.35), (-0.1, -0.2, -0.05), (0.25, 0.2, 0.3))
    node = words.gains(["a", "b", "c"], intervals, (1 / 3,) * 3, "node")
    assert node.startswith("**Leaving out a lowers M-Loss most**: by 30.0% (95 % interval 25.0%")
    assert "If all sources were alike, M-Loss would fall by 25.0% without it. Only" in node
    assert "Without b M-Loss falls less than that, or rises" in node
    layer = words.gains(["a", "b", "c"], intervals, (1 / 3,) * 3, "layer")
    assert "would fall by about 8.1% without it, an estimate" in layer
    heavy = words.gains(list("abcd"), gains(*[(0.1, 0.05, 0.15)] * 4), HEAVY, "node")
    assert "would rise by 38.9%" in heavy and "Without b, c, d M-Loss falls less" in heavy


def test_no_gain_is_claimed_where_the_interval_holds_zero():
    rows = gains((0.01, -0.01, 0.03), (-0.1, -0.2, 0.0), (-0.1, -0.2, 0.0))
    said = words.gains(["a", "b", "c"], rows, (1 / 3,) * 3, "layer")
    assert said.startswith("**Leaving out a source is not shown to lower M-Loss**: most falls")
    unknown = gains(*[(0.1, math.nan, math.nan)] * 3)
    assert "not measured" in words.gains(["a", "b", "c"], unknown, (1 / 3,) * 3, "layer")
    assert "alike" not in words.gains(["a", "b", "c"], rows, (1.0, 0.0, 0.0), "layer")
