"""SMILE's routes: which source each token goes to, against plain NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import oracle
from mloss_core import METHODS, MergeRecipe
from mloss_core.data.calibration import preprocess
from mloss_core.methods import Models
from mloss_core.methods.matrices import LAYERS
from mloss_core.methods.smile import Smile

CPU = torch.device("cpu")


def state(checkpoint):
    return {n: t.numpy().astype(np.float64) for n, t in checkpoint.load(CPU).items()}


def smile_of(family, sources):
    recipe = MergeRecipe(family="tiny", method="smile", sources=sources)
    files = [family.source(name) for name in sources]
    models = Models(config=family.model, base=family.base().load(CPU), sources=files, device=CPU)
    several = METHODS["smile"].several
    assert several is not None
    smile = several(models, recipe)
    assert isinstance(smile, Smile)
    assert len(list(smile.prepare(recipe))) == family.model.blocks
    return smile


def pixels(family, count, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    return preprocess(images, family.model, CPU)


def best(leading, x):
    """The source whose first right singular vector a token meets most, token by token."""
    chosen = np.zeros(x.shape[:-1], dtype=int)
    for place in np.ndindex(x.shape[:-1]):
        meets = [abs(sum(a * b for a, b in zip(v, x[place], strict=True))) for v in leading]
        chosen[place] = meets.index(max(meets))
    return chosen


def normed(base, name, x):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    unit = (x - mean) / np.sqrt(variance + 1e-5)
    return unit * base[f"{name}.weight"] + base[f"{name}.bias"]


def routes_by_loops(base, sources, images, heads, act):
    """Each block's chosen sources in every linear layer, from tower and experts written out."""
    embedded = oracle.embed(base, images)
    x, sigma, blocks = embedded, oracle.activation(act), []
    for block in range(oracle.depth(base)):
        name, chosen = f"{oracle.BLOCKS}{block}.", {}

        def layer(weight, x, name=name, chosen=chosen):
            bias = weight.removesuffix("weight") + "bias"
            deltas = [s[name + weight] - base[name + weight] for s in sources]
            parts = [np.linalg.svd(d, full_matrices=False) for d in deltas]
            chosen[weight] = best([v[0] for _, _, v in parts], x)
            y = x @ base[name + weight].T + base[name + bias]
            for place in np.ndindex(x.shape[:-1]):
                i = chosen[weight][place]
                y[place] += deltas[i] @ x[place] + sources[i][name + bias] - base[name + bias]
            return y

        stacked = layer(LAYERS[0], normed(base, name + "ln_1", x))
        x = x + layer(LAYERS[1], attention(stacked, heads))
        hidden = sigma(layer(LAYERS[2], normed(base, name + "ln_2", x)))
        x = x + layer(LAYERS[3], hidden)
        blocks.append(chosen)
    return blocks


def attention(stacked, heads):
    width = stacked.shape[-1] // 3
    size, out = width // heads, np.zeros((*stacked.shape[:-1], width))
    for n, head in np.ndindex(len(stacked), heads):
        of = slice(head * size, (head + 1) * size)
        q, k, v = (stacked[n, :, i * width : (i + 1) * width][:, of] for i in range(3))
        odds = np.exp(q @ k.T / math.sqrt(size))
        out[n, :, of] = odds / odds.sum(1, keepdims=True) @ v
    return out


@pytest.mark.parametrize("sources", [("apples", "bridges"), ("apples", "bridges", "clouds")])
def test_every_token_goes_where_plain_loops_send_it(family, sources):
    """The tiny family's rank is below that of an expert, so that experts are whole."""
    smile, images = smile_of(family, sources), pixels(family, 5)
    got = list(smile.routes(images))
    base, files = state(family.base()), [state(family.source(s)) for s in sources]
    heads, act = family.model.heads, family.model.activation
    expected = routes_by_loops(base, files, images.double().numpy(), heads, act)
    assert len(got) == len(expected) == family.model.blocks
    for ours, loops in zip(got, expected, strict=True):
        assert list(ours) == list(LAYERS)
        for layer in LAYERS:
            assert ours[layer].shape == (5, family.model.tokens)
            np.testing.assert_array_equal(ours[layer].numpy(), loops[layer])
    assert len({int(c) for block in got for c in block[LAYERS[2]].flatten()}) > 1


def test_routes_change_nothing_and_do_not_depend_on_the_other_images(family, monkeypatch):
    smile, images = smile_of(family, family.sources), pixels(family, 4)
    features = smile.features(images, "apples")
    whole = list(smile.routes(images))
    assert torch.equal(smile.features(images, "apples"), features)
    monkeypatch.setattr("mloss_core.vit.ROWS", 1)  # an image at a time
    for block, alone in zip(whole, smile.routes(images), strict=True):
        assert all(torch.equal(block[layer], alone[layer]) for layer in LAYERS)
