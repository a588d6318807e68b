"""What leaving a source out would do if all sources were alike: what measured gains stand beside.

Alike means exchangeable: at every node and token the sources' pre-activations are drawn from one
distribution. To second order a node's loss is then |sigma''| / 2 times V, the weighted variance
sum alpha_i d_i^2 - (sum alpha_i d_i)^2 of the differences d (docs/theory.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from .compatibility.sets import alphas_of

# Node losses are exact to second order; layer losses take the differences as normal.
EXACT = ("node",)


def gains_if_alike(alpha: Sequence[float], measure: str) -> Float[np.ndarray, " q"]:
    """Share by which M-Loss falls without each source if all were alike; NaN where there is none.

    Args:
        alpha: merging weights; the others keep theirs, divided by their sum.
        measure: a key of MEASURES.
    """
    everyone = range(len(alpha))
    whole = _scale(alpha, measure)
    if whole == 0:
        return np.full(len(alpha), math.nan)
    without = alphas_of([tuple(j for j in everyone if j != i) for i in everyone], alpha)
    return np.array([1 - _scale(row.tolist(), measure) / whole for row in without])


def _scale(alpha: Sequence[float], measure: str) -> float:
    """Expected loss with these weights, up to a factor that is the same for all weights.

    Of a node E[V] = 1 - A with A the sum of alpha^2, whatever the distribution. A layer's norm
    adds V^2 over many nodes: with normal differences
    E[V^2] = (1 - A)^2 + 2 (A - 2 sum alpha^3 + A^2), which is 1 - 1/q^2 for equal weights.
    """
    square, cube = (math.fsum(a**n for a in alpha) for n in (2, 3))
    mean = max(0.0, 1 - square)
    if measure == "node":
        return mean
    return math.sqrt(max(0.0, mean**2 + 2 * (square - 2 * cube + square**2)))


def variance_if_alike(alpha: Sequence[float]) -> Float[np.ndarray, " q"]:
    """Each source's expected share of the weighted variance if all were alike: 1/q for equal ones.

    E[alpha_i (d_i - sum alpha d)^2] is alpha_i (1 - 2 alpha_i + A) times the variance. NaN where
    one source has all the weight.
    """
    weights = np.array(alpha)
    square = float(np.square(weights).sum())
    parts = weights * (1 - 2 * weights + square)
    total = parts.sum()
    return parts / total if total > 1e-12 else np.full(len(alpha), math.nan)
