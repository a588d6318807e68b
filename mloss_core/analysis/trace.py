"""What each block's c_fc sees while a merge goes on, beside the M-Loss that is measured there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor

from ..errors import BadValue
from ..families.family import Family
from ..hardware import device as devices
from ..hardware.out_of_memory import reported_memory
from ..methods.keep_rates import measured_blocks
from ..mloss import Layer
from ..recipe import check
from ..run import TRACE, run
from ..types import BlockInputs, BlockScored, MergeRecipe, NodeScores

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TracedBlock:
    """One block on the calibration images.

    Args:
        scores: M-Loss as measured.
        inputs: of the block's c_fc, at the tokens that M-Loss is measured on.
        layers: each source's c_fc weight and bias.
    """

    scores: NodeScores
    inputs: Float[Tensor, "images tokens width"]
    layers: Sequence[Layer]

    def on_cpu(self) -> TracedBlock:
        """The same, where any thread may read it and no GPU has to hold it."""
        layers = [(weight.cpu(), bias.cpu()) for weight, bias in self.layers]
        return dataclasses.replace(self, inputs=self.inputs.cpu(), layers=layers)


def trace_blocks(
    recipe: MergeRecipe,
    family: Family,
    of: Callable[[TracedBlock], T],
    *,
    device: str = "auto",
) -> Generator[T, None, None]:
    """What `of` makes of every block along a merge of the recipe, on the inputs that its M-Loss
    is measured on: of the model merged so far, or of the base where the recipe takes them there.

    Args:
        recipe: of a node-wise method on all blocks.
        of: what is wanted of a block; it is called while the merge stands still.
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        InputError: before any work, where the recipe or the files are wrong.
        OutOfMemory: the merge, or `of`, did not fit.
    """
    check(recipe, family)
    if not measured_blocks(recipe, family.model) or recipe.blocks is not None:
        problem = "measures no M-Loss, or not of all blocks"
        raise BadValue("method", recipe.method, problem, "use m-ties on all blocks")
    place, block = devices.choose(device), None
    for event in run(recipe, family, stages=TRACE, device=device):
        if isinstance(event, BlockInputs):
            block = event
        elif isinstance(event, BlockScored) and block is not None:
            traced = TracedBlock(scores=event.scores, inputs=block.inputs, layers=block.layers)
            with reported_memory(place.type):
                result = of(traced)
            yield result
