"""Rank correlation over sets of models that share models, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ..intervals import of_draws

DRAWS = 2000
ENOUGH = 0.5  # share of draws that must tell something before their interval is given
LEAST = 5  # different sets that a draw must hold: of three, any ranks correlate strongly


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Spearman's rank correlation with its two 95 % bootstrap intervals; NaN where not known.

    Args:
        rho: of all sets.
        by_models: interval when the models are drawn anew: it tells of other models.
        by_sets: interval when the sets are drawn anew as if they shared no models: too narrow.
    """

    rho: float
    by_models: tuple[float, float]
    by_sets: tuple[float, float]


def spearman(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Spearman's rank correlation; NaN where either does not vary."""
    from scipy.stats import spearmanr  # takes seconds to import: not before it is needed

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.asarray(spearmanr(x, y))[0])


def weighted_spearman(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], weights: Float[np.ndarray, "draws n"]
) -> Float[np.ndarray, " draws"]:
    """Spearman's rank correlation where set i counts weights[., i] times.

    NaN without variation, and of fewer than LEAST different sets. Equal values share their mean
    rank.
    """
    a, b = _ranks(x, weights), _ranks(y, weights)
    total = np.maximum(weights.sum(1, keepdims=True), 1)
    a = a - (weights * a).sum(1, keepdims=True) / total
    b = b - (weights * b).sum(1, keepdims=True) / total
    covariance = (weights * a * b).sum(1)
    spread = np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1))
    unknown = np.full(len(weights), np.nan)
    defined = (spread > 1e-9) & ((weights > 0).sum(1) >= LEAST)
    return np.divide(covariance, spread, out=unknown, where=defined)


def _ranks(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    below = (x[:, None] < x[None, :]).astype(float)
    equal = (x[:, None] == x[None, :]).astype(float)
    return weights @ (below + equal / 2)


def draws_of_models(
    sets: Sequence[Sequence[int]], models: int, seed: int
) -> Float[np.ndarray, "draws n"]:
    """Counts of each set in bootstrap draws of models: the product of its members' counts.

    Sets that share a model rise and fall together, which drawing sets alone would hide.
    """
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(models, [1 / models] * models, size=DRAWS)
    return np.stack([counts[:, list(members)].prod(1) for members in sets], 1).astype(float)


def draws_of_sets(sets: int, seed: int) -> Float[np.ndarray, "draws n"]:
    """Counts of each set in bootstrap draws of the sets themselves."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(sets, [1 / sets] * sets, size=DRAWS).astype(float)


def correlated(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    sets: Sequence[Sequence[int]],
    models: int,
    seed: int = 0,
) -> Correlation:
    """Spearman's rank correlation of x and y over sets of models, with its intervals."""
    by_models = draws_of_models(sets, models, seed)
    by_sets = draws_of_sets(len(sets), seed)
    return Correlation(
        rho=float(weighted_spearman(x, y, np.ones((1, len(x))))[0]),
        by_models=interval(weighted_spearman(x, y, by_models)),
        by_sets=interval(weighted_spearman(x, y, by_sets)),
    )


def difference(
    x: Float[np.ndarray, " n"],
    rival: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    sets: Sequence[Sequence[int]],
    models: int,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Difference of x's and the rival's rank correlations with y, with the interval over models."""
    weights = draws_of_models(sets, models, seed)
    every = np.ones((1, len(x)))

    def apart(counts: Float[np.ndarray, "draws n"]) -> Float[np.ndarray, " draws"]:
        return weighted_spearman(x, y, counts) - weighted_spearman(rival, y, counts)

    low, high = interval(apart(weights))
    return float(apart(every)[0]), low, high


def interval(values: Float[np.ndarray, " draws"]) -> tuple[float, float]:
    """The 95 % interval of the finite draws; NaN where too few are finite."""
    finite = values[np.isfinite(values)]
    if len(finite) < ENOUGH * len(values):
        return float("nan"), float("nan")
    return of_draws(finite)
