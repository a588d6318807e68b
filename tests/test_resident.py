"""Sources stay on a GPU while they fit there. "meta" stands in: a device without values."""

from __future__ import annotations

import pytest
import torch

from mloss_core import tensor_cache

META = torch.device("meta")


@pytest.fixture
def sources(family, monkeypatch):
    """Three sources, and a stand-in for a GPU with room."""
    monkeypatch.setattr(tensor_cache, "_kept", {})
    monkeypatch.setattr(tensor_cache, "free", lambda device: 1 << 30)
    return [family.source(name) for name in family.sources]


def moved(sources, names):
    """What `read` gives on a GPU."""
    return tensor_cache._moved(sources, names, META)


def test_on_a_cpu_tensors_are_as_they_are_stored(sources, family):
    name = next(iter(family.model.block_names(0)))
    tensors = tensor_cache.read(sources, [name], torch.device("cpu"))
    for ours, source in zip(tensors[name], sources, strict=True):
        assert torch.equal(ours, source.read([name])[name])
    assert not tensor_cache._kept


def test_what_fits_is_moved_once(sources, family):
    names = family.model.block_names(0)
    first, again = moved(sources, names), moved(sources, names)
    assert all(t.device == META for tensors in first for t in tensors.values())
    assert all(a[name] is b[name] for a, b in zip(first, again, strict=True) for name in names)


def test_another_choice_of_sources_drops_those_left_out(sources, family):
    names = family.model.block_names(0)
    first = moved(sources, names)
    two = moved(sources[:2], names)
    assert len(tensor_cache._kept) == 2
    assert all(a[n] is b[n] for a, b in zip(first[:2], two, strict=True) for n in names)


def test_what_does_not_fit_stays_mapped(sources, family, monkeypatch):
    whole = sum(map(tensor_cache._size, sources))
    names = family.model.block_names(0)
    monkeypatch.setattr(tensor_cache, "free", lambda device: int(whole / tensor_cache.SHARE) - 1)
    assert all(
        t.device.type == "cpu" for tensors in moved(sources, names) for t in tensors.values()
    )
    monkeypatch.setattr(tensor_cache, "free", lambda device: int(whole / tensor_cache.SHARE))
    assert all(t.device == META for tensors in moved(sources, names) for t in tensors.values())
