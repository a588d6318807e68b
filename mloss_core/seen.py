"""What each block's c_fc sees while a merge goes on, beside the M-Loss that is measured there."""

from __future__ import annotations

import dataclasses
from collections import ChainMap
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from . import device as devices
from .calibration import preprocess
from .errors import BadValue
from .family import c_fc
from .methods.mloss_guided import Weights, sweep
from .recipe import calibration_of, check
from .resident import read
from .scoring import Layer, some_tokens
from .types import BlockScored, MergeRecipe, NodeScores
from .vit import Tower, chunks
from .zoo import Family


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One block on the calibration images.

    Args:
        scores: M-Loss as measured.
        inputs: of the block's c_fc, at the tokens that M-Loss is measured on.
        layers: each source's c_fc weight and bias.
    """

    scores: NodeScores
    inputs: Float[Tensor, "images tokens width"]
    layers: Sequence[Layer]

    def on_cpu(self) -> Seen:
        """The same, where any thread may read it and no GPU has to hold it."""
        layers = [(weight.cpu(), bias.cpu()) for weight, bias in self.layers]
        return dataclasses.replace(self, inputs=self.inputs.cpu(), layers=layers)


def seen(
    recipe: MergeRecipe, family: Family, *, device: str = "auto"
) -> Generator[Seen, None, None]:
    """Every block along a merge of the recipe, with the inputs that its M-Loss is measured on: of
    the model merged so far, or of the base where the recipe takes them from there.

    Args:
        recipe: of a node-wise method on all blocks.
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        InputError: before any work, where the recipe or the files are wrong.
        OutOfMemory: the work did not fit.
    """
    check(recipe, family)
    calibration = calibration_of(recipe, family)
    if calibration is None or recipe.blocks is not None:
        problem = "measures no M-Loss, or not of all blocks"
        raise BadValue("--method", recipe.method, problem, "use m-ties on all blocks")
    place = devices.choose(device)
    with devices.reported_memory(place.type):
        yield from _seen(recipe, family, preprocess(calibration.images, family.model, place))


def _seen(recipe: MergeRecipe, family: Family, images: Tensor) -> Generator[Seen, None, None]:
    """The sweep, beside which the residual stream is carried along a second time."""
    base = family.base().load(images.device)
    sources = [family.source(name) for name in recipe.sources]
    merged: Weights = {}
    feeding = base if recipe.inputs_from == "pretrained" else ChainMap(merged, base)
    tower = Tower(family.model, feeding)
    stream = inputs = None
    for event in sweep(family.model, base, sources, recipe, images, merged):
        if isinstance(event, BlockScored):
            block = event.scores.block
            stream = tower.embed(images) if stream is None else stream
            pieces = chunks(stream, family.model.tokens)
            stream = torch.cat([tower.attend(block, piece) for piece in pieces])
            inputs = tower.mlp_input(block, stream)
            at = inputs
            if recipe.tokens is not None:
                at = some_tokens(inputs, recipe.tokens, recipe.seed)
            name = c_fc(block)
            theirs = read(sources, {name + ".weight", name + ".bias"}, images.device)
            layers = list(zip(theirs[name + ".weight"], theirs[name + ".bias"], strict=True))
            yield Seen(scores=event.scores, inputs=at, layers=layers)
        elif stream is not None and inputs is not None:
            both = zip(*(chunks(x, family.model.tokens) for x in (stream, inputs)), strict=True)
            stream = torch.cat([tower.mlp(event.block, x, u) for x, u in both])
