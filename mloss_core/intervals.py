"""The 95 % intervals of every estimate that is shown, one function for each kind of estimate.

Sources, tasks and sets are taken as given: intervals are over images, or over random draws.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from .errors import BadValue

LEVEL = 0.95
UPPER = (1 + LEVEL) / 2  # the quantile at an interval's upper end
Z95 = 1.959963984540054  # the same of the standard normal distribution


def with_interval(values: Float[np.ndarray, "*rows n"]) -> Float[np.ndarray, "3 *rows"]:
    """Means over the last axis with Student's interval: mean, low, high.

    The ends are NaN where a mean is of one value.
    """
    mean, count = values.mean(-1), values.shape[-1]
    if count < 2:
        return np.stack([mean, np.full_like(mean, math.nan), np.full_like(mean, math.nan)])
    half = _student(float(count - 1)) * values.std(-1, ddof=1) / math.sqrt(count)
    return np.stack([mean, mean - half, mean + half])


def mean_of_means(groups: Sequence[Float[np.ndarray, " _"]]) -> tuple[float, float, float]:
    """Unweighted mean of the groups' means, with Student's interval over each group's values.

    The degrees of freedom are Welch's and Satterthwaite's: n - 1 for a single group. The ends are
    NaN where a group has one value.
    """
    mean = math.fsum(float(group.mean()) for group in groups) / len(groups)
    if any(len(group) < 2 for group in groups):
        return mean, math.nan, math.nan
    variances = [float(group.var(ddof=1)) / len(group) for group in groups]
    total = math.fsum(variances)
    if total == 0:
        return mean, mean, mean
    sizes = [len(group) - 1 for group in groups]
    shares = math.fsum((v / total) ** 2 / n for v, n in zip(variances, sizes, strict=True))
    half = _student(1 / shares) * math.sqrt(total) / len(groups)
    return mean, mean - half, mean + half


def _student(freedom: float) -> float:
    """The quantile of Student's distribution at an interval's upper end."""
    from scipy.special import stdtrit  # half a second, which a merge without intervals has not

    return float(stdtrit(freedom, UPPER))


@functools.lru_cache(maxsize=4096)
def of_share(correct: int, total: int) -> tuple[float, float]:
    """Wilson's score interval of correct / total (Wilson 1927)."""
    from scipy.stats import binomtest  # takes seconds to import: not before it is needed

    interval = binomtest(correct, total).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def of_mean_share(counts: Sequence[tuple[int, int]]) -> tuple[float, float, float]:
    """Unweighted mean of shares correct / total, with an interval that stays in [0, 1].

    Recovers each share's variance at either end from its Wilson interval (Newcombe 1998; Zou and
    Donner 2008, "MOVER"). A normal interval leaves [0, 1], and has no width where all are right.
    """
    if not counts:
        raise BadValue("tasks", "", "is empty", "evaluate on one task or more")
    shares = [correct / total for correct, total in counts]
    ends = [of_share(correct, total) for correct, total in counts]
    mean = math.fsum(shares) / len(shares)
    below = math.hypot(*(p - low for p, (low, _) in zip(shares, ends, strict=True)))
    above = math.hypot(*(high - p for p, (_, high) in zip(shares, ends, strict=True)))
    return mean, max(0.0, mean - below / len(shares)), min(1.0, mean + above / len(shares))


def of_draws(draws: Float[np.ndarray, " draws"]) -> tuple[float, float]:
    """The percentile interval of bootstrap draws (Efron 1979)."""
    low, high = np.quantile(draws, [1 - UPPER, UPPER])
    return float(low), float(high)


def half_width(standard_error: float) -> float:
    """Half the normal interval of an estimate from thousands of draws."""
    return Z95 * standard_error
