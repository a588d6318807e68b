"""Equivalence of two models on the same images: two one-sided tests (TOST) with a named margin."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from .paired_test import Answers

LEVEL = 0.05
# Points of accuracy. Less than the 0.81 by which the paper's M-TIES is ahead of TIES: a margin that
# holds the effect in question would make everything equivalent.
MARGIN = 0.5


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """The result of two one-sided tests on a paired difference, averaged over a fixed set of tasks.

    Args:
        difference: ours minus the other's, in points of accuracy.
        low, high: its 90 % interval; equivalent at 5 % where it lies within the margin.
        margin: the largest difference that does not matter, in points.
        p: the larger of the two one-sided p-values.
    """

    difference: float
    low: float
    high: float
    margin: float
    p: float

    @property
    def equivalent(self) -> bool:
        """Whether the difference is shown to be smaller than the margin."""
        return self.p < LEVEL

    @property
    def different(self) -> bool:
        """Whether the difference is shown to be larger than the margin."""
        return self.low > self.margin or self.high < -self.margin


def equivalence(ours: Answers, other: Answers, margin: float = MARGIN) -> Equivalence:
    """Tests whether two models' mean accuracies differ by less than the margin (Schuirmann 1987).

    Args:
        margin: in points of accuracy, above 0.
    """
    difference, error = paired_difference(ours, other)
    half = error * float(ndtri(1 - LEVEL))
    return Equivalence(
        difference=difference,
        low=difference - half,
        high=difference + half,
        margin=margin,
        p=max(_tail(margin + difference, error), _tail(margin - difference, error)),
    )


def paired_difference(ours: Answers, other: Answers) -> tuple[float, float]:
    """Difference of two models' mean accuracies on the same images, and its standard error.

    Both in points; tasks count alike, and are taken as given.
    """
    gaps = [ours[task].astype(float) - other[task] for task in ours]
    difference = 100 * float(np.mean([gap.mean() for gap in gaps]))
    return difference, 100 * math.sqrt(sum(gap.var() / len(gap) for gap in gaps)) / len(gaps)


def _tail(distance: float, error: float) -> float:
    """The one-sided p-value of being on the wrong side of a bound that far away."""
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return 0.5 * math.erfc(distance / error / math.sqrt(2))
