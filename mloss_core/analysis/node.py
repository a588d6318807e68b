"""One node looked at closely: its sources' pre-activations, the gap that M-Loss measures at a
token, and what is left of its M-Loss without each source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float

from ..activations import activation
from ..errors import BadValue
from ..intervals import with_interval
from ..mloss import token_gap
from .compatibility.sets import alphas_of
from .theory import BlockTheory
from .trace import TracedBlock

Values = Float[np.ndarray, "*n"]
STEP = 1e-5  # of the difference that gives a slope in float64


@dataclass(frozen=True, kw_only=True)
class Gap:
    """M-Loss at one place: average, then activate, against activate, then average.

    Args:
        h: each source's pre-activation there.
        activated: sigma(h) of each.
        mean: alpha . h.
        merged: sigma(alpha . h), what the merged node gives.
        ensembled: alpha . sigma(h), what the ensemble gives.
        slope: of sigma at the mean, for the tangent there.
    """

    h: Float[np.ndarray, " q"]
    activated: Float[np.ndarray, " q"]
    mean: float
    merged: float
    ensembled: float
    slope: float

    @property
    def size(self) -> float:
        """abs(sigma(alpha . h) - alpha . sigma(h)), Eq. 4 of one token."""
        return abs(self.merged - self.ensembled)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node of a block on the calibration tokens.

    Args:
        h: each source's pre-activations.
        alpha: merging weights.
        act: name of the activation.
    """

    block: int
    node: int
    h: Float[np.ndarray, "q images tokens"]
    alpha: tuple[float, ...]
    act: str

    def losses(self) -> Float[np.ndarray, "images tokens"]:
        """M-Loss of each token (Eq. 4)."""
        return _losses(self.h, self.act, np.array([self.alpha]))[0]

    def typical(self) -> tuple[int, int]:
        """Image and token whose loss comes nearest to the node's M-Loss, the mean of all."""
        losses = self.losses()
        nearest = int(np.abs(losses - losses.mean()).argmin())
        image, token = divmod(nearest, losses.shape[1])
        return image, token

    def without(self) -> Float[np.ndarray, "3 q"] | None:
        """By what share the node's M-Loss falls without each source: mean and 95 % interval, paired
        over the images; None of two sources, for one alone has no M-Loss."""
        q = len(self.h)
        if q < 3:
            return None
        everyone = tuple(range(q))
        sets = [everyone, *(tuple(j for j in everyone if j != i) for i in everyone)]
        per_image = _losses(self.h, self.act, alphas_of(sets, self.alpha)).mean(2)
        whole = per_image[0].mean()
        return with_interval((per_image[0] - per_image[1:]) / (whole if whole > 0 else 1.0))

    def spread(self) -> Float[np.ndarray, " q"]:
        """Each source's share of the weighted variance, alpha_i (h_i - alpha . h)^2 over all."""
        apart = self.h - np.tensordot(self.alpha, self.h, 1)
        parts = np.array(self.alpha) * np.square(apart).mean((1, 2))
        return parts / (parts.sum() or 1.0)


def node_of(traced: TracedBlock, node: int, act: str, alpha: Sequence[float]) -> Node:
    """One node of a block; raises BadValue where the block has no such node.

    Args:
        traced: the block on the CPU, see `TracedBlock.on_cpu`.
        alpha: merging weights, one per source.
    """
    nodes = len(traced.layers[0][1])
    if not 0 <= node < nodes:
        raise BadValue("node", node, "is not in the block", f"its nodes are 0 to {nodes - 1}")
    rows = torch.stack([weight[node].float() for weight, _ in traced.layers])
    bias = torch.stack([b[node].float() for _, b in traced.layers])
    h = F.linear(traced.inputs, rows, bias).movedim(2, 0).double().numpy()
    return Node(block=traced.scores.block, node=node, h=h, alpha=tuple(alpha), act=act)


def gap(h: Float[np.ndarray, " q"], act: str, alpha: Sequence[float]) -> Gap:
    """The gap at these pre-activations, one per source."""
    mean = float(np.dot(alpha, h))
    activated = activated_at(h, act)
    below, merged, above = activated_at(mean + STEP * np.array([-1.0, 0.0, 1.0]), act).tolist()
    return Gap(
        h=h,
        activated=activated,
        mean=mean,
        merged=merged,
        ensembled=float(np.dot(alpha, activated)),
        slope=(above - below) / (2 * STEP),
    )


def activated_at(x: Values, act: str) -> Values:
    """sigma(x) in float64."""
    return activation(act)(torch.from_numpy(np.asarray(x, dtype=np.float64))).numpy()


def _losses(
    h: Float[np.ndarray, "q images tokens"], act: str, alphas: Float[np.ndarray, "sets q"]
) -> Float[np.ndarray, "sets images tokens"]:
    """Eq. 4 of every set of sources, token by token."""
    gap = token_gap(torch.from_numpy(h)[..., None], act, alphas)
    return (gap.size / gap.gain).numpy().reshape(len(alphas), *h.shape[1:])


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
