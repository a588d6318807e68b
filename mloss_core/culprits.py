"""Which source causes M-Loss: sets of sources on the very inputs that the map was measured on."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from . import device as devices
from .seen import seen
from .set_losses import SetLosses, score_sets
from .types import MergeRecipe
from .zoo import Family


def losses_along(
    recipe: MergeRecipe,
    family: Family,
    alphas: Float[np.ndarray, "sets q"],
    *,
    device: str = "auto",
) -> Iterator[SetLosses]:
    """M-Loss (Eqs. 3, 4, 6) of sets of a recipe's sources, block by block along its merge of all
    of them: the inputs are what all sources merged make of the images, whatever the set.

    Args:
        recipe: of a node-wise method on all blocks.
        alphas: merging weights of each set over the recipe's sources, zero where not a member.

    Raises:
        InputError: before any work, where the recipe or the files are wrong.
        OutOfMemory: the work did not fit.
    """
    with devices.reported_memory(devices.choose(device).type):
        start = time.perf_counter()
        for block in seen(recipe, family, device=device):
            found = score_sets(block.inputs, block.layers, family.model.activation, alphas)
            seconds = time.perf_counter() - start
            yield SetLosses(block=block.scores.block, per_image=found, seconds=seconds)
            start = time.perf_counter()
