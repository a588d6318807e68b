"""Rules that need no data: the task vectors of one tensor in, the merged one out."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from .. import trim
from ..trim import TaskVectors
from ..types import MergeRecipe

TALL, AGREE = 0.4, 2  # Consensus: lambda of the masks, and how many of them must agree

Alpha = Float[Tensor, " sources"]
Merged = Float[Tensor, "*shape"]


def counts(alpha: Alpha) -> list[float]:
    """How often each source counts where the published rule adds them up: once with equal weights,
    not at all without weight."""
    members = int(alpha.gt(0).sum())
    return [members * float(a) for a in alpha]


def simple_average(
    vectors: TaskVectors, alpha: Alpha, recipe: MergeRecipe, name: str, rates=None
) -> Merged:
    """sum alpha_i t_i (Section 2.1)."""
    return vectors.merged(lambda t, rows: (alpha @ t.flatten(1)).view(t.shape[1:]))


def task_arithmetic(
    vectors: TaskVectors, alpha: Alpha, recipe: MergeRecipe, name: str, rates=None
) -> Merged:
    """lambda sum alpha_i t_i, the M-Loss paper's convention (Section 2.1): alpha_i is 1/q."""
    return recipe.scaling * simple_average(vectors, alpha, recipe, name)


def ties(
    vectors: TaskVectors,
    alpha: Alpha,
    recipe: MergeRecipe,
    name: str,
    rates: Float[np.ndarray, " rows"] | None = None,
) -> Merged:
    """Trim, elect, merge (Yadav et al. 2023).

    Args:
        rates: keep rates of the tensor's rows (M-TIES); None trims it as one long row at k.
    """
    limits, kept = vectors.limits(recipe.keep, rates), vectors.kept

    def step(t: Tensor, rows: slice) -> Tensor:
        counts = None if kept is None else kept[rows]
        merged = trim.elect_and_merge_(trim.trim_(t, limits[:, rows], counts), alpha)
        return merged.mul_(recipe.scaling)

    return vectors.merged(step)


def elect(vectors: TaskVectors, alpha: Alpha, recipe: MergeRecipe, name: str, rates=None) -> Merged:
    """Elect and merge with nothing trimmed: TIES at k = 1 (Yadav et al. 2023, steps 2 and 3)."""
    return recipe.scaling * vectors.merged(lambda t, rows: trim.elect_and_merge_(t, alpha))


def dare(
    vectors: TaskVectors,
    alpha: Alpha,
    recipe: MergeRecipe,
    name: str,
    rates: Float[np.ndarray, " rows"] | None = None,
) -> Merged:
    """Drop at random, rescale by 1/k, elect, merge (Yu et al. 2024).

    Args:
        rates: keep rates of the tensor's rows (M-DARE), by which they are drawn and rescaled too; a
            row of rate zero is dropped whole. None means k for all.
    """
    keep, shape = recipe.keep, tuple(vectors.base.shape)
    drawn = keep if rates is None else rates
    masks = trim.random_masks(shape, recipe.sources, drawn, recipe.seed, name)
    masks = masks.view(len(masks), *trim.rows_of(vectors.base).shape)
    # What no entry survives is zero, whatever divides it.
    by_row = None if rates is None else vectors.base.new_tensor(np.where(rates > 0, rates, 1))

    def dropped(t: Tensor, rows: slice) -> Tensor:
        mask = masks[:, rows]
        if vectors.kept is not None:
            vectors.kept[rows] += mask.count_nonzero((0, -1)).to(t.device)
        t.mul_(mask.to(t.device))
        return t.div_(keep) if by_row is None else t.div_(by_row[rows, None])

    return recipe.scaling * vectors.merged(
        lambda t, rows: trim.elect_and_merge_(dropped(t, rows), alpha)
    )


def consensus(
    vectors: TaskVectors, alpha: Alpha, recipe: MergeRecipe, name: str, rates=None
) -> Merged:
    """lambda T where at least two masks abs(t_i) > 0.4 abs(T - t_i) agree, T = sum q alpha_i t_i
    (Wang et al. 2024, Consensus task arithmetic by TALL masks)."""
    times = alpha.new_tensor(counts(alpha))

    def step(t: Tensor, rows: slice) -> Tensor:
        t.mul_(times[:, None, None])
        total = t.sum(0)
        agreeing = (t.abs() > TALL * (total - t).abs()).sum(0)
        return total.mul_(agreeing >= AGREE)

    return recipe.scaling * vectors.merged(step)
