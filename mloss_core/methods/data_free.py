"""Rules that need no data: the stacked task vectors of one tensor in, the merged one out."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from .. import trim
from ..types import MergeRecipe

Stacked = Float[Tensor, "sources *shape"]
Alpha = Float[Tensor, " sources"]
Merged = Float[Tensor, "*shape"]


def simple_average(
    vectors: Stacked, alpha: Alpha, recipe: MergeRecipe, name: str, rates=None
) -> Merged:
    """sum alpha_i t_i (Section 2.1)."""
    return (alpha @ vectors.flatten(1)).view(vectors.shape[1:])


def task_arithmetic(
    vectors: Stacked, alpha: Alpha, recipe: MergeRecipe, name: str, rates=None
) -> Merged:
    """lambda sum alpha_i t_i, the M-Loss paper's convention (Section 2.1): alpha_i is 1/q."""
    return recipe.scaling * simple_average(vectors, alpha, recipe, name)


def ties(
    vectors: Stacked,
    alpha: Alpha,
    recipe: MergeRecipe,
    name: str,
    rates: Float[np.ndarray, " rows"] | None = None,
) -> Merged:
    """Trim, elect, merge (Yadav et al. 2023); overwrites its input.

    Args:
        rates: keep rates of the tensor's rows (M-TIES); None trims it as one long row at k.
    """
    if rates is None:
        rows = vectors.view(len(vectors), -1)  # a row a source
        counts = trim.kept_counts(np.full(len(rows), recipe.keep), rows.shape[1])
    else:
        rows = vectors.view(-1, vectors.shape[-1])  # a row a source and node
        counts = np.tile(trim.kept_counts(rates, rows.shape[1]), len(vectors))
    trim.trim_(rows, counts)
    return recipe.scaling * trim.elect_and_merge(vectors, alpha)


def dare(vectors: Stacked, alpha: Alpha, recipe: MergeRecipe, name: str, rates=None) -> Merged:
    """Drop at random, rescale by 1/k, elect, merge (Yu et al. 2024); overwrites its input."""
    shape = tuple(vectors.shape[1:])
    masks = trim.random_masks(shape, len(vectors), recipe.keep, recipe.seed, name)
    vectors.mul_(masks.to(vectors.device)).div_(recipe.keep)
    return recipe.scaling * trim.elect_and_merge(vectors, alpha)
