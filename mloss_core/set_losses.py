"""M-Loss of many sets of the same sources in one block, from one look at their pre-activations.

Each source's pre-activations and activations are computed once; a set is a row of weights over
them. So all pairs of eight sources cost little more than the eight sources do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .mloss import EPSILON, Activation, activation
from .pieces import thread_map
from .scoring import CLOSE, Layer, pieces_of, wide
from .types import Z95

# What M-Loss of a whole block can mean, in the order of SetLosses: the paper's equations.
MEASURES = {
    "node": "mean over the nodes (Eq. 4)",
    "layer": "layer (Eq. 3)",
    "normalised": "normalised layer (Eq. 6)",
}


@dataclass(frozen=True, kw_only=True)
class SetLosses:
    """M-Loss of sets of sources in one block, image by image.

    Args:
        per_image: mean of Eq. 4 over the nodes, Eq. 3 and Eq. 6 of every set, each a mean over
            the tokens of each image; in the order of MEASURES.
        seconds: wall time of the block.
    """

    block: int
    per_image: Float[np.ndarray, "3 sets images"]
    seconds: float

    def of(self, measure: str) -> Float[np.ndarray, "sets images"]:
        """One of the MEASURES."""
        return self.per_image[list(MEASURES).index(measure)]


def score_sets(
    inputs: Float[Tensor, "images tokens width"],
    layers: Sequence[Layer],
    act: str,
    alphas: Float[np.ndarray, "sets q"],
) -> Float[np.ndarray, "3 sets images"]:
    """M-Loss (Eqs. 4, 3, 6) of sets of sources whose c_fc see the same inputs, in that order.

    Works in pieces of some images and some nodes, a thread each: memory does not grow with the
    images.

    Args:
        layers: each source's c_fc weight and bias.
        alphas: merging weights of each set, zero for those that are not in it.
    """
    sigma = activation(act)
    images, tokens, _ = inputs.shape
    sets, q = alphas.shape
    nodes = len(layers[0][1])
    alpha = torch.from_numpy(alphas)
    groups, chunks = pieces_of(nodes, tokens, inputs, q + sets)

    def losses(piece: tuple[slice, Tensor]) -> Float[Tensor, "3 sets t"]:
        some, chunk = piece
        of_some = [(w[some], b[some]) for w, b in layers]
        h = _pre_activations(chunk.flatten(0, 1) * sigma.gain, of_some, sigma)
        return _sums(h, alpha, sigma)

    pieces = list(thread_map(losses, itertools.product(groups, chunks), inputs.device))
    of_group = [pieces[start : start + len(chunks)] for start in range(0, len(pieces), len(chunks))]
    sums = torch.stack([torch.cat(group, 2) for group in of_group]).sum(0).double().cpu()
    # Every loss was measured gain times too large, see Activation.
    total, gap_square, square = sums[0] / sigma.gain, sums[1].sqrt(), sums[2].sqrt()
    gap_norm, norm = gap_square / sigma.gain, square / sigma.gain
    per_token = torch.stack([total / nodes, gap_norm, gap_norm / (norm + EPSILON)])
    return per_token.view(3, sets, images, tokens).mean(3).numpy()


def _pre_activations(
    x: Float[Tensor, "t width"], layers: Sequence[Layer], sigma: Activation
) -> Float[Tensor, "q t nodes"]:
    """gain * h of every source; x is gain times the block's input."""
    h_of_sources = x.new_empty(len(layers), len(x), len(layers[0][1]))
    for h, (w, b) in zip(h_of_sources, layers, strict=True):
        h.copy_(F.linear(x, w.to(x.device, x.dtype), b.to(x.device, x.dtype) * sigma.gain))
    return h_of_sources


def _sums(
    h: Float[Tensor, "q t nodes"], alpha: Float[Tensor, "sets q"], sigma: Activation
) -> Float[Tensor, "3 sets t"]:
    """Of every set and token, over the nodes: the loss, its square, and the square of
    kernel(alpha . h); h is sigma's gain times what the paper calls so.

    The loss is a difference of nearly equal numbers: sets whose sources are so close that fp32's
    rounding would show in it are measured again in doubles, as `score_block` does with nodes.
    """
    sums = _measured(h, alpha, sigma)
    loss, _, square = sums.mean(2)
    # A mean is at most the root of the mean square: no close set is missed.
    near = (loss / h.shape[2] < CLOSE * (square / h.shape[2]).sqrt()).nonzero()[:, 0]
    if near.numel() and wide(h) != h.dtype:
        precise = h.to(wide(h))
        sums[:, near] = _measured(precise, alpha[near.cpu()], sigma).to(sums.dtype)
    return sums


def _measured(h: Tensor, alpha: Tensor, sigma: Activation) -> Tensor:
    """See `_sums`; in h's precision."""
    alpha = alpha.to(h.device, h.dtype)
    merged = sigma.kernel(torch.tensordot(alpha, h, 1))
    gap = torch.tensordot(alpha, sigma.kernel(h.clone()), 1).sub_(merged).abs_()
    return torch.stack([gap.sum(2), gap.square_().sum(2), merged.square_().sum(2)])


def with_interval(values: Float[np.ndarray, "*rows n"]) -> Float[np.ndarray, "3 *rows"]:
    """Means over the last axis with their normal 95 % intervals: mean, low, high; NaN of one."""
    mean, count = values.mean(-1), values.shape[-1]
    if count < 2:
        return np.stack([mean, np.full_like(mean, math.nan), np.full_like(mean, math.nan)])
    half = Z95 * values.std(-1, ddof=1) / math.sqrt(count)
    return np.stack([mean, mean - half, mean + half])
