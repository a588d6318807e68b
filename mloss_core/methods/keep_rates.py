"""Keep rates of a block's nodes: by M-Loss, or by the controls that a claim for it needs."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ..architecture import ViTConfig
from ..errors import BadValue
from ..mloss import keep_rates
from ..types import MergeRecipe, NodeScores
from . import METHODS

# Controls that need no M-Loss, and so no images: ranks drawn at random, and equal rates.
UNMEASURED_RANKS = ("random", "equal")


def node_wise_blocks(recipe: MergeRecipe, family: ViTConfig) -> tuple[int, ...]:
    """The blocks that the recipe trims row by row; none unless its method does that."""
    if not METHODS[recipe.method].node_wise:
        return ()
    return tuple(range(family.blocks)) if recipe.blocks is None else recipe.blocks


def measured_blocks(recipe: MergeRecipe, family: ViTConfig) -> tuple[int, ...]:
    """Those of them whose M-Loss is measured: none where ranks do without it."""
    return () if recipe.ranks in UNMEASURED_RANKS else node_wise_blocks(recipe, family)


def draws_images(recipe: MergeRecipe, family: ViTConfig) -> bool:
    """Whether the recipe looks at calibration images."""
    return METHODS[recipe.method].own_images or bool(measured_blocks(recipe, family))


def node_rates(
    recipe: MergeRecipe, block: int, nodes: int, scores: NodeScores | None = None
) -> Float[np.ndarray, " nodes"]:
    """k_j = k - e rank_j of every node of a block (Algorithm 1, line 15), by the recipe's ranks.

    Equal ranks give every node the schedule's mean rate, k - e/2.

    Args:
        scores: of the block; not read where ranks do without them.

    Raises:
        BadValue: the scores that the recipe ranks by are missing.
    """
    if recipe.ranks == "equal":
        return np.full(nodes, recipe.keep - recipe.variation / 2)
    if recipe.ranks == "random":
        # A permutation ranks itself.
        ranked = np.random.default_rng([recipe.seed, block]).permutation(nodes).astype(float)
    else:
        squared = recipe.scores == "squared"
        ranked = scores and (scores.node_squared if squared else scores.node)
        if ranked is None:
            remedy = "measure them first; none are ever invented"
            raise BadValue("M-Loss", recipe.scores, f"of block {block} are missing", remedy)
    reverse = recipe.ranks == "reversed"
    return keep_rates(ranked, recipe.keep, recipe.variation, reverse=reverse)
