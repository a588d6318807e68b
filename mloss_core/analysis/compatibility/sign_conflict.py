"""Sign conflict: how often two task vectors push the same entry in opposite directions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...families.family import Family
from ...hardware import device as devices
from ...hardware.out_of_memory import reported_memory
from ...recipe import check
from ...tensor_cache import read
from ...trim import TaskVectors, trim_
from ...types import MergeRecipe


@dataclass(frozen=True, kw_only=True)
class SignsCounted:
    """Entries of one block's tensors that trimming at k leaves of both sources of a pair.

    Args:
        block: None for the tensors outside the blocks.
        both: how many there are.
        opposed: how many of them have opposite signs.
        product: sum of abs(a b) over them, entry by entry.
        product_opposed: the same over those of opposite signs.
        seconds: wall time.
    """

    block: int | None
    both: Float[np.ndarray, "q q"]
    opposed: Float[np.ndarray, "q q"]
    product: Float[np.ndarray, "q q"]
    product_opposed: Float[np.ndarray, "q q"]
    seconds: float


def count_signs(
    recipe: MergeRecipe, family: Family, *, device: str = "auto"
) -> Iterator[SignsCounted]:
    """Counts, a block at a time, where trimmed task vectors agree and where they do not.

    Args:
        recipe: its sources and keep are read; tensors are trimmed one by one, as TIES does.

    Raises:
        InputError: before any work, where the recipe or the files are wrong.
    """
    check(recipe, family)
    place = devices.choose(device)
    with reported_memory(place.type):
        files, base = [family.source(name) for name in recipe.sources], family.base()
        for block in (None, *range(family.model.blocks)):
            start = time.perf_counter()
            outer = family.model.outer_names()
            names = outer if block is None else family.model.block_names(block)
            stored, sums = read(files, names, place), torch.zeros(4, len(files), len(files))
            sums = sums.double()
            for name in names:
                origin = base.read([name])[name].to(place).float()
                sums += _counted(TaskVectors(origin, stored[name]), recipe.keep).cpu()
            seconds = time.perf_counter() - start
            fields = ("both", "opposed", "product", "product_opposed")
            values = dict(zip(fields, sums.numpy(), strict=True))
            yield SignsCounted(block=block, **values, seconds=seconds)


def _counted(vectors: TaskVectors, keep: float) -> Float[Tensor, "4 q q"]:
    """The four tables of one tensor, a piece of rows at a time."""
    limits = vectors.limits(keep)
    counts = torch.zeros(4, len(limits), len(limits), dtype=torch.float64)
    for rows in vectors.pieces():
        t = trim_(vectors.part(slice(None), rows).clone(), limits[:, rows]).flatten(1)
        size = t.abs()
        kept = size.gt(0).float()
        # A product of signs is 1 where they agree and -1 where not: counts of whole numbers below
        # 2^24 are exact in fp32, and a piece is smaller.
        sign, scale = t.sign(), t
        both, agreeing = kept @ kept.T, sign @ sign.T
        product, signed = size @ size.T, scale @ scale.T
        tables = [both, (both - agreeing) / 2, product, (product - signed).clamp_min(0) / 2]
        counts += torch.stack(tables).double().cpu()
    return counts


def conflict(
    counted: Iterable[SignsCounted], weighted: bool = False
) -> Float[np.ndarray, "q q"] | None:
    """Share of the entries kept of both that have opposite signs; None before anything is counted.

    Args:
        weighted: each entry counts as much as the product of its two magnitudes.
    """
    blocks = list(counted)
    if not blocks:
        return None
    if weighted:
        of, out_of = sum(c.product_opposed for c in blocks), sum(c.product for c in blocks)
    else:
        of, out_of = sum(c.opposed for c in blocks), sum(c.both for c in blocks)
    of, out_of = np.asarray(of), np.asarray(out_of)
    return np.divide(of, out_of, out=np.zeros_like(of), where=out_of > 0)
