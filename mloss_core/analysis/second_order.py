"""M-Loss to second order: half the activation's curvature times the sources' weighted variance.

sigma(alpha . h) - alpha . sigma(h) = - sigma''(alpha . h) / 2 * alpha . (h - alpha . h)^2 + ...
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..mloss import CHUNK_CUDA, Layer
from ..parallel import thread_map
from .curvature import Smooth, smooth

CHUNK = 1 << 20  # pre-activations of one piece on a CPU


@dataclass(frozen=True, kw_only=True)
class SecondOrder:
    """The factors of one block's M-Loss to second order, a number per node, means over tokens.

    Args:
        curvature: abs(sigma''(alpha . h)).
        variance: alpha . (h - alpha . h)^2, the weighted variance over the sources.
        product: half of curvature times variance, multiplied token by token: the prediction.
        centre: alpha . h.
        square: (alpha . h)^2.
    """

    curvature: Float[np.ndarray, " nodes"]
    variance: Float[np.ndarray, " nodes"]
    product: Float[np.ndarray, " nodes"]
    centre: Float[np.ndarray, " nodes"]
    square: Float[np.ndarray, " nodes"]


def second_order(
    inputs: Float[Tensor, "images tokens width"],
    layers: Sequence[Layer],
    act: str,
    alpha: Sequence[float],
) -> SecondOrder:
    """The factors of one block's second-order M-Loss, and their product, from one shared input.

    Works in pieces of some tokens, a source at a time, so that its memory depends neither on the
    number of sources nor on the number of images.

    Args:
        inputs: what the block's c_fc sees in the partly merged model.
        layers: each source's c_fc weight and bias.
        act: a smooth activation; ReLU kinds have no second derivative (UnknownName).
    """
    sigma = smooth(act)
    nodes = len(layers[0][1])
    mean = _mean_layer(layers, alpha, inputs)
    x = inputs.flatten(0, 1)
    rows = max(1, (CHUNK if x.device.type == "cpu" else CHUNK_CUDA) // nodes)

    def sums(piece: Tensor) -> Tensor:
        return _sums(piece, layers, mean, sigma, alpha)

    total = torch.stack(list(thread_map(sums, x.split(rows), x.device))).double().sum(0) / len(x)
    curvature, variance, product, centre, square = total.cpu().numpy()
    return SecondOrder(
        curvature=curvature, variance=variance, product=product, centre=centre, square=square
    )


def _mean_layer(layers: Sequence[Layer], alpha: Sequence[float], like: Tensor) -> Layer:
    """The c_fc of the weighted mean, whose pre-activation is alpha . h."""
    weight, bias = (torch.zeros_like(part).to(like) for part in layers[0])
    for a, (w, b) in zip(alpha, layers, strict=True):
        weight.add_(w.to(like), alpha=a)
        bias.add_(b.to(like), alpha=a)
    return weight, bias


def _sums(
    x: Float[Tensor, "t width"],
    layers: Sequence[Layer],
    mean: Layer,
    sigma: Smooth,
    alpha: Sequence[float],
) -> Float[Tensor, "5 nodes"]:
    """Sums over some tokens of SecondOrder's fields."""
    centre = F.linear(x, *mean)
    variance = torch.zeros_like(centre)
    for a, (w, b) in zip(alpha, layers, strict=True):
        # Differences of weights, not of pre-activations: close sources lose no digits.
        apart = F.linear(x, w.to(x) - mean[0], b.to(x) - mean[1])
        variance.addcmul_(apart, apart, value=a)
    curvature = sigma.bend(centre).abs_()
    fields = (curvature, variance, curvature * variance / 2, centre, centre.square())
    return torch.stack([field.sum(0) for field in fields])


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The agreement of a prediction with measurements.

    Args:
        r2: share of the measured variance that the best straight line explains.
        slope: of that line, measured over predicted.
        share: sum of the predictions over the sum of what was measured.
    """

    r2: float
    slope: float
    share: float


def agreement(predicted: Float[np.ndarray, " n"], measured: Float[np.ndarray, " n"]) -> Agreement:
    """Least-squares fit of measured on predicted values; NaN where either does not vary."""
    p, m = predicted - predicted.mean(), measured - measured.mean()
    both, of_p, of_m, total = p @ m, p @ p, m @ m, measured.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.array([both * both / (of_p * of_m), both / of_p, predicted.sum() / total])
    r2, slope, share = np.where(np.isfinite(values), values, math.nan).tolist()
    return Agreement(r2=r2, slope=slope, share=share)
