"""Rules that one tensor cannot decide: they look at whole task vectors first, or last.

A source at a time, so that memory does not grow with them.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..mloss import wide
from ..trim import TaskVectors, kept_counts, thresholds_
from ..types import Event, MergeRecipe
from .matrices import Deltas, parts_of, svd, treated
from .method import Models, OwnImages, Prepared, Weights
from .rules import Alpha, Merged, counts, simple_average

CLIPPED = 0.01  # PCB: share of magnitudes clipped at each end (its script for ViTs)
SPECTRUM = 0.5  # OPCM: share of the singular values' sum that is protected


def _deltas(models: Models, source: int) -> Iterator[tuple[str, Tensor]]:
    """A source's task vector, tensor by tensor."""
    for name, base in models.base.items():
        stored = models.sources[source].read([name])[name]
        yield name, stored.to(base.device, base.dtype) - base


def norms(models: Models) -> list[float]:
    """Euclidean norm of every source's whole task vector."""
    return [
        math.sqrt(sum(float(d.to(wide(d)).square().sum()) for _, d in _deltas(models, i)))
        for i in range(len(models.sources))
    ]


def inverse_norm(
    models: Models, recipe: MergeRecipe, own: Sequence[OwnImages]
) -> Generator[Event, None, Prepared]:
    """lambda sum c_i t_i, c_i = (alpha_i / ||t_i||) / sum_j (alpha_j / ||t_j||): after NAN
    (Si et al. 2025), whose own formula we could not read."""
    yield from ()
    inverse = [a / n if n else 0.0 for a, n in zip(recipe.alpha, norms(models), strict=True)]
    total = sum(inverse) or 1.0
    weights = torch.tensor([w / total for w in inverse], device=models.device)

    def rule(v: TaskVectors, alpha: Alpha, recipe: MergeRecipe, name: str, rates=None) -> Merged:
        return recipe.scaling * simple_average(v, weights, recipe, name)

    return Prepared(rule=rule)


def pcb(
    models: Models, recipe: MergeRecipe, own: Sequence[OwnImages]
) -> Generator[Event, None, Prepared]:
    """lambda sum t_i b_i / sum b_i, where b_i, a share of 0 to 1, is above zero for the k most
    competitive entries of a whole task vector (Du et al. 2024, PCB-Merging, its script for ViTs).

    Competition is exp(q n_i^2) tanh(t_i sum_j sign(t_j) n_j), n_i the clipped magnitude between 0
    and 1.
    """
    yield from ()
    members = [i for i, weight in enumerate(recipe.alpha) if weight > 0]
    q, times = len(members), counts(torch.tensor(recipe.alpha))
    total = sum(tensor.numel() for tensor in models.base.values())
    limits = [_clip_limits(_flat(models, i).abs_()) for i in members]
    together = torch.zeros(total, device=models.device)
    for i, (low, high) in zip(members, limits, strict=True):
        vector = _flat(models, i)
        together += vector.sign() * _normal(vector, low, high)
    spans = []
    for i, (low, high) in zip(members, limits, strict=True):
        shares = _competition(_flat(models, i), together, low, high, q)
        (count,) = kept_counts(np.array([recipe.keep]), total)
        top = float(shares.max())
        spans.append((float(thresholds_(shares[None], np.array([count]))), top))
    starts = _starts(models)

    def rule(v: TaskVectors, alpha: Alpha, recipe: MergeRecipe, name: str, rates=None) -> Merged:
        first = starts[name]
        cross = together[first : first + v.base.numel()]
        above, below = torch.zeros_like(cross), torch.zeros_like(cross)
        for i, (low, high), (least, most) in zip(members, limits, spans, strict=True):
            vector = v.part(slice(i, i + 1), slice(None))[0].flatten()
            shares = _competition(vector, cross, low, high, q).sub_(least)
            shares = shares.clamp_(min=0).div_(max(most - least, torch.finfo(shares.dtype).tiny))
            if v.kept is not None:
                v.kept.add_(shares.view(len(v.kept), -1).count_nonzero(1))
            shares *= times[i]
            above += vector.sign() * vector.abs().clamp(low, high) * shares
            below += shares
        merged = above / below.clamp_(min=1e-12)
        return recipe.scaling * merged.view(v.base.shape)

    return Prepared(rule=rule)


def _flat(models: Models, source: int) -> Tensor:
    """A source's task vector as one row."""
    return torch.cat([delta.flatten() for _, delta in _deltas(models, source)])


def _starts(models: Models) -> dict[str, int]:
    """Where each tensor begins in a flat task vector."""
    sizes = np.cumsum([0, *(tensor.numel() for tensor in models.base.values())])
    return {name: int(start) for name, start in zip(models.base, sizes, strict=False)}


def _clip_limits(magnitude: Tensor) -> tuple[float, float]:
    """The magnitudes at which 1 % of the smallest and of the largest are clipped; leaves them in
    disorder."""
    total = magnitude.numel()
    counts = (max(1, round(total * (1 - CLIPPED))), max(1, round(total * CLIPPED)))
    low, high = (float(thresholds_(magnitude[None], np.array([n]))) for n in counts)
    return low, high


def _normal(vector: Tensor, low: float, high: float) -> Tensor:
    """Clipped magnitudes between 0 and 1."""
    span = high - low
    return (vector.abs().clamp_(low, high) - low) / span if span else torch.zeros_like(vector)


def _competition(vector: Tensor, cross: Tensor, low: float, high: float, q: int) -> Tensor:
    clipped = vector.sign() * vector.abs().clamp(low, high)
    within = _normal(vector, low, high).square_().mul_(q).exp_()
    return within.mul_(torch.tanh(clipped * cross))


def opcm(
    models: Models, recipe: MergeRecipe, own: Sequence[OwnImages]
) -> Generator[Event, None, Prepared]:
    """Sources one after the other: of each, what lies across the singular directions of the merge
    so far; the sum gets the task vectors' mean norm (Tang et al. 2025, OPCM).

    In the order of the sources; the published order is drawn at random.
    """
    yield from ()
    members = [i for i, weight in enumerate(recipe.alpha) if weight > 0]
    sizes = norms(models)
    mean = float(np.mean([sizes[i] for i in members]))

    def rule(v: TaskVectors, alpha: Alpha, recipe: MergeRecipe, name: str, rates=None) -> Merged:
        times = counts(alpha)
        if not treated(
            name, v.base, "layers" if recipe.matrices == "published" else recipe.matrices
        ):
            return len(members) * simple_average(v, alpha, recipe, name)
        parts = parts_of(v.base, name, recipe.qkv)
        return torch.cat([_one_by_one(Deltas(v, times, rows)) for rows in parts])

    def finish(merged: Weights) -> None:
        deltas = {name: merged[name] - base for name, base in models.base.items()}
        size = math.sqrt(sum(float(d.to(wide(d)).square().sum()) for d in deltas.values()))
        scale = recipe.scaling * (mean / size if size else 0.0)
        for name, base in models.base.items():
            merged[name] = base + scale * deltas[name]

    return Prepared(rule=rule, finish=finish)


def _one_by_one(deltas: Deltas) -> Tensor:
    merged = None
    for delta in deltas:
        if merged is None:
            merged = delta.clone()
            continue
        # Square U and V: what is new may lie outside the old spaces.
        u, s, v = svd(merged, full=True)
        share = s.cumsum(0) / s.sum().clamp(min=torch.finfo(s.dtype).tiny)
        rank = int((share <= SPECTRUM).sum())  # the first, from 0, above it
        projected = u.T @ delta @ v.T
        projected.fill_diagonal_(0)
        projected[:rank, :rank] = 0
        merged = merged + u @ projected @ v
    assert merged is not None
    return merged
