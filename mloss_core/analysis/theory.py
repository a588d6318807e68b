"""Comparison of measured M-Loss with Section 4's model and the second order, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import BadValue
from ..families.family import Family
from ..types import MergeRecipe, NodeScores
from .expectation import LEAST, MOST, Setting, expected
from .second_order import Agreement, SecondOrder, agreement, second_order
from .trace import TracedBlock, trace_blocks


@dataclass(frozen=True, kw_only=True)
class BlockTheory:
    """A block's measured and predicted M-Loss.

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
    """Predicts and measures M-Loss of every block along an M-TIES merge of the recipe.

    The inputs are those that the recipe says.

    Takes and raises what `trace_blocks` does, and BadValue where one source has all the weight.
    """
    if max(recipe.alpha) > 1 - 1e-6:
        problem = "leaves one source alone: it has no M-Loss to explain"
        remedy = "give two sources or more a weight above 0"
        raise BadValue("--weights", ",".join(f"{a:g}" for a in recipe.alpha), problem, remedy)
    act = family.model.activation

    def predicted(block: TracedBlock) -> BlockTheory:
        factors = second_order(block.inputs, block.layers, act, recipe.alpha)
        setting = estimate(factors, act, recipe.alpha)
        return BlockTheory(
            scores=block.scores, factors=factors, setting=setting, predicted=expected(setting)
        )

    yield from trace_blocks(recipe, family, predicted, device=device)


def estimate(factors: SecondOrder, act: str, alpha: Sequence[float]) -> Setting:
    """Estimates K and s of a block from second moments over its nodes and tokens.

    In the model alpha . (h - alpha . h)^2 is (1 - sum alpha^2) s^2 on average, and (alpha . h)^2 is
    K^2 / 3 + sum alpha^2 s^2.
    """
    kept = math.fsum(a * a for a in alpha)
    s_square = float(factors.variance.mean()) / (1 - kept)
    x_square = max(0.0, float(factors.square.mean()) - kept * s_square)
    k, s = np.clip(np.sqrt([3 * x_square, s_square]), LEAST, MOST).tolist()
    return Setting(activation=act, k=k, s=s, q=len(alpha), weights=tuple(alpha))


def explained(blocks: Sequence[BlockTheory]) -> Agreement:
    """Agreement of the second order with the nodes' measured M-Loss over these blocks."""
    predicted = np.concatenate([block.factors.product for block in blocks])
    return agreement(predicted, np.concatenate([block.scores.node for block in blocks]))
