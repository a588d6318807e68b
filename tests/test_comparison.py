"""Paired comparisons against plain resampling, and the one rule of every verdict."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mloss_core import compare, verdict
from mloss_core.errors import BadValue
from mloss_core.evaluation.paired_test import points
from mloss_core.experiments.claims import _paper


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


def test_swapping_the_models_turns_the_difference_round():
    rng = np.random.default_rng(0)
    ours, reference = answers(rng, (0.7, 0.6), 100), answers(rng, (0.5, 0.6), 100)
    one, other = compare(ours, reference), compare(reference, ours)
    assert one.difference == pytest.approx(-other.difference)
    assert one.low == pytest.approx(-other.high, abs=0.6)  # of other draws


@pytest.mark.parametrize(
    ("right", "said"),
    [
        (100, r"\*\*Distinguishable\*\*: A is 50.00 points ahead of B \(95 % interval \+4"),
        (0, r"\*\*Distinguishable\*\*: A is 50.00 points behind B \(95 % interval -6"),
        (51, r"\*\*Not distinguishable\*\*: A is 1.00 points ahead of B \(95 % interval 0.00 to "),
        (50, r"\*\*Not distinguishable\*\*: A is level with B \(95 % interval 0.00 to 0.00, 100 "),
    ],
)
def test_the_verdict_comes_first_and_follows_from_the_interval(right, said):
    reference = {"a": np.arange(100) < 50}
    words = verdict("A", "B", {"a": np.arange(100) < right}, reference)
    assert re.match(said, words), words
    assert words.endswith("100 images).") and words.count("**") == 2


SENTENCE = re.compile(
    r"\*\*(Distinguishable|Not distinguishable)\*\*: A is (?:([\d.e-]+) points )?"
    r"(ahead of|behind|level with) B \(95 % interval (\S+) to (\S+), [\d,]+ images\)\."
)


@given(st.integers(0, 6), st.integers(0, 6), st.integers(1, 3), st.integers(60, 60_000))
def test_no_number_of_a_verdict_contradicts_it(up, down, tasks, images):
    """As a reader would check it: by the printed numbers alone."""
    ours, other = np.zeros(images, bool), np.zeros(images, bool)
    ours[:up], other[up : up + down] = True, True
    same = {f"task {i}": np.zeros(images, bool) for i in range(tasks - 1)}
    words = verdict("A", "B", {"a": ours, **same}, {"a": other, **same})
    head, size, where, low, high = SENTENCE.fullmatch(words).groups()
    excludes_zero = float(low) > 0 or float(high) < 0
    assert (head == "Distinguishable") == excludes_zero
    assert where == ("ahead of" if up > down else "behind" if up < down else "level with")
    assert (size is None) == (up == down) and (size is None or float(size) > 0)
    if excludes_zero:
        assert (float(low) > 0) == (where == "ahead of")
    assert "p =" not in words and "McNemar" not in words


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (-0.0, "0.00"), (0.004, "+0.004"), (-0.00021, "-0.0002"), (-1.236, "-1.24")],
)
def test_points_are_never_rounded_to_zero(value, text):
    assert points(value) == text


def test_models_for_different_tasks_get_no_verdict():
    words = verdict("A", "B", {"a": np.ones(3, bool)}, {"b": np.ones(3, bool)})
    assert words == "**Not measured**: A and B are made for different tasks."
    some = verdict(
        "A", "B", {"a": np.ones(3, bool), "b": np.ones(3, bool)}, {"b": np.ones(3, bool)}
    )
    assert "of the 1 of 2 tasks that both were evaluated on" in some


@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_a_claim_of_the_paper_follows_the_same_rule(sign):
    better, worse = np.ones(200, bool), np.arange(200) < 150
    pairs = {1: (better, worse), 0: (better, better), -1: (worse, better)}
    ours, other = pairs[sign]
    words = _paper("A is ahead of B", compare({"a": ours}, {"a": other}))
    outcomes = {1: "holds here**", 0: "cannot be told here**", -1: "the other way round here**"}
    assert outcomes[sign] in words


@pytest.mark.parametrize(
    ("ours", "other"),
    [
        ({}, {}),
        ({"a": [True]}, {}),
        ({"a": [True]}, {"a": [True, False]}),
        ({"a": [True, False]}, {"a": [True]}),
        ({"a": []}, {"a": []}),
        ({"a": [True]}, {"b": [True]}),
    ],
)
def test_answers_that_cannot_be_paired_are_refused(ours, other):
    arrays = [{t: np.array(x, bool) for t, x in answers.items()} for answers in (ours, other)]
    with pytest.raises(BadValue):
        compare(*arrays)


def test_an_interval_that_ends_at_zero_ends_at_zero_to_the_bit():
    """Sums of thirds and sevenths round: an end of 1e-17 would make two models distinguishable."""
    rng = np.random.default_rng(5)
    ours = {str(n): rng.random(n) < 0.6 for n in (3, 7, 49, 50)}
    other = {task: hits ^ (rng.random(len(hits)) < 0.1) for task, hits in ours.items()}
    for a, b in ((ours, other), (other, ours)):
        comparison = compare(a, b)
        for end in (comparison.low, comparison.high):
            assert end == 0 or abs(end) > 1e-9
