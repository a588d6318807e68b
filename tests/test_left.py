"""The gap that is left after a merge: a naive second opinion, and M-Loss of an average."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import oracle
from mloss_core import Finished, MergeRecipe, run
from mloss_core.analysis.left import left_after, node_left
from mloss_core.architecture import c_fc
from mloss_core.data.calibration import preprocess
from mloss_core.mloss import score_block
from mloss_core.recipe import calibration_of
from mloss_core.vit import Tower


def merged(family, **changes):
    fields = {"method": "m-ties", "sources": family.sources, "keep": 0.4, "samples": 6} | changes
    recipe = MergeRecipe(family="tiny", **fields)
    events = list(run(recipe, family, device="cpu"))
    assert isinstance(events[-1], Finished)
    return recipe, events


@pytest.mark.parametrize("act", ["gelu", "quick_gelu", "relu"])
def test_a_block_in_plain_loops(act):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 3, 5)).astype(np.float32)
    layers = [(rng.normal(size=(4, 5)), rng.normal(size=4)) for _ in range(3)]
    layers = [(w.astype(np.float32), b.astype(np.float32)) for w, b in layers]
    own, alpha = layers[2], (0.7, 0.3)
    sigma = oracle.activation(act)
    expected = np.zeros(4)
    for node in range(4):
        for token in x.reshape(-1, 5):
            side = sigma(np.array([token @ own[0][node] + own[1][node]]))[0]
            for weight, (w, b) in zip(alpha, layers[:2], strict=True):
                side -= weight * sigma(np.array([token @ w[node] + b[node]]))[0]
            expected[node] += abs(side) / 6
    tensors = [(torch.from_numpy(w), torch.from_numpy(b)) for w, b in layers]
    got = node_left(torch.from_numpy(x), tensors[:2], tensors[2], act, alpha)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_of_a_plain_average_it_is_m_loss(family):
    """The averaged tower's own inputs, scored by the kernel of M-Loss (Eq. 4)."""
    recipe, events = merged(family, method="simple-average")
    weights = events[-1].weights
    left = {b.block: b.node for b in left_after(recipe, family, weights, device="cpu")}
    batch = calibration_of(dataclasses.replace(recipe, method="m-ties"), family)
    images = preprocess(batch.images, family.model, torch.device("cpu"))
    for block, inputs in enumerate(Tower(family.model, weights).block_inputs(images)):
        names = [f"{c_fc(block)}.{part}" for part in ("weight", "bias")]
        layers = [tuple(family.source(s).read(names)[n] for n in names) for s in recipe.sources]
        scores = score_block(block, inputs, layers, family.model.activation, recipe.alpha)
        np.testing.assert_allclose(left[block], scores.node, rtol=2e-3)
    assert len(left) == family.model.blocks


def test_nothing_is_left_where_one_source_has_all_the_weight(family):
    recipe = MergeRecipe(family="tiny", method="ties", sources=family.sources[:2], samples=6)
    alone = dataclasses.replace(recipe, weights=(1.0, 0.0))
    weights = family.source(family.sources[0]).load(torch.device("cpu"))
    for block in left_after(alone, family, weights, device="cpu"):
        assert np.abs(block.node).max() < 1e-6
