"""Cost of a method: blocks passed, multiply-adds, and towers run per image (Section 6.3)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ..architecture import ViTConfig
from ..methods import METHODS
from ..methods.keep_rates import measured_blocks
from ..types import MergeRecipe


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of measuring M-Loss for a merge.

    Args:
        passed: blocks that an image passes until the last chosen block k (counted from 1) is
            measured: k - 1 merged ones once, and that of each of the q sources.
        apart: the same with each source passed alone: k q.
        multiply_adds: of the whole merge on all calibration images.
        products: share of all blocks' `c_fc` products that are computed.
    """

    passed: int
    apart: int
    multiply_adds: int
    products: float


def cost(recipe: MergeRecipe, family: ViTConfig) -> Cost:
    """The cost of measuring M-Loss for a recipe; zero for methods without it."""
    blocks, q = measured_blocks(recipe, family), len(recipe.sources)
    if not blocks:
        return Cost(passed=0, apart=0, multiply_adds=0, products=0.0)
    last, tokens, width, nodes = max(blocks), family.tokens, family.width, family.nodes
    looked = tokens if recipe.tokens is None else recipe.tokens
    embed = (tokens - 1) * 3 * family.patch_size**2 * width
    attention = 4 * tokens * width**2 + 2 * tokens**2 * width
    mlp = 2 * tokens * width * nodes
    products = q * looked * width * nodes  # every source's c_fc in a chosen block
    an_image = embed + last * (attention + mlp) + attention + len(blocks) * products
    return Cost(
        passed=last + q,
        apart=(last + 1) * q,
        multiply_adds=recipe.samples * an_image,
        products=len(blocks) / family.blocks,
    )


def seconds(recipe: MergeRecipe, family: ViTConfig, whole: float) -> float:
    """Estimated seconds of measuring M-Loss for a merge, in proportion to its multiply-adds.

    Args:
        whole: seconds that it took for all blocks.
    """
    every = cost(dataclasses.replace(recipe, blocks=None), family).multiply_adds
    return whole * cost(recipe, family).multiply_adds / every if every else 0.0


def towers(recipe: MergeRecipe) -> int:
    """The number of image towers that run for one image: all of an ensemble, else one.

    EMR-Merging runs the one of the image's task.
    """
    method = METHODS[recipe.method]
    return 1 if method.one_model or method.several is not None else len(recipe.sources)
