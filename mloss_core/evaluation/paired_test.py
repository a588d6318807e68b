"""Paired comparison of two models' accuracies on the same images, and its verdict in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from ..errors import BadValue
from ..intervals import of_draws

DRAWS, SEED = 10_000, 0
Answers = Mapping[str, Bool[np.ndarray, " _"]]  # task -> whether each image's answer was correct
RULE = (
    "Two models are called distinguishable where the 95 % interval of their mean difference, "
    "paired over the same images, excludes zero."
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of a paired comparison, averaged over a fixed set of tasks.

    Args:
        difference: ours minus the other's, in points of accuracy.
        low, high: its 95 % interval (paired bootstrap over each task's images).
        images: how many were compared.
    """

    difference: float
    low: float
    high: float
    images: int

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes zero: the one RULE of every verdict."""
        return self.low > 0 or self.high < 0


def compare(ours: Answers, other: Answers) -> Comparison:
    """Difference of two models' mean accuracies on the same images (Efron 1979).

    An image adds -1, 0 or 1 to the difference, so that resampling a task's images is one draw from
    a multinomial distribution.

    Raises:
        BadValue: there is no task, or a task's answers are not of the same images.
    """
    _check_same_images(ours, other)
    rng = np.random.default_rng(SEED)
    means, drawn = [], np.zeros(DRAWS)
    for task in ours:
        gap = ours[task].astype(np.int64) - other[task]
        n, up, down = len(gap), int((gap > 0).sum()), int((gap < 0).sum())
        counts = rng.multinomial(n, [up / n, down / n, (n - up - down) / n], size=DRAWS)
        drawn += (counts[:, 0] - counts[:, 1]) / n
        means.append((up - down) / n)
    # Sums of whole answers: what is left beyond this digit is rounding, and an end of 0 is 0.
    low, high = of_draws((drawn / len(means)).round(12))
    return Comparison(
        difference=100 * float(np.mean(means)),
        low=100 * low,
        high=100 * high,
        images=sum(len(hits) for hits in ours.values()),
    )


def _check_same_images(ours: Answers, other: Answers) -> None:
    """Raises BadValue unless both have answers to the same images of the same tasks."""
    if not ours or ours.keys() != other.keys():
        shown = f"{','.join(ours)} and {','.join(other)}"
        remedy = "compare on one task or more, the same for both"
        raise BadValue("tasks", shown, "are none, or not the same for both models", remedy)
    for task, hits in ours.items():
        if len(hits) != len(other[task]) or not len(hits):
            shown = f"{len(hits)} and {len(other[task])} answers"
            remedy = "evaluate both models on the same images"
            raise BadValue(f"answers on {task}", shown, "cannot be paired by image", remedy)


def verdict(name: str, rival: str, ours: Answers, other: Answers) -> str:
    """The paired comparison in words: distinguishable or not, then the difference.

    Only tasks that both models answer count: some are made for a few tasks alone.
    """
    both = {task: hits for task, hits in ours.items() if task in other}
    if not both:
        return f"**Not measured**: {name} and {rival} are made for different tasks."
    comparison = compare(both, {task: other[task] for task in both})
    total = len({*ours, *other})
    tasks = f" of the {len(both)} of {total} tasks that both were evaluated on"
    gap = comparison.difference
    where = "ahead of" if gap > 0 else "behind" if gap < 0 else "level with"
    head = "Distinguishable" if comparison.distinguishable else "Not distinguishable"
    return (
        f"**{head}**: {name} is {f'{points(abs(gap))[1:]} points ' * (gap != 0)}{where} {rival} "
        f"({spread(comparison)}, {comparison.images:,} images"
        f"{tasks * (len(both) < total)})."
    )


def spread(comparison: Comparison) -> str:
    """The interval of a difference, in words."""
    return f"95 % interval {points(comparison.low)} to {points(comparison.high)}"


def points(value: float) -> str:
    """Signed points with two digits; more where an end near zero would be rounded to zero.

    An end at "0.00" would leave open whether the interval excludes zero.
    """
    text = f"{value:+.2f}"
    if float(text) != 0:
        return text
    return f"{value:+.1g}" if value else "0.00"
