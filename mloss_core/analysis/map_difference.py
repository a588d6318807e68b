"""Paired comparison of two maps of node M-Loss, block by block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ..evaluation.rank_correlation import spearman
from ..intervals import with_interval

Nodes = Mapping[int, Float[np.ndarray, " nodes"]]  # M-Loss of a block's nodes
Images = Mapping[int, Float[np.ndarray, " images"]]  # mean M-Loss of a block's nodes by image


@dataclass(frozen=True, kw_only=True)
class BlockPair:
    """The comparison of one block in two maps.

    Args:
        first, second: mean node M-Loss (Eq. 4) of either.
        difference: first minus second, with its 95 % interval over the images; the interval is NaN
            where a map does not tell its images apart.
        higher: share of the nodes that are higher in the first.
        order: Spearman's rank correlation of the nodes: 1 where both put them in the same order,
            which is all that M-TIES reads of them.
    """

    block: int
    first: float
    second: float
    difference: tuple[float, float, float]
    higher: float
    order: float


def paired(
    first: Nodes, second: Nodes, images: tuple[Images, Images] | None = None
) -> list[BlockPair]:
    """Comparisons of the blocks that both maps have, in order.

    Args:
        images: of both maps, on the very same images in the same order; None where unknown.
    """
    pairs = []
    for block in sorted(first.keys() & second.keys()):
        a, b = first[block].astype(float), second[block].astype(float)
        mean = float(a.mean() - b.mean())
        low = high = math.nan
        if images is not None:
            apart = images[0][block] - images[1][block]
            mean, low, high = with_interval(apart).tolist()
        pairs.append(
            BlockPair(
                block=block,
                first=float(a.mean()),
                second=float(b.mean()),
                difference=(mean, low, high),
                higher=float((a > b).mean()),
                order=spearman(a, b),
            )
        )
    return pairs
