"""Explanation of a node's M-Loss by its factors, relative to its block's means."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .theory import BlockTheory


@dataclass(frozen=True, kw_only=True)
class Reasons:
    """A node's M-Loss and factors over its block's means; loss is the product of the four below.

    Args:
        rank: place of the node's M-Loss in its block, 1 for the highest.
        nodes: how many the block has.
        measured: M-Loss of the node (Eq. 4).
        predicted: half of curvature times variance, token by token (docs/theory.md).
        loss: M-Loss over the block's mean.
        curvature: mean abs(sigma''(alpha . h)) over the block's mean.
        variance: weighted variance of the pre-activations over the block's mean.
        meeting: how much more than in the block tokens of high curvature have high variance, too.
        rest: what the second order does not explain.
    """

    rank: int
    nodes: int
    measured: float
    predicted: float
    loss: float
    curvature: float
    variance: float
    meeting: float
    rest: float


def reasons(block: BlockTheory, node: int) -> Reasons:
    """The factors of one node; NaN where its block has none to compare with."""
    losses, factors = block.scores.node, block.factors
    measured, predicted = float(losses[node]), float(factors.product[node])
    loss = _over(measured, losses.mean())
    bend = _over(factors.curvature[node], factors.curvature.mean())
    apart = _over(factors.variance[node], factors.variance.mean())
    product = _over(predicted, factors.product.mean())
    return Reasons(
        rank=int((losses > losses[node]).sum()) + 1,
        nodes=len(losses),
        measured=measured,
        predicted=predicted,
        loss=loss,
        curvature=bend,
        variance=apart,
        meeting=_over(product, bend * apart),
        rest=_over(loss, product),
    )


def _over(value: float, unit: float) -> float:
    """The ratio value / unit; NaN where the unit is not positive."""
    return float(value / unit) if unit > 0 else math.nan
