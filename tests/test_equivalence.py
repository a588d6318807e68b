"""Two one-sided tests: against the closed form, and how often they err at the margin."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from mloss_core.evaluation.equivalence import equivalence


def answers(up: int, down: int, n: int) -> tuple[dict, dict]:
    """Two models on n images: up of them only ours answers, down only the other."""
    ours, other = np.ones(n, bool), np.ones(n, bool)
    other[:up], ours[up : up + down] = False, False
    return {"a": ours}, {"a": other}


@pytest.mark.parametrize("up, down", [(3, 3), (5, 2), (2, 5), (20, 4), (40, 40)])
def test_one_task_agrees_with_the_closed_form(up, down):
    n, margin = 1000, 1.0
    result = equivalence(*answers(up, down, n), margin)
    mean = (up - down) / n
    error = 100 * math.sqrt(((up + down) / n - mean**2) / n)
    assert result.difference == pytest.approx(100 * mean)
    assert (result.low, result.high) == pytest.approx(
        (100 * mean - 1.6448536 * error, 100 * mean + 1.6448536 * error)
    )
    above = norm.sf((100 * mean + margin) / error)
    below = norm.sf((margin - 100 * mean) / error)
    assert result.p == pytest.approx(max(above, below))
    assert result.equivalent == (-margin < result.low and result.high < margin)


def test_tasks_count_alike_whatever_their_images():
    ahead, level = answers(10, 0, 100), answers(0, 0, 100)
    ours, other = ({"a": a["a"], "b": b["a"]} for a, b in zip(ahead, level, strict=True))
    result = equivalence(ours, other, 1.0)
    assert result.difference == pytest.approx(5.0) and result.different
    error = 100 * math.sqrt(0.1 * 0.9 / 100) / 2  # the other task adds none
    assert result.low == pytest.approx(5 - 1.6448536 * error)


@pytest.mark.parametrize("right, equivalent", [(100, True), (99, False), (50, False)])
def test_equal_answers_are_equivalent_and_others_depend_on_the_margin(right, equivalent):
    ours, other = {"a": np.arange(100) < right}, {"a": np.ones(100, bool)}
    result = equivalence(ours, other, 0.5)
    assert result.equivalent == equivalent
    assert result.different == (right == 50)


def test_at_the_margin_it_errs_as_often_as_its_level_says():
    rng = np.random.default_rng(0)
    n, margin = 4000, 0.5  # ours is truly half a point ahead
    chances = [0.0075, 0.0025, 0.99]
    draws = rng.multinomial(n, chances, 4000)
    wrong = np.mean(
        [equivalence(*answers(up, down, n), margin).equivalent for up, down, _ in draws]
    )
    assert wrong == pytest.approx(0.05, abs=0.015)
    close = rng.multinomial(n, [0.0015, 0.0015, 0.997], 200)
    power = np.mean(
        [equivalence(*answers(up, down, n), margin).equivalent for up, down, _ in close]
    )
    assert power > 0.95
