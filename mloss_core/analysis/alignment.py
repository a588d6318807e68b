"""Alignment of task vectors where methods of singular vectors look: how far their leading
directions overlap, what their sum counts more than once, and what a merge has of each source."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..families.family import Family
from ..fields import FIELDS
from ..hardware import device as devices
from ..hardware.out_of_memory import reported_memory
from ..methods.matrices import LAYERS, Deltas, decomposed, svd
from ..mloss import wide
from ..recipe import check
from ..tensor_cache import read
from ..trim import TaskVectors
from ..types import MergeRecipe
from ..vit import BLOCKS
from .compatibility.sign_conflict import SignsCounted, count_signs

Matrix = Float[Tensor, "out in"]
Directions = Float[Tensor, "dim _"]  # orthonormal columns


@dataclass(frozen=True, kw_only=True)
class MatrixAlignment:
    """The task vectors D_i of one matrix (out x in), and their merge M; NaN is unknown.

    TSV-M's rank is r = max(1, min(out, in) / q), rounded down; a D_i of a lower rank has fewer
    leading directions, one that is zero has none.

    Args:
        name: of LAYERS.
        left, right: overlap of two sources' leading left (right) singular vectors,
            ||U_i^T U_j||^2 / r, 0 for orthogonal and 1 for equal subspaces; mean over the pairs
            that both have some (r is the smaller number of the two).
        left_by_chance, right_by_chance: what random subspaces give, r / out and r / in.
        in_sum: how often S = sum D_i counts what the sources do along each of its r largest
            directions u: <u^T S, u^T S> / sum ||u^T D_i||^2, 1 for once, q for all alike. It is the
            mean of SVC's s_i over the sources, each as heavy as its ||u^T D_i||^2.
        in_merge: the same of M along the directions of S: <u^T M, u^T S> / sum ||u^T D_i||^2;
            None without a merge.
        kept: what M has of each source's own change, <M, D_i> / ||D_i||^2: 1 is all of it, 0
            nothing, and below 0 the opposite; None without a merge.
        singular: singular values of M, from large to small; None without a merge.
    """

    name: str
    left: float
    right: float
    left_by_chance: float
    right_by_chance: float
    in_sum: Float[np.ndarray, " r"]
    in_merge: Float[np.ndarray, " r"] | None
    kept: Float[np.ndarray, " q"] | None
    singular: Float[np.ndarray, " size"] | None


@dataclass(frozen=True, kw_only=True)
class BlockAlignment:
    """The linear layers of one block.

    Args:
        matrices: in the order of LAYERS.
        conflict: sign conflict of all the block's tensors: of the entries that trimming at k leaves
            of two sources, the share of opposite signs, over all pairs; NaN where none are left.
    """

    block: int
    matrices: tuple[MatrixAlignment, ...]
    conflict: float


def alignment(
    family: Family,
    sources: Sequence[str],
    merged: Mapping[str, Tensor] | None = None,
    keep: float = FIELDS["keep"].default,
    *,
    device: str = "auto",
) -> Iterator[BlockAlignment]:
    """How the sources' task vectors lie to each other and to their merge, block by block.

    One tensor of all sources is in memory at a time.

    Args:
        merged: weights of the merged tower; None before a merge.
        keep: share of each tensor that trimming keeps, for the sign conflict.

    Raises:
        InputError: before any work, where the sources or the files are wrong.
        OutOfMemory: the work did not fit.
    """
    recipe = MergeRecipe(family=family.name, method="ties", sources=tuple(sources), keep=keep)
    check(recipe, family)
    place, base = devices.choose(device), family.base()
    files = [family.source(name) for name in sources]
    signs = (s for s in count_signs(recipe, family, device=device) if s.block is not None)
    with reported_memory(place.type):
        for block in range(family.model.blocks):
            matrices = []
            for layer in LAYERS:
                name = f"{BLOCKS}{block}.{layer}"
                origin = base.read([name])[name].to(place, torch.float32)
                vectors = TaskVectors(origin, read(files, [name], place)[name])
                deltas = Deltas(vectors, [1.0] * len(files), slice(0, len(origin)))
                after = None if merged is None else merged[name].to(place, torch.float32) - origin
                matrices.append(align(layer, deltas, after))
            conflict = _conflict(next(signs))
            yield BlockAlignment(block=block, matrices=tuple(matrices), conflict=conflict)


def align(name: str, deltas: Deltas, merged: Matrix | None = None) -> MatrixAlignment:
    """The alignment of one matrix's task vectors, and of their merge."""
    total = functools.reduce(torch.add, deltas)
    size = max(1, min(total.shape) // len(deltas.members))

    def leading(delta: Matrix) -> tuple[Tensor, ...]:
        u, s, v = svd(delta)
        rank = min(size, _rank(s, delta))
        return u[:, :rank].clone(), v[:rank].T.clone()

    subspaces = deltas.each(leading)
    (left, left_chance), (right, right_chance) = (
        _overlap([subspace[side] for subspace in subspaces]) for side in (0, 1)
    )
    in_sum, in_merge = _counted(deltas, total, merged, size)
    singular = None
    if merged is not None:
        (values,) = decomposed(lambda m: [torch.linalg.svdvals(m)], merged)
        singular = values.cpu().numpy()
    return MatrixAlignment(
        name=name,
        left=left,
        right=right,
        left_by_chance=left_chance,
        right_by_chance=right_chance,
        in_sum=in_sum,
        in_merge=in_merge,
        kept=None if merged is None else _kept(deltas, merged),
        singular=singular,
    )


def _rank(s: Float[Tensor, " size"], matrix: Matrix) -> int:
    """Singular values above the rounding of the largest."""
    return int((s > s[0] * max(matrix.shape) * torch.finfo(s.dtype).eps).sum())


def _overlap(subspaces: Sequence[Directions]) -> tuple[float, float]:
    """The overlap of subspaces, and of random ones of their sizes: means over pairs, or NaN."""
    overlaps, chances = [], []
    for a, b in itertools.combinations(subspaces, 2):
        few, many = sorted((a.shape[1], b.shape[1]))
        if few:
            overlaps.append(min(1.0, float((a.T @ b).square().sum()) / few))
            chances.append(many / len(a))
    if not overlaps:
        return math.nan, math.nan
    return float(np.mean(overlaps)), float(np.mean(chances))


def _counted(
    deltas: Deltas, total: Matrix, merged: Matrix | None, size: int
) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, " r"] | None]:
    """`in_sum` and `in_merge` of a MatrixAlignment; NaN where the sum has no such direction."""
    u, s, _ = svd(total)
    missing, u = torch.arange(size, device=s.device) >= _rank(s, total), u[:, :size]
    energy = torch.zeros(size, dtype=wide(total), device=total.device)
    for delta in deltas:
        energy += (u.T @ delta).to(energy.dtype).square().sum(1)
    of_sum = u.T @ total

    def times(matrix: Matrix) -> Float[np.ndarray, " r"]:
        product = (u.T @ matrix * of_sum).to(energy.dtype).sum(1)
        return (product / energy).masked_fill(missing, math.nan).cpu().numpy()

    return times(total), None if merged is None else times(merged)


def _kept(deltas: Deltas, merged: Matrix) -> Float[np.ndarray, " q"]:
    """<M, D_i> / ||D_i||^2 of each source; NaN where D_i is zero."""
    precise, shares = merged.to(wide(merged)), []
    for delta in deltas:
        own = delta.to(precise.dtype)
        size = float(own.square().sum())
        shares.append(float((precise * own).sum()) / size if size else math.nan)
    return np.array(shares)


def _conflict(counted: SignsCounted) -> float:
    """Share of opposite signs over all pairs; NaN where no pair has an entry in common."""
    pairs = np.triu_indices(len(counted.both), 1)
    both = float(counted.both[pairs].sum())
    return float(counted.opposed[pairs].sum()) / both if both else math.nan
