"""Which source causes M-Loss: sets of sources on the very inputs that the map was measured on."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from ..families.family import Family
from ..mloss import SetLosses, block_losses
from ..types import MergeRecipe
from .trace import TracedBlock, trace_blocks


def losses_along(
    recipe: MergeRecipe,
    family: Family,
    alphas: Float[np.ndarray, "sets q"],
    *,
    device: str = "auto",
) -> Iterator[SetLosses]:
    """M-Loss (Eqs. 3, 4, 6) of sets of a recipe's sources, block by block along its merge of all
    of them: the inputs are what all sources merged make of the images, whatever the set.

    Takes and raises what `trace_blocks` does, and

    Args:
        alphas: merging weights of each set over the recipe's sources, zero where not a member.
    """

    def losses(block: TracedBlock) -> tuple[int, Float[np.ndarray, "3 sets images"]]:
        per_image = block_losses(
            block.inputs, block.layers, family.model.activation, alphas
        ).per_image
        return block.scores.block, per_image

    start = time.perf_counter()
    for block, per_image in trace_blocks(recipe, family, losses, device=device):
        yield SetLosses(block=block, per_image=per_image, seconds=time.perf_counter() - start)
        start = time.perf_counter()
