"""Files with bits flipped and ends cut off: they load or are refused, and nothing else."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mloss_core import MlossError, load, load_batch
from scripts.torture.mutate import damage


def damages(head: float):
    """Few flips, as often in the first bytes (a header) as anywhere."""
    places = st.one_of(st.floats(0, 1), st.floats(0, head), st.floats(1 - head, 1))
    flips = st.lists(st.tuples(places, st.integers(0, 7)), max_size=4)
    return {"cut": st.one_of(st.just(1.0), st.floats(0, 1)), "flips": flips}


@given(**damages(head=0.05))
def test_a_damaged_source_loads_or_is_refused(own_family, cut, flips):
    path = own_family / "sources" / "apples.safetensors"
    whole = own_family.parent / "whole"
    if not whole.exists():
        shutil.copy(path, whole)
    path.write_bytes(damage(whole.read_bytes(), cut, flips))
    try:
        tensors = load("tiny").source("apples").load(torch.device("cpu"))
    except MlossError as error:
        assert "\n" not in str(error)
    else:
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@given(**damages(head=0.3))
def test_damaged_pictures_load_or_are_refused(write, family, tmp_path, cut, flips):
    path = tmp_path / "pictures.npz"
    buffer = io.BytesIO()
    write(buffer, images=np.zeros((2, 16, 16, 3), np.uint8))
    path.write_bytes(damage(buffer.getvalue(), cut, flips))
    try:
        assert load_batch(path, family.model).images.shape[1:] == (16, 16, 3)
    except MlossError as error:
        assert "\n" not in str(error)
