"""A family beside the theory: what Section 4's model and the second order predict, block by block,
and what is measured along the same merge."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from . import device as devices
from .calibration import preprocess
from .errors import BadValue
from .expectation import LEAST, MOST, Setting, expected
from .family import c_fc
from .methods.mloss_guided import Weights, sweep
from .recipe import calibration_of, check
from .resident import read
from .scoring import some_tokens
from .second_order import SecondOrder, second_order
from .types import BlockScored, MergeRecipe, NodeScores
from .vit import Tower, chunks
from .zoo import Family


@dataclass(frozen=True, kw_only=True)
class BlockTheory:
    """One block measured and predicted.

    Args:
        scores: M-Loss as measured.
        factors: of the second order, and the moments that K and s are estimated from.
        setting: the model of Section 4 with this block's K and s.
        predicted: mean node M-Loss in that model.
    """

    scores: NodeScores
    factors: SecondOrder
    setting: Setting
    predicted: float


def theory(recipe: MergeRecipe, family: Family, *, device: str = "auto") -> Iterator[BlockTheory]:
    """Predicted and measured M-Loss of every block along an M-TIES merge of the recipe.

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
        yield from _theory(recipe, family, preprocess(calibration.images, family.model, place))


def _theory(recipe: MergeRecipe, family: Family, images: torch.Tensor) -> Iterator[BlockTheory]:
    """The sweep, beside which the residual stream is carried along a second time."""
    base = family.base().load(images.device)
    sources = [family.source(name) for name in recipe.sources]
    merged: Weights = {}
    tower = Tower(family.model, ChainMap(merged, base))
    stream = inputs = None
    for event in sweep(family.model, base, sources, recipe, images, merged):
        if isinstance(event, BlockScored):
            block = event.scores.block
            stream = tower.embed(images) if stream is None else stream
            pieces = chunks(stream, family.model.tokens)
            stream = torch.cat([tower.attend(block, piece) for piece in pieces])
            inputs = tower.mlp_input(block, stream)
            seen = inputs
            if recipe.tokens is not None:
                seen = some_tokens(inputs, recipe.tokens, recipe.seed)
            name = c_fc(block)
            theirs = read(sources, {name + ".weight", name + ".bias"}, images.device)
            layers = list(zip(theirs[name + ".weight"], theirs[name + ".bias"], strict=True))
            factors = second_order(seen, layers, family.model.activation, recipe.alpha)
            setting = estimate(factors, family.model.activation, recipe.alpha)
            yield BlockTheory(
                scores=event.scores, factors=factors, setting=setting, predicted=expected(setting)
            )
        elif stream is not None and inputs is not None:
            both = zip(*(chunks(x, family.model.tokens) for x in (stream, inputs)), strict=True)
            stream = torch.cat([tower.mlp(event.block, x, u) for x, u in both])


def estimate(factors: SecondOrder, act: str, alpha: Sequence[float]) -> Setting:
    """K and s of a block from second moments over its nodes and tokens.

    In the model alpha . (h - alpha . h)^2 is (1 - sum alpha^2) s^2 on average, and (alpha . h)^2 is
    K^2 / 3 + sum alpha^2 s^2.
    """
    kept = math.fsum(a * a for a in alpha)
    s_square = float(factors.variance.mean()) / (1 - kept)
    x_square = max(0.0, float(factors.square.mean()) - kept * s_square)
    k, s = np.clip(np.sqrt([3 * x_square, s_square]), LEAST, MOST).tolist()
    return Setting(activation=act, k=k, s=s, q=len(alpha), weights=tuple(alpha))
