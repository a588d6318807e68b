"""Files of a merge are hashed and looked through once, several at a time, and refused as ever."""

from __future__ import annotations

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from mloss_core import load
from mloss_core.checkpoints import image_tower
from mloss_core.errors import BadTensor

CONV = "visual.conv1.weight"


@pytest.fixture
def fresh():
    """No file was hashed or looked through yet."""
    for cached in (image_tower._sha256, image_tower._first_not_finite):
        cached.cache_clear()


def test_each_file_is_read_once(own_family, fresh):
    family = load("tiny")
    family.read_through(family.sources)
    counts = [f.cache_info().misses for f in (image_tower._sha256, image_tower._first_not_finite)]
    assert counts == [len(family.sources) + 1] * 2
    for checkpoint in (family.base(), *map(family.source, family.sources)):
        assert checkpoint.sha256 == hashlib.sha256(checkpoint.path.read_bytes()).hexdigest()
    again = [f.cache_info().misses for f in (image_tower._sha256, image_tower._first_not_finite)]
    assert again == counts


@pytest.mark.parametrize("damaged", ["base", "source"])
def test_what_is_wrong_is_left_to_who_asks_for_it(damaged, own_family, fresh):
    family = load("tiny")
    bad = family.sources[-1]
    path = family.parts.base if damaged == "base" else family.parts.sources[bad]
    tensors = load_file(path)
    save_file({**tensors, CONV: torch.full_like(tensors[CONV], torch.nan)}, path)
    family.read_through(family.sources)
    with pytest.raises(BadTensor, match=f"{damaged}.*{CONV} holds NaN or infinity"):
        family.source(bad)


def test_tensors_that_do_not_fit_are_not_read(own_family, fresh):
    family = load("tiny")
    path = family.parts.sources[family.sources[0]]
    save_file({**load_file(path), "visual.more": torch.zeros(1)}, path)
    family.read_through(family.sources)
    assert image_tower._first_not_finite.cache_info().misses == 0
    with pytest.raises(BadTensor, match=r"visual\.more"):
        family.source(family.sources[0])
