"""The image tower against open_clip's own modules."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from mloss_core import Tower, ViTConfig, vit
from tiny import CONFIG, open_clip_model

VARIANTS = {
    "tiny": {},
    "exact GELU": {"quick_gelu": False},
    "patch 4": {"vision_cfg": {"patch_size": 4}},
    "one block, one head": {"vision_cfg": {"layers": 1, "head_width": 32}},
    "wide MLP, small projection": {"embed_dim": 8, "vision_cfg": {"mlp_ratio": 6.0}},
}


def build(changes):
    """open_clip's image tower, no parameter left at 0 or 1, ours on its weights, and images."""
    config = copy.deepcopy(CONFIG)
    config["vision_cfg"] |= changes.get("vision_cfg", {})
    config |= {k: v for k, v in changes.items() if k != "vision_cfg"}
    visual = open_clip_model(config).visual
    with torch.no_grad():
        for parameter in visual.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    weights = {f"visual.{name}": t.detach() for name, t in visual.state_dict().items()}
    tower = Tower(ViTConfig.from_config("tiny", config), weights)
    return visual, tower, torch.randn(9, 3, 16, 16)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_features_and_names_are_those_of_open_clip(changes):
    visual, tower, images = build(changes)
    shapes = {name: tuple(tensor.shape) for name, tensor in tower.weights.items()}
    assert tower.family.shapes() == shapes
    with torch.no_grad():
        reference = visual(images)
    ours = tower.features(images)
    assert F.cosine_similarity(ours, reference).min() > 0.99999
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)


def test_features_do_not_depend_on_the_chunk(monkeypatch):
    _, tower, images = build({})
    whole = tower.features(images)
    monkeypatch.setattr(vit, "ROWS", 1)
    torch.testing.assert_close(tower.features(images), whole, rtol=1e-5, atol=1e-6)


def test_the_class_token_alone_goes_through_a_block_as_among_the_others():
    _, tower, images = build({})
    stream = tower.embed(images)
    alone = tower.block(2, stream, class_only=True)
    torch.testing.assert_close(alone, tower.block(2, stream)[:, :1], rtol=1e-5, atol=1e-6)


def test_a_stream_carried_on_from_any_block_ends_in_the_same_features():
    _, tower, images = build({})
    stream, whole = tower.embed(images), tower.features(images)
    for block in range(tower.family.blocks):
        torch.testing.assert_close(tower.head(stream, block), whole, rtol=1e-5, atol=1e-6)
        stream = tower.block(block, stream)
    torch.testing.assert_close(tower.head(stream, tower.family.blocks), whole, rtol=1e-5, atol=1e-6)


def test_no_images_have_no_features():
    _, tower, images = build({})
    assert tower.features(images[:0]).shape == (0, 16)
