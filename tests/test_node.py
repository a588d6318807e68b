"""One node looked into, its reasons, and sets without a source: against the naive oracle."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import oracle
from mloss_core import BlockTheory, InputError, MergeRecipe, NodeScores, SecondOrder, theory
from mloss_core.analysis.compatibility.sets import compatibility_sets
from mloss_core.analysis.expectation import Setting
from mloss_core.analysis.leave_one_out import losses_along
from mloss_core.analysis.node import Node, gap, node_of, reasons
from mloss_core.analysis.theory import explained
from mloss_core.analysis.trace import TracedBlock, trace_blocks
from mloss_core.data.calibration import preprocess
from mloss_core.recipe import calibration_of
from tiny import TASKS

ACTS = ("relu", "leaky_relu", "gelu", "gelu_tanh", "quick_gelu", "silu")
BEFORE = MergeRecipe(
    family="tiny", method="m-ties", sources=TASKS, samples=4, inputs_from="pretrained",
    weights=(0.5, 0.25, 0.25), keep=0.5,
)  # fmt: skip
ALONG = dataclasses.replace(BEFORE, inputs_from="merged")


def naive(recipe, family):
    """Every source's pre-activations of every block, by the oracle: (q, images, tokens, nodes)."""
    batch = calibration_of(recipe, family)
    pixels = preprocess(batch.images, family.model, torch.device("cpu")).numpy()
    states = [
        {name: tensor.numpy() for name, tensor in file.load(torch.device("cpu")).items()}
        for file in (family.base(), *map(family.source, recipe.sources))
    ]
    heads, act = family.model.heads, family.model.activation
    base, *sources = states
    if recipe.inputs_from == "pretrained":
        return oracle.pretrained_pre_activations(base, sources, pixels, heads, act)
    blocks = range(family.model.blocks)
    merged, _ = oracle.m_ties(
        base, sources, recipe.alpha, pixels, heads, act, recipe.keep, recipe.variation, blocks
    )
    return oracle.pretrained_pre_activations(merged, sources, pixels, heads, act)


@pytest.fixture(params=[BEFORE, ALONG], ids=["before", "along"])
def recipe(request):
    return request.param


def test_a_nodes_pre_activations_and_losses_are_those_of_the_oracle(family, recipe):
    pre_activations = naive(recipe, family)
    for block_data in trace_blocks(recipe, family, TracedBlock.on_cpu, device="cpu"):
        block = block_data.scores.block
        for number in (0, 17, family.model.nodes - 1):
            node = node_of(block_data, number, family.model.activation, recipe.alpha)
            h = pre_activations[block][..., number]
            np.testing.assert_allclose(node.h, h, rtol=1e-3, atol=1e-4)
            flat = h.reshape(len(h), -1, 1)
            loss = oracle.node_mloss(flat, family.model.activation, recipe.alpha)[0]
            assert node.losses().mean() == pytest.approx(loss, rel=1e-3)
            assert node.losses().mean() == pytest.approx(block_data.scores.node[number], rel=1e-4)


def test_what_is_left_without_each_source_is_the_oracles(family, recipe):
    h = naive(recipe, family)[1][..., 5]
    node = Node(block=1, node=5, h=h, alpha=recipe.alpha, act="quick_gelu")
    flat = h.reshape(3, -1, 1)
    whole = oracle.node_mloss(flat, "quick_gelu", recipe.alpha)[0]
    gains = node.without()
    for i in range(3):
        others = [j for j in range(3) if j != i]
        total = sum(recipe.alpha[j] for j in others)
        alphas = [recipe.alpha[j] / total for j in others]
        left = oracle.node_mloss(flat[others], "quick_gelu", alphas)[0]
        assert gains[0, i] == pytest.approx((whole - left) / whole, rel=1e-9)
        assert gains[1, i] < gains[0, i] < gains[2, i]


def test_losses_along_the_merge_of_sets_are_the_oracles(family, recipe):
    pre_activations, alphas = naive(recipe, family), compatibility_sets(recipe)
    for losses in losses_along(recipe, family, alphas, device="cpu"):
        h = pre_activations[losses.block].reshape(3, -1, family.model.nodes)
        for row, per_image in zip(alphas, losses.of("node"), strict=True):
            members = [i for i in range(3) if row[i] > 0]
            few = [float(row[i]) for i in members]
            loss = oracle.set_losses(h, "quick_gelu", members, few)[0]
            assert per_image.mean() == pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize("act", ACTS)
def test_the_gap_is_the_distance_of_both_sides(act):
    h, alpha = np.array([-0.4, 0.3, 1.1]), (0.2, 0.5, 0.3)
    activation_gap = gap(h, act, alpha)
    sigma = oracle.activation(act)
    mean = sum(a * x for a, x in zip(alpha, h, strict=True))
    assert activation_gap.mean == pytest.approx(mean)
    assert activation_gap.merged == pytest.approx(float(sigma(np.array(mean))))
    both = sum(a * float(sigma(np.array(x))) for a, x in zip(alpha, h, strict=True))
    assert activation_gap.ensembled == pytest.approx(both)
    assert activation_gap.size == pytest.approx(abs(activation_gap.merged - both))
    step = 1e-3
    around = [float(sigma(np.array(mean + d))) for d in (-step, step)]
    assert activation_gap.slope == pytest.approx((around[1] - around[0]) / (2 * step), abs=1e-5)


def test_the_typical_token_is_nearest_to_the_mean_loss():
    rng = np.random.default_rng(0)
    node = Node(block=0, node=0, h=rng.normal(size=(3, 5, 7)), alpha=(0.2, 0.3, 0.5), act="gelu")
    image, token = node.typical()
    here = gap(node.h[:, image, token], "gelu", node.alpha).size
    mean = float(node.losses().mean())
    for i in range(5):
        for j in range(7):
            size = gap(node.h[:, i, j], "gelu", node.alpha).size
            assert abs(here - mean) <= abs(size - mean) + 1e-15


def test_shares_of_the_variance():
    h = np.array([[[0.0, 1.0]], [[1.0, 2.0]], [[5.0, 3.0]]])
    alpha = (0.5, 0.25, 0.25)
    parts = [0.0, 0.0, 0.0]
    for token in range(2):
        values = [h[i, 0, token] for i in range(3)]
        mean = sum(a * v for a, v in zip(alpha, values, strict=True))
        for i in range(3):
            parts[i] += alpha[i] * (values[i] - mean) ** 2
    node = Node(block=0, node=0, h=h, alpha=alpha, act="gelu")
    assert node.spread() == pytest.approx(np.array(parts) / sum(parts))


def test_equal_sources_divide_by_nothing():
    node = Node(block=0, node=0, h=np.ones((3, 2, 2)), alpha=(1 / 3,) * 3, act="gelu")
    assert np.abs(node.losses()).max() < 1e-15 and np.isfinite(node.without()).all()
    assert np.isfinite(node.spread()).all()
    two = Node(block=0, node=0, h=np.ones((2, 2, 2)), alpha=(0.5, 0.5), act="gelu")
    assert two.without() is None


def test_a_node_that_is_not_there_is_refused(family):
    block_data = next(trace_blocks(BEFORE, family, TracedBlock.on_cpu, device="cpu"))
    for number in (-1, family.model.nodes):
        with pytest.raises(InputError, match="is not in the block; its nodes are 0 to 127"):
            node_of(block_data, number, "gelu", BEFORE.alpha)


def test_reasons_multiply_to_the_loss(family):
    rows = list(theory(ALONG, family, device="cpu"))
    for row in rows:
        losses = row.scores.node
        for node in (0, 3, int(losses.argmax()), int(losses.argmin())):
            relative = reasons(row, node)
            assert relative.loss == pytest.approx(losses[node] / losses.mean())
            product = relative.curvature * relative.variance * relative.meeting * relative.rest
            assert product == pytest.approx(relative.loss)
            assert relative.rank == sorted(losses, reverse=True).index(losses[node]) + 1
            assert relative.variance == pytest.approx(
                row.factors.variance[node] / row.factors.variance.mean()
            )
    fit = explained(rows)
    predicted = sum(float(v) for row in rows for v in row.factors.product)
    measured = sum(float(v) for row in rows for v in row.scores.node)
    assert fit.share == pytest.approx(predicted / measured)


def test_reasons_of_nothing_are_not_known():
    zero = np.zeros(3)
    scores = NodeScores(block=0, node=zero, node_normalised=zero, layer=0.0,
                        layer_normalised=0.0, per_image=np.zeros(2))  # fmt: skip
    factors = SecondOrder(curvature=zero + 1, variance=zero, product=zero, centre=zero, square=zero)
    setting = Setting(activation="gelu", k=1.0, s=1.0, q=2)
    row = BlockTheory(scores=scores, factors=factors, setting=setting, predicted=0.0)
    relative = reasons(row, 1)
    assert relative.rank == 1 and relative.curvature == 1
    assert all(
        math.isnan(v) for v in (relative.loss, relative.variance, relative.meeting, relative.rest)
    )
