"""The gaps that are left after a merge: a naive second opinion, and M-Loss of an average."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

import oracle
from mloss_core import Finished, MergeRecipe, load, run
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


def pixels_of(model, images):
    """Preprocessed by hand."""
    mean, std = (np.reshape(v, (3, 1, 1)) for v in (model.mean, model.std))
    return (images.transpose(0, 3, 1, 2) / 255 - mean) / std


def state(checkpoint):
    return {n: t.numpy() for n, t in checkpoint.load(torch.device("cpu")).items()}


def activations(state, pixels, model):
    """sigma of every block's c_fc through a model, (images, tokens, nodes), by plain loops."""
    x, sigma = oracle.embed(state, pixels), oracle.activation(model.activation)
    for block in range(model.blocks):
        middle = oracle.attention_half(state, block, x, model.heads)
        inputs = oracle.mlp_input(state, block, middle)
        yield sigma(oracle.linear(state, c_fc(block), inputs))
        x = oracle.mlp_half(state, block, middle, model.activation)


def test_the_gap_to_each_source_in_plain_loops(family):
    """Both models on the images of the source's own task, each through its own blocks."""
    recipe, events = merged(family, method="ties", samples=7)
    weights = {n: t.numpy() for n, t in events[-1].weights.items()}
    left = list(left_after(recipe, family, events[-1].weights, device="cpu"))
    batch = calibration_of(dataclasses.replace(recipe, method="m-ties"), family)
    assert sorted(map(batch.tasks.count, recipe.sources)) == [2, 2, 3]
    for i, source in enumerate(recipe.sources):
        images = batch.images[[task == source for task in batch.tasks]]
        pixels = pixels_of(family.model, images)
        ours = activations(weights, pixels, family.model)
        own = activations(state(family.source(source)), pixels, family.model)
        for block, (a, b) in enumerate(zip(ours, own, strict=True)):
            expected = np.abs(a - b).mean((0, 1))
            np.testing.assert_allclose(left[block].own[i], expected, rtol=1e-4, atol=1e-6)


def test_a_source_is_at_no_distance_from_itself(family):
    recipe = MergeRecipe(family="tiny", method="ties", sources=family.sources, samples=6)
    weights = family.source(family.sources[1]).load(torch.device("cpu"))
    for block in left_after(recipe, family, weights, device="cpu"):
        assert block.own.shape == (3, family.model.nodes)
        assert np.abs(block.own[1]).max() < 1e-6
        assert block.own[0].min() > 0 and block.own[2].min() > 0


def test_a_source_without_images_in_the_draw_is_unknown(family):
    recipe = MergeRecipe(family="tiny", method="ties", sources=family.sources, samples=2)
    weights = family.source(family.sources[0]).load(torch.device("cpu"))
    blocks = list(left_after(recipe, family, weights, device="cpu"))
    batch = calibration_of(dataclasses.replace(recipe, method="m-ties"), family)
    for block in blocks:
        for row, source in zip(block.own, recipe.sources, strict=True):
            assert np.isnan(row).all() if source not in batch.tasks else np.isfinite(row).all()
    assert len(blocks) == family.model.blocks and len(set(batch.tasks)) == 2


def test_images_that_say_no_task_leave_the_gap_to_sources_unknown(own_family):
    """A pool that is a folder of pictures."""
    with np.load(own_family / "calibration.npz") as pool:
        images = pool["images"][:5]
    (own_family / "calibration.npz").unlink()
    (own_family / "pictures").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(own_family / "pictures" / f"{i}.png")
    about = json.loads((own_family / "family.json").read_text()) | {"calibration": "pictures"}
    (own_family / "family.json").write_text(json.dumps(about))
    family = load("tiny")
    recipe = MergeRecipe(family="tiny", method="ties", sources=family.sources, samples=4)
    weights = family.base().load(torch.device("cpu"))
    blocks = list(left_after(recipe, family, weights, device="cpu"))
    assert len(blocks) == 3 and all(block.own is None for block in blocks)
    assert all(block.node.min() >= 0 for block in blocks)


def test_sources_of_one_task_share_its_images(own_family):
    about = json.loads((own_family / "family.json").read_text())
    tasks = [about["tasks"][0] | {"sources": ["apples", "clouds"]}, about["tasks"][1]]
    (own_family / "family.json").write_text(json.dumps(about | {"tasks": tasks}))
    family = load("tiny")
    recipe = MergeRecipe(family="tiny", method="ties", sources=("apples", "clouds"), samples=4)
    for name, row in (("apples", 0), ("clouds", 1)):
        weights = family.source(name).load(torch.device("cpu"))
        for block in left_after(recipe, family, weights, device="cpu"):
            assert np.abs(block.own[row]).max() < 1e-6 < block.own[1 - row].min()
