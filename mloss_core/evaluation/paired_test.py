"""Paired comparison of two models' accuracies on the same images, and its verdict in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from scipy.stats import binomtest

DRAWS, SEED = 10_000, 0
Answers = Mapping[str, Bool[np.ndarray, " n"]]  # task -> whether each image's answer was correct


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of a paired comparison, averaged over a fixed set of tasks.

    Args:
        difference: ours minus the other's, in points of accuracy.
        low, high: its 95 % interval (paired bootstrap over each task's images).
        p: McNemar's exact test on all images: how often chance alone splits the images that only
            one of the two answers correctly at least so unevenly.
        images: how many were compared.
    """

    difference: float
    low: float
    high: float
    p: float
    images: int

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def compare(ours: Answers, other: Answers) -> Comparison:
    """Difference of two models' mean accuracies on the same images (Efron 1979; McNemar 1947).

    An image adds -1, 0 or 1 to the difference, so that resampling a task's images is one draw from
    a multinomial distribution.
    """
    rng = np.random.default_rng(SEED)
    means, drawn, better, worse = [], np.zeros(DRAWS), 0, 0
    for task in ours:
        gap = ours[task].astype(np.int64) - other[task]
        n, up, down = len(gap), int((gap > 0).sum()), int((gap < 0).sum())
        counts = rng.multinomial(n, [up / n, down / n, (n - up - down) / n], size=DRAWS)
        drawn += (counts[:, 0] - counts[:, 1]) / n
        means.append((up - down) / n)
        better, worse = better + up, worse + down
    low, high = np.quantile(drawn / len(means), [0.025, 0.975])
    return Comparison(
        difference=100 * float(np.mean(means)),
        low=100 * float(low),
        high=100 * float(high),
        p=float(binomtest(better, better + worse).pvalue) if better + worse else 1.0,
        images=sum(len(hits) for hits in ours.values()),
    )


def verdict(name: str, rival: str, ours: Answers, other: Answers) -> str:
    """The paired comparison in words: ahead, behind, or not distinguishable.

    Only tasks that both models answer count: some are made for a few tasks alone.
    """
    both = {task: hits for task, hits in ours.items() if task in other}
    if not both:
        return f"**{name} and {rival} are made for different tasks**: nothing to compare."
    comparison, total = compare(both, other), len({*ours, *other})
    tasks = f" of the {len(both)} of {total} tasks that both were evaluated on" * (
        len(both) < total
    )
    gap = comparison.difference
    where = "ahead of" if gap > 0 else "behind" if gap < 0 else "level with"
    sure = "distinguishable" if comparison.distinguishable else "not distinguishable"
    p = f"p = {comparison.p:.2g}" if comparison.p >= 0.001 else "p < 0.001"
    return (
        f"**{name} is {where} {rival}{f' by {abs(gap):.2f} points' * (gap != 0)}** "
        f"(95 % interval of the difference {comparison.low:+.2f} to {comparison.high:+.2f}; "
        f"McNemar {p}): {sure} on {comparison.images:,} images{tasks}."
    )
