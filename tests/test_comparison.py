"""Paired comparisons against plain resampling and the binomial formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mloss_core import compare, verdict


def answers(rng, rates, n):
    return {f"task {i}": rng.random(n) < rate for i, rate in enumerate(rates)}


def test_the_interval_is_that_of_resampling_each_tasks_images():
    rng = np.random.default_rng(3)
    ours, reference = answers(rng, (0.9, 0.6), 200), answers(rng, (0.8, 0.5), 200)
    comparison = compare(ours, reference)
    draws = []
    for _ in range(4000):  # image by image, as one would do it by hand
        gaps = []
        for task in ours:
            chosen = rng.integers(0, 200, 200)
            gaps.append(ours[task][chosen].mean() - reference[task][chosen].mean())
        draws.append(100 * np.mean(gaps))
    assert comparison.images == 400
    assert (comparison.low, comparison.high) == pytest.approx(
        np.quantile(draws, (0.025, 0.975)), abs=0.4
    )
    gaps = [ours[t].mean() - reference[t].mean() for t in ours]
    assert comparison.difference == pytest.approx(100 * np.mean(gaps))


@settings(max_examples=30)
@given(better=st.integers(0, 20), worse=st.integers(0, 20), same=st.integers(1, 50))
def test_mcnemar_is_the_two_sided_binomial_of_the_discordant_images(better, worse, same):
    ours = np.array([True] * better + [False] * worse + [True] * same)
    reference = np.array([False] * better + [True] * worse + [True] * same)
    n, fewer = better + worse, min(better, worse)
    tail = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
    expected = 1.0 if better == worse else min(1.0, 2 * tail)
    assert compare({"a": ours}, {"a": reference}).p == pytest.approx(expected)


def test_swapping_the_models_turns_the_difference_round():
    rng = np.random.default_rng(0)
    ours, reference = answers(rng, (0.7, 0.6), 100), answers(rng, (0.5, 0.6), 100)
    one, other = compare(ours, reference), compare(reference, ours)
    assert one.difference == pytest.approx(-other.difference) and one.p == other.p
    assert one.low == pytest.approx(-other.high, abs=0.6)  # of other draws


@pytest.mark.parametrize(
    ("right", "said"),
    [
        (100, ("A is ahead of B by 50.00 points", "p < 0.001")),
        (50, ("A is level with B**", "+0.00 to +0.00", "not distinguishable on 100 images")),
        (51, ("A is ahead of B by 1.00 points", "p = 1", "not distinguishable")),
        (0, ("A is behind B by 50.00 points",)),
    ],
)
def test_the_words_follow_from_the_interval(right, said):
    reference = {"a": np.arange(100) < 50}
    words = verdict("A", "B", {"a": np.arange(100) < right}, reference)
    assert all(part in words for part in said), words
    assert ("not distinguishable" in words) == (right in (50, 51))
