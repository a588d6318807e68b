"""Files of a merge are hashed and looked through once, several at a time, and refused as ever."""

from __future__ import annotations

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from mloss_core import load
from mloss_core.checkpoints import hashes, image_tower
from mloss_core.cli.ahead import hash_ahead
from mloss_core.errors import BadFile, BadTensor

CONV = "visual.conv1.weight"


@pytest.fixture
def fresh():
    """No file was hashed or looked through yet."""
    hashes._begun.clear()  # of commands that other tests ended early
    for cached in (hashes.sha256, image_tower._first_not_finite):
        cached.cache_clear()


def test_each_file_is_read_once(own_family, fresh):
    family = load("tiny")
    family.read_through(family.sources)
    counts = [f.cache_info().misses for f in (hashes.sha256, image_tower._first_not_finite)]
    assert counts == [len(family.sources) + 1] * 2
    for checkpoint in (family.base(), *map(family.source, family.sources)):
        assert checkpoint.sha256 == hashlib.sha256(checkpoint.path.read_bytes()).hexdigest()
    again = [f.cache_info().misses for f in (hashes.sha256, image_tower._first_not_finite)]
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


def test_hashes_begun_ahead_are_those_that_the_merge_asks_for(own_family, fresh, monkeypatch):
    taken = []
    computed = hashes._computed
    monkeypatch.setattr(hashes, "_computed", lambda at: taken.append(at) or computed(at))
    family = load("tiny")
    hash_ahead(["--keep", "0.2", "--family=tiny", "--sources", family.sources[0], "--json"])
    files = {family.base().files[0], family.source(family.sources[0]).files[0]}
    assert set(hashes._begun) == files
    for at in files:
        assert hashes.sha256(at) == hashlib.sha256(at.path.read_bytes()).hexdigest()
    assert sorted(taken) == sorted(files) and not hashes._begun


@pytest.mark.parametrize(
    "arguments",
    [["--family"], ["--family", "no such"], ["--family=../x"], ["--family=tiny", "--sources=no"]],
)
def test_what_cannot_be_hashed_ahead_is_left_to_the_command(arguments, own_family, fresh):
    for path in (own_family / "sources").iterdir():
        path.unlink()
    hash_ahead(arguments)
    hash_ahead(["--family=tiny"])
    assert all(at.path == own_family / "base.safetensors" for at in hashes._begun)
    hashes._begun.clear()


def test_a_file_that_vanishes_while_it_is_hashed_is_named(own_family, fresh):
    family = load("tiny")
    base = family.base()
    base.path.unlink()
    hashes.begin(base.files)
    with pytest.raises(BadFile, match="does not exist"):
        _ = base.sha256
