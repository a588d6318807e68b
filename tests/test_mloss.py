"""M-Loss against the naive oracle, and what must hold whatever the numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import oracle
from mloss_core import ACTIVATIONS, keep_rates, score_block, token_gap
from mloss_core import mloss as scoring
from mloss_core.errors import BadValue, UnknownName

ACTS = ("relu", "leaky_relu", "gelu", "gelu_tanh", "quick_gelu", "silu")
SHAPES = {
    "seed": st.integers(0, 2**32 - 1),
    "q": st.integers(2, 5),
    "tokens": st.integers(1, 6),
    "nodes": st.integers(1, 7),
}


def node_mloss(h, act, weights=None, **options):
    """Eq. 4 or 7 of one merge from pre-activations, as the path of the README goes."""
    return scoring.node_mloss(token_gap(h, act, weights), **options)[0]


def layer_mloss(h, act, weights=None, **options):
    """Eq. 3 or 6 of one merge, mean over tokens, from pre-activations."""
    sums = scoring.node_sums(token_gap(h, act, weights))
    return scoring.layer_mloss(sums, **options)[0].mean()


def draw(seed, q, tokens, nodes, spread=2.0):
    """Pre-activations, and weights: 1/q each (None) for even seeds."""
    rng = np.random.default_rng(seed)
    h = rng.normal(0, spread, (q, tokens, nodes))
    return h, (None if seed % 2 == 0 else rng.dirichlet(np.ones(q)).tolist())


def test_the_activations_are_the_six_known_ones():
    assert tuple(ACTIVATIONS) == ACTS


@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("normalised", [False, True])
@given(**SHAPES, spread=st.sampled_from([0.1, 2.0, 20.0]))
def test_node_and_layer_agree_with_the_oracle(
    act, normalised, dtype, rtol, seed, q, tokens, nodes, spread
):
    h, weights = draw(seed, q, tokens, nodes, spread)
    given = torch.tensor(h, dtype=dtype)
    # A loss is a difference: it is rounded as what it was taken from. Where Eqs. 6 and 7 divide
    # by next to nothing this grows with 1 / eps^2, so that a wide eps is compared here.
    atol = torch.finfo(dtype).eps * spread * 20 * (1 + 10 * spread if normalised else 1)
    for ours, reference in ((node_mloss, oracle.node_mloss), (layer_mloss, oracle.layer_mloss)):
        loss = ours(given, act, weights, normalised=normalised, eps=0.1).numpy()
        expected = reference(given.numpy(), act, weights, normalised, eps=0.1)
        np.testing.assert_allclose(loss, expected, rtol=rtol, atol=atol * nodes)


@pytest.mark.parametrize("act", ACTS)
def test_normalised_losses_divide_by_the_papers_epsilon(act):
    h, _ = draw(0, q=3, tokens=6, nodes=7)
    for ours, reference in ((node_mloss, oracle.node_mloss), (layer_mloss, oracle.layer_mloss)):
        loss = ours(torch.tensor(h), act, normalised=True).numpy()
        np.testing.assert_allclose(loss, reference(h, act, None, True, eps=1e-4), rtol=1e-9)


@pytest.mark.parametrize("act", ACTS)
@given(**SHAPES)
def test_layer_is_the_root_of_summed_squares_of_nodes_for_each_token(act, seed, q, tokens, nodes):
    h, weights = draw(seed, q, tokens, nodes)
    layers = []
    for token in torch.tensor(h).unbind(1):
        one = token[:, None]
        layers.append(layer_mloss(one, act, weights))
        torch.testing.assert_close(layers[-1], node_mloss(one, act, weights).norm())
    torch.testing.assert_close(
        layer_mloss(torch.tensor(h), act, weights), torch.stack(layers).mean()
    )


@pytest.mark.parametrize("act", ACTS)
@given(**SHAPES)
def test_equal_sources_have_no_loss(act, seed, q, tokens, nodes):
    h, weights = draw(seed, q, tokens, nodes)
    same = torch.tensor(h[:1]).expand(q, -1, -1)
    assert node_mloss(same, act, weights).max() < 1e-14


@pytest.mark.parametrize("act", ACTS)
@given(**SHAPES)
def test_order_of_sources_does_not_matter(act, seed, q, tokens, nodes):
    h, weights = draw(seed, q, tokens, nodes)
    order = np.random.default_rng(seed).permutation(q)
    moved = None if weights is None else [weights[i] for i in order]
    there, here = torch.tensor(h[order]), torch.tensor(h)
    torch.testing.assert_close(node_mloss(there, act, moved), node_mloss(here, act, weights))


@pytest.mark.parametrize("act", ["relu", "leaky_relu"])
@given(**SHAPES)
def test_where_the_activation_is_linear_there_is_no_loss(act, seed, q, tokens, nodes):
    h, weights = draw(seed, q, tokens, nodes)
    assert node_mloss(torch.tensor(np.abs(h)), act, weights).max() < 1e-14


def test_the_pre_activations_are_left_as_they_are():
    for act in ACTS:
        h = torch.randn(3, 4, 5)
        before = h.clone()
        node_mloss(h, act)
        assert torch.equal(h, before)


def test_pre_activations_of_one_token_need_no_token_axis():
    h = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(node_mloss(h, "gelu"), node_mloss(h[:, None], "gelu"))


def test_wrong_weights_and_activations_are_refused():
    with pytest.raises(BadValue, match="another number of weights than the 3 sources"):
        node_mloss(torch.zeros(3, 1, 2), "relu", [0.5, 0.5])
    with pytest.raises(BadValue, match=r"sums to 1\.1"):
        node_mloss(torch.zeros(2, 1, 2), "relu", [0.5, 0.6])
    with pytest.raises(UnknownName, match=r"tanh.*choose from relu"):
        layer_mloss(torch.zeros(3, 1, 2), "tanh")


def block_of(seed, images=5, tokens=4, width=6, nodes=7, q=3):
    """Inputs and c_fc layers of a block, and the pre-activations they make."""
    torch.manual_seed(seed)
    inputs = torch.randn(images, tokens, width)
    layers = [(torch.randn(nodes, width), torch.randn(nodes)) for _ in range(q)]
    h = torch.stack([F.linear(inputs.double(), w.double(), b.double()) for w, b in layers])
    return inputs, layers, h


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("chunk", [1, 60, scoring.CHUNK])
@pytest.mark.parametrize("alpha", [(1 / 3, 1 / 3, 1 / 3), (0.5, 0.2, 0.3)])
def test_a_scored_block_is_what_its_pre_activations_say(act, chunk, alpha, monkeypatch):
    monkeypatch.setattr(scoring, "CHUNK", chunk)
    inputs, layers, h = block_of(7)
    scores = score_block(4, inputs, layers, act, alpha)
    assert scores.block == 4
    for normalised, node, layer in (
        (False, scores.node, scores.layer),
        (True, scores.node_normalised, scores.layer_normalised),
    ):
        expected = node_mloss(h, act, alpha, normalised=normalised).numpy()
        # Some token's merged activation is nearly zero: its rounding grows by 1 / eps.
        np.testing.assert_allclose(node, expected, rtol=1e-3 if normalised else 1e-5)
        expected = layer_mloss(h, act, alpha, normalised=normalised).item()
        assert layer == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("chunk", [60, scoring.CHUNK])
@pytest.mark.parametrize("alpha", [(1 / 3, 1 / 3, 1 / 3), (0.5, 0.2, 0.3)])
def test_squared_losses_are_those_of_the_oracle_and_only_when_asked(act, chunk, alpha, monkeypatch):
    monkeypatch.setattr(scoring, "CHUNK", chunk)
    inputs, layers, h = block_of(7)
    plain = score_block(0, inputs, layers, act, alpha)
    squared = score_block(0, inputs, layers, act, alpha, squared=True)
    assert plain.node_squared is None
    expected = oracle.node_squared(h.flatten(1, 2).numpy(), act, alpha)
    np.testing.assert_allclose(squared.node_squared, expected, rtol=1e-5)
    np.testing.assert_allclose(squared.node, plain.node, rtol=1e-6)


def test_the_loss_per_image_is_that_of_the_image_alone():
    inputs, layers, _ = block_of(1)
    alpha = (0.2, 0.3, 0.5)
    whole = score_block(0, inputs, layers, "quick_gelu", alpha)
    alone = [score_block(0, x[None], layers, "quick_gelu", alpha).node.mean() for x in inputs]
    np.testing.assert_allclose(whole.per_image, alone, rtol=1e-5)
    assert whole.per_image.mean() == pytest.approx(whole.node.mean(), rel=1e-5)


def test_products_in_bf16_give_nearly_the_same_losses():
    inputs, layers, h = block_of(3, images=40, nodes=64, width=32)
    scores = score_block(0, inputs, layers, "quick_gelu", (1 / 3,) * 3, torch.bfloat16)
    exact = node_mloss(h, "quick_gelu").numpy()
    np.testing.assert_allclose(scores.node, exact, rtol=0.02)
    assert np.abs(scores.node / exact - 1).max() > 1e-5  # it was not fp32 after all


@pytest.mark.parametrize("difference", [1e-2, 1e-3, 1e-4])
def test_close_sources_are_measured_as_doubles_would(difference):
    inputs, layers, _ = block_of(
        5, images=30, nodes=1100
    )  # several groups of nodes, the last short
    layers = [(layers[0][0] + difference * w, layers[0][1] + difference * b) for w, b in layers]
    h = torch.stack([F.linear(inputs, w, b).double() for w, b in layers])
    scores = score_block(0, inputs, layers, "quick_gelu", (1 / 3,) * 3)
    np.testing.assert_allclose(scores.node, node_mloss(h, "quick_gelu").numpy(), rtol=1e-3)


def test_some_tokens_of_each_image_are_drawn_anew_each_once():
    inputs = torch.arange(6 * 5).float().view(6, 5, 1).expand(-1, -1, 3)
    some = scoring.some_tokens(inputs, 3, seed=1)
    positions = some[:, :, 0] - 5 * torch.arange(6)[:, None]
    assert some.shape == (6, 3, 3)
    assert (positions.diff(dim=1) > 0).all() and positions.min() >= 0 and positions.max() < 5
    assert len({tuple(row) for row in positions.tolist()}) > 1
    assert torch.equal(some, scoring.some_tokens(inputs, 3, seed=1))
    assert not torch.equal(some, scoring.some_tokens(inputs, 3, seed=2))
    assert torch.equal(scoring.some_tokens(inputs, 5, seed=1), inputs)


RATES = st.tuples(st.floats(1e-3, 1), st.floats(0, 1)).map(lambda r: (r[0], r[0] * r[1]))


@given(scores=st.lists(st.integers(0, 5), min_size=1, max_size=20), rates=RATES)
def test_keep_rates_fall_with_the_score_and_by_index_among_equals(scores, rates):
    keep, variation = rates
    ours = keep_rates(np.array(scores, float), keep, variation)
    np.testing.assert_array_equal(ours, oracle.keep_rates(np.array(scores), keep, variation))
    ordered = ours[sorted(range(len(scores)), key=lambda j: (scores[j], j))]
    assert (np.diff(ordered) <= 0).all()
    assert ours.max() == keep
    assert ours.min() == (keep - variation if len(scores) > 1 else keep)


@given(scores=st.lists(st.integers(0, 5), min_size=1, max_size=20), rates=RATES)
def test_reversed_keep_rates_are_the_same_rates_turned_round(scores, rates):
    scores = np.array(scores, float)
    ours = keep_rates(scores, *rates, reverse=True)
    np.testing.assert_array_equal(ours, oracle.reversed_keep_rates(scores, *rates))
    plain = keep_rates(scores, *rates)
    assert sorted(ours) == sorted(plain)
    # Ranked by what reversing gave, where all scores differ, the reverse is what it was before.
    distinct = np.arange(len(scores), dtype=float)[::-1]
    once = keep_rates(distinct, *rates, reverse=True)
    if len(set(once)) == len(once):
        twice = keep_rates(once, *rates)
        np.testing.assert_array_equal(twice, keep_rates(distinct, *rates))


@pytest.mark.parametrize(
    "scores, keep, variation",
    [
        ([1.0], 0.0, 0.0),
        ([1.0], 1.1, 0.0),
        ([1.0], float("nan"), 0.0),
        ([1.0], 0.5, -0.1),
        ([1.0], 0.5, 0.6),
        ([1.0], 0.5, float("nan")),
        ([], 0.5, 0.1),
        ([1.0, float("nan")], 0.5, 0.1),
        ([float("inf")], 0.5, 0.1),
    ],
)
def test_keep_rates_are_never_made_up(scores, keep, variation):
    with pytest.raises(BadValue):
        keep_rates(np.array(scores, float), keep, variation)
