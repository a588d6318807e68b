"""M-Loss: how far "average, then activate" is from "activate, then average".

Equations are those of M-Loss (Wang et al., AAAI 2026). Each is computed per token and then
averaged over tokens and images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .errors import BadValue, UnknownName
from .ranges import check_rates

EPSILON = 1e-4


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


def keep_rates(
    scores: Float[np.ndarray, " nodes"], keep: float, variation: float, *, reverse: bool = False
) -> Float[np.ndarray, " nodes"]:
    """Keep rate of every node, k_j = k - e * RankNorm(score_j) (Algorithm 1, line 15).

    RankNorm is rank / (nodes - 1); equal scores are ordered by node index.

    Args:
        scores: node M-Loss; the higher, the fewer parameters are kept.
        keep: base keep rate k, in (0, 1].
        variation: pruning variation e, in [0, k].
        reverse: the same ranks from the other end, as a control: the highest score keeps most.

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
    if reverse:
        rank = scores.size - 1 - rank
    return keep - variation * (rank / max(1, scores.size - 1))
