"""M-Loss: how far "average, then activate" is from "activate, then average".

Equations are those of M-Loss (Wang et al., AAAI 2026). Each is computed per token and then
averaged over tokens and images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .errors import BadValue, UnknownName
from .pieces import each
from .types import NodeScores, check_rates

EPSILON = 1e-4
# Floats of one chunk of pre-activations: small enough to stay in a core's cache.
CHUNK = 1 << 18
TOKENS = 1 << 9  # at least so many at once: fewer would not pay for reading wide weights
CHUNK_CUDA = 1 << 25
# Loss to activation below which a node is measured in doubles: fp32 would err by 1e-5 and more.
CLOSE = 2**-10


@dataclass(frozen=True)
class Activation:
    """An activation written as sigma(x) = kernel(gain * x) / gain, so that QuickGELU,
    silu(1.702 x) / 1.702, runs on the native kernel; the kernel may overwrite its input."""

    kernel: Callable[[Tensor], Tensor]
    gain: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """sigma(x), leaving x as it is."""
        return self.overwriting(x.clone())

    def overwriting(self, x: Tensor) -> Tensor:
        """sigma(x), with x as its workspace."""
        return self.kernel(x.mul_(self.gain)).div_(self.gain)


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(lambda x: F.relu(x, inplace=True)),
    "leaky_relu": Activation(lambda x: F.leaky_relu(x, 0.01, inplace=True)),
    "gelu": Activation(F.gelu),
    "gelu_tanh": Activation(lambda x: F.gelu(x, approximate="tanh")),
    "quick_gelu": Activation(lambda x: F.silu(x, inplace=True), gain=1.702),
    "silu": Activation(lambda x: F.silu(x, inplace=True)),
}


def activation(name: str) -> Activation:
    """The activation of that name; raises UnknownName."""
    if name not in ACTIVATIONS:
        raise UnknownName("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def node_mloss(
    h: Float[Tensor, "q *tokens nodes"],
    act: str,
    weights: Sequence[float] | None = None,
    *,
    normalised: bool = False,
    eps: float = EPSILON,
) -> Float[Tensor, " nodes"]:
    """Node-level M-Loss, mean over tokens (Eq. 4; Eq. 7 if normalised).

    Args:
        h: pre-activations of q sources.
        act: name of the activation, a key of ACTIVATIONS.
        weights: merging weights alpha; None means 1/q each (Remark 1).
        normalised: divide each token's loss by abs(sigma(alpha . h)) + eps.
        eps: of the normalised form.
    """
    gap, merged = _gap(h, act, weights)
    gap = gap.abs()
    if normalised:
        gap = gap / (merged.abs() + eps)
    return gap.reshape(-1, gap.shape[-1]).mean(0)


def layer_mloss(
    h: Float[Tensor, "q *tokens nodes"],
    act: str,
    weights: Sequence[float] | None = None,
    *,
    normalised: bool = False,
    eps: float = EPSILON,
) -> Float[Tensor, ""]:
    """Layer-level M-Loss, mean over tokens (Eq. 3; Eq. 6 if normalised); see node_mloss."""
    gap, merged = _gap(h, act, weights)
    loss = gap.norm(dim=-1)
    if normalised:
        loss = loss / (merged.norm(dim=-1) + eps)
    return loss.mean()


def _gap(h: Tensor, act: str, weights: Sequence[float] | None) -> tuple[Tensor, Tensor]:
    """sigma(alpha . h) - alpha . sigma(h), and sigma(alpha . h)."""
    sigma = activation(act)
    given = weights if weights is not None else [1 / len(h)] * len(h)
    if len(given) != len(h):
        problem = f"has {len(given)} weights for {len(h)} sources"
        raise BadValue("weights", list(given), problem, "give one a source")
    alpha = torch.tensor(given, dtype=h.dtype, device=h.device)
    merged = sigma(torch.tensordot(alpha, h, 1))
    return merged - torch.tensordot(alpha, sigma(h), 1), merged


def score_block(
    block: int,
    inputs: Float[Tensor, "images tokens width"],
    layers: Sequence[tuple[Float[Tensor, "nodes width"], Float[Tensor, " nodes"]]],
    act: str,
    alpha: Sequence[float],
) -> NodeScores:
    """M-Loss of one block (Eqs. 3, 4, 6, 7) from one shared input and each source's own c_fc.

    Works in chunks of images, a thread each and a source at a time, so that its memory depends
    neither on the number of sources nor on the number of images.

    Args:
        inputs: what the block's c_fc sees in the partly merged model (Algorithm 1, line 26).
        layers: each source's c_fc weight and bias.
    """
    sigma = activation(act)
    images, tokens, _ = inputs.shape
    nodes = len(layers[0][1])
    size = _images_at_once(tokens, nodes, inputs.device)

    def losses(chunk: Tensor) -> tuple[Tensor, Tensor]:
        # gain * (x w + b): the smaller factor is scaled, and weights stay as they are mapped.
        x = chunk.flatten(0, 1) * sigma.gain
        merged, gap = _chunk_gap(x, layers, alpha, sigma)
        tokens = torch.stack([gap.square().sum(1), merged.square().sum(1), gap.sum(1)])
        total = gap.sum(0)
        return tokens, torch.stack([total, gap.div_(merged.add_(EPSILON * sigma.gain)).sum(0)])

    per_token, sums = zip(*each(losses, inputs.split(size), inputs.device), strict=True)
    node = (torch.stack(sums).sum(0).double().cpu() / (images * tokens)).numpy()
    # Every loss was measured gain times too large; the normalised ones are ratios.
    gap_square, square, total = torch.cat(per_token, 1).double().cpu()
    gap_norm, norm = gap_square.sqrt() / sigma.gain, square.sqrt() / sigma.gain
    return NodeScores(
        block=block,
        node=node[0] / sigma.gain,
        node_normalised=node[1],
        layer=float(gap_norm.mean()),
        layer_normalised=float((gap_norm / (norm + EPSILON)).mean()),
        per_image=(total.view(images, tokens).mean(1) / (nodes * sigma.gain)).numpy(),
    )


def _images_at_once(tokens: int, nodes: int, device: torch.device) -> int:
    """Images of one chunk: pre-activations fit a cache, but products are worth their weights."""
    if device.type != "cpu":
        return max(1, CHUNK_CUDA // (tokens * nodes))
    return max(1, CHUNK // (tokens * nodes), TOKENS // tokens)


def _chunk_gap(
    x: Float[Tensor, "t width"],
    layers: Sequence[tuple[Tensor, Tensor]],
    alpha: Sequence[float],
    sigma: Activation,
) -> tuple[Float[Tensor, "t nodes"], Float[Tensor, "t nodes"]]:
    """Magnitudes of kernel(alpha . h), and of its distance to alpha . kernel(h), of one chunk of
    tokens; h and x are sigma's gain times what the paper calls so.

    The loss is a difference of nearly equal numbers: nodes at which the sources are so close that
    fp32's rounding would show in it are measured again in doubles.
    """
    merged, gap = _gap_in(x.dtype, x, layers, alpha, sigma)
    merged, gap = merged.abs_(), gap.abs_()
    close = gap.sum(0) < CLOSE * merged.sum(0)
    if x.device.type != "mps" and close.any():  # mps has no doubles
        nodes = close.nonzero()[:, 0]
        few = [(w[nodes], b[nodes]) for w, b in layers]
        exact = _gap_in(torch.float64, x, few, alpha, sigma)[1]
        gap.index_copy_(1, nodes, exact.abs_().to(gap.dtype))
    return merged, gap


def _gap_in(
    dtype: torch.dtype,
    x: Tensor,
    layers: Iterable[tuple[Tensor, Tensor]],
    alpha: Sequence[float],
    sigma: Activation,
) -> tuple[Tensor, Tensor]:
    """See `_chunk_gap`; pre-activations are rounded to x's precision, all else to dtype's.

    Rounding a pre-activation hardly moves the loss, whose slope in it is the difference of two
    nearly equal slopes of the activation.
    """
    mean_pre = mean_post = None
    for weight, (w, b) in zip(alpha, layers, strict=True):
        # One source's weights at a time in x's precision: the rest stay as they are stored.
        w, b = w.to(x.device, x.dtype), b.to(x.device, x.dtype)
        h = F.linear(x, w, b * sigma.gain).to(dtype)
        mean_pre = h * weight if mean_pre is None else mean_pre.add_(h, alpha=weight)
        h = sigma.kernel(h)
        mean_post = h.mul_(weight) if mean_post is None else mean_post.add_(h, alpha=weight)
    assert mean_pre is not None and mean_post is not None
    merged = sigma.kernel(mean_pre)
    return merged, mean_post.sub_(merged)


def keep_rates(
    scores: Float[np.ndarray, " nodes"], keep: float, variation: float
) -> Float[np.ndarray, " nodes"]:
    """Keep rate of every node, k_j = k - e * RankNorm(score_j) (Algorithm 1, line 15).

    RankNorm is rank / (nodes - 1); equal scores are ordered by node index.

    Args:
        scores: node M-Loss; the higher, the fewer parameters are kept.
        keep: base keep rate k, in (0, 1].
        variation: pruning variation e, in [0, k].

    Raises:
        BadValue: rates out of range, or scores that are missing or not finite.
    """
    check_rates(keep, variation)
    scores = np.asarray(scores)
    if scores.ndim != 1 or scores.size == 0 or not np.isfinite(scores).all():
        problem = f"of shape {scores.shape} are missing or not finite"
        raise BadValue("scores", "", problem, "compute them first; none are ever invented")
    rank = np.empty(scores.size, dtype=np.int64)
    rank[np.argsort(scores, kind="stable")] = np.arange(scores.size)
    return keep - variation * (rank / max(1, scores.size - 1))
