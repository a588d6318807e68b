"""Two maps paired block by block: by hand."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from mloss_core.analysis.map_difference import paired

FIRST = {0: np.array([1.0, 2.0, 3.0, 4.0, 5.0]), 2: np.array([1.0, 1.0, 2.0, 3.0, 9.0])}
SECOND = {1: np.ones(5), 2: np.array([5.0, 4.0, 3.0, 2.0, 1.0])}


def test_only_blocks_that_both_know_are_paired():
    (pair,) = paired(FIRST, SECOND)
    assert (pair.block, pair.first, pair.second) == (2, pytest.approx(3.2), 3.0)
    assert pair.difference[0] == pytest.approx(0.2)
    assert all(map(math.isnan, pair.difference[1:])) and pair.higher == pytest.approx(2 / 5)
    assert -1 <= pair.order < -0.9
    assert paired(FIRST, {1: np.ones(5)}) == []


def test_the_interval_is_of_the_differences_by_image():
    a, b = np.array([0.3, 0.5, 0.2, 0.6]), np.array([0.1, 0.4, 0.2, 0.1])
    (pair,) = paired(FIRST, {0: FIRST[0] - 0.2}, ({0: a}, {0: b}))
    each = [x - y for x, y in zip(a, b, strict=True)]
    half = 3.182446305284263 * statistics.stdev(each) / 2  # Student's t, 3 degrees of freedom
    mean = statistics.fmean(each)
    assert pair.difference == pytest.approx((mean, mean - half, mean + half))
    assert pair.order == pytest.approx(1) and pair.higher == 1


def test_equal_nodes_have_no_order():
    (pair,) = paired({0: np.ones(6)}, {0: np.ones(6)})
    assert math.isnan(pair.order) and pair.difference[0] == 0 and pair.higher == 0
