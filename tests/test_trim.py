"""Trim, elect and merge against the oracle, on random and on awkward arrays."""

from __future__ import annotations

import math
from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import oracle
from mloss_core import MergeRecipe, keep_rates, trim
from mloss_core import trim as global_trim
from mloss_core.methods import emr, rules

# Few values, so that equal magnitudes, zeros of both signs and cancelling votes are common. All
# are short binary fractions: sums of them in doubles are exact, in whatever order.
AWKWARD = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 3.0, 2.0**-20, -(2.0**20)])
PLAIN = st.integers(-(10**6), 10**6).map(lambda n: n / 1024)


def arrays(least: int = 1):
    """Float32 matrices of at least so many rows, awkward or plain."""
    shapes = st.tuples(st.integers(least, 6), st.integers(1, 9))
    return st.one_of(*(npst.arrays(np.float32, shapes, elements=e) for e in (AWKWARD, PLAIN)))


def trimmed(matrix, rates):
    """A trimmed copy, row r at rate rates[r]."""
    counts = trim.kept_counts(np.asarray(rates), matrix.shape[1])
    rows = torch.tensor(matrix)
    return trim.trim_(rows, trim.thresholds_(rows.abs(), counts)).numpy()


def elected(vectors, alpha, piece):
    """Election and disjoint mean of these task vectors of a base of zeros, in such pieces."""
    whole = trim.TaskVectors(torch.zeros(vectors.shape[1:]), list(torch.tensor(vectors)))
    with mock.patch.object(trim, "PIECE", piece):
        return whole.merged(lambda t, rows: trim.elect_and_merge_(t, alpha)).numpy()


@given(matrix=arrays(), data=st.data())
def test_rows_are_trimmed_as_the_oracle_trims_them(matrix, data):
    rates = data.draw(npst.arrays(float, len(matrix), elements=st.floats(1e-3, 1)))
    np.testing.assert_array_equal(trimmed(matrix, rates), oracle.trim_rows(matrix, rates))


@given(matrix=arrays(), keep=st.floats(1e-3, 1))
def test_a_whole_tensor_is_one_long_row(matrix, keep):
    row = matrix.reshape(1, -1)
    ours = trimmed(row, [keep]).reshape(matrix.shape)
    np.testing.assert_array_equal(ours, oracle.trim_tensor(matrix, keep))


@given(matrix=arrays(), data=st.data())
def test_the_threshold_is_the_magnitude_at_the_count(matrix, data):
    counts = data.draw(npst.arrays(np.int64, len(matrix), elements=st.integers(1, matrix.shape[1])))
    ours = trim.thresholds_(torch.tensor(matrix).abs(), counts)
    descending = -np.sort(-np.abs(matrix), axis=1)
    np.testing.assert_array_equal(ours, descending[np.arange(len(matrix)), counts - 1])


@given(
    values=npst.arrays(np.float32, st.integers(1, 300), elements=st.one_of(AWKWARD, PLAIN)),
    data=st.data(),
)
def test_a_sample_finds_the_same_threshold(values, data):
    """Rows as short as four, so that the sample is small and often misleads."""
    count = np.array([data.draw(st.integers(1, len(values)))])
    with mock.patch.object(trim, "LONG", 4):
        ours = trim.thresholds_(torch.tensor(values).abs()[None], count)
    assert ours.tolist() == [-np.sort(-np.abs(values))[count[0] - 1]]


@pytest.mark.parametrize("kind", ["normal", "halves", "misleading", "constant", "sorted"])
@pytest.mark.parametrize("share", [0.0, 1e-4, 0.2, 0.5, 0.97, 1.0])
def test_a_long_rows_threshold_is_exact(kind, share):
    draw = np.random.default_rng(1)
    values = np.abs(draw.normal(size=200_000)).astype(np.float32)
    if kind == "halves":  # as differences of fp16 are: a few thousand values in all
        values = values.astype(np.float16).astype(np.float32)
    elif kind == "misleading":  # whatever the sample meets is large
        values[:: int(len(values) ** (1 / 3)) | 1] += 10
    elif kind == "constant":
        values[:] = 0.25
    elif kind == "sorted":
        values.sort()
    count = max(1, int(share * len(values)))
    ours = trim.thresholds_(torch.from_numpy(values)[None].clone(), np.array([count]))
    assert ours.tolist() == [-np.sort(-values)[count - 1]]


@pytest.mark.parametrize(
    "rate, length, kept",
    [
        (0.2, 10, 2), (0.29, 10, 2), (1e-9, 10, 1), (1.0, 10, 10), (0.5, 1, 1), (0.29, 100, 29),
        (0.57, 100, 57), (0.289999, 100, 28), (0.999999, 1_000_000, 999_999),
    ],
)  # fmt: skip
def test_the_share_kept_is_rounded_down_but_never_to_nothing(rate, length, kept):
    assert trim.kept_counts(np.array([rate]), length).tolist() == [kept]


@settings(max_examples=1000)
@given(st.integers(1, 10**6), st.integers(1, 10**8))
def test_counts_are_exact_for_rates_of_six_decimals(millionths, length):
    exact = Fraction(millionths, 10**6) * length
    expected = min(max(math.floor(exact), 1), length)
    assert trim.kept_counts(np.array([millionths / 10**6]), length).tolist() == [expected]


def test_counts_are_exact_where_products_are_whole_numbers():
    """Doubles of decimals fall short of them in one of 50: exhaustively for three decimals."""
    for length in (100, 1000, 3072, 768, 4096, 99_999_000):
        rates = np.arange(1, 1001) / 1000
        expected = [max(1, k * length // 1000) for k in range(1, 1001)]
        assert trim.kept_counts(rates, length).tolist() == expected


@given(st.integers(1, 100), st.integers(0, 100), st.integers(2, 4096), st.sampled_from([64, 768]))
def test_counts_of_a_schedule_are_exact(keep, share, nodes, length):
    """k - e rank / (nodes - 1) in fractions, with k and e in percent."""
    k, e = Fraction(keep, 100), Fraction(min(share, keep), 100)
    exact = [(k - e * Fraction(rank, nodes - 1)) * length for rank in range(nodes)]
    rates = keep_rates(np.arange(float(nodes)), float(k), float(e))
    expected = [min(max(math.floor(x), 1), length) for x in exact]
    assert trim.kept_counts(rates, length).tolist() == expected


def test_equal_magnitudes_at_the_threshold_are_all_kept():
    assert trimmed(np.array([[1, -1, 1, 0.5]], np.float32), [0.25]).tolist() == [[1, -1, 1, 0]]


@pytest.mark.parametrize("piece", [1, 3, trim.PIECE])
@given(vectors=arrays(least=2))
def test_equal_weights_elect_and_merge_as_the_oracle(vectors, piece):
    alpha = torch.full((len(vectors),), 1 / len(vectors))
    ours = elected(vectors, alpha, piece)
    np.testing.assert_allclose(ours, oracle.elect_and_merge(list(vectors)), rtol=1e-5)


@pytest.mark.parametrize("piece", [1, 7, trim.PIECE])
@given(seed=st.integers(0, 2**32 - 1), q=st.integers(2, 5))
def test_unequal_weights_elect_and_merge_as_the_oracle(seed, q, piece):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(0, 1, (q, 4, 5)).astype(np.float32)
    vectors[rng.random(vectors.shape) < 0.4] = 0
    weights = rng.dirichlet(np.ones(q))
    ours = elected(vectors, torch.tensor(weights).float(), piece)
    reference = oracle.elect_and_merge(list(vectors), weights.tolist())
    np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-6)


def test_a_vote_of_exactly_zero_elects_plus():
    vectors = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert trim.elect_and_merge_(vectors, torch.tensor([0.5, 0.5])).tolist() == [1.0, 0.0]


def test_a_source_of_no_weight_has_no_say():
    vectors = torch.tensor([[1.0], [-9.0]])
    assert trim.elect_and_merge_(vectors, torch.tensor([1.0, 0.0])).tolist() == [1.0]


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_random_masks_keep_about_their_share(keep):
    mask = trim.random_masks((100, 100), ("s", "t"), keep, 42, "a.weight")
    assert mask.shape == (2, 100, 100)
    assert abs(mask.double().mean() - keep) < 5 * (keep * (1 - keep) / mask.numel()) ** 0.5


def test_random_masks_depend_on_seed_tensor_and_source_alone():
    both = ("s", "t")
    mask = trim.random_masks((50,), both, 0.5, 42, "a")
    assert torch.equal(mask, trim.random_masks((50,), both, 0.5, 42, "a"))
    assert torch.equal(mask.flip(0), trim.random_masks((50,), both[::-1], 0.5, 42, "a"))
    assert torch.equal(mask[1:], trim.random_masks((50,), both[1:], 0.5, 42, "a"))
    assert not torch.equal(mask, trim.random_masks((50,), both, 0.5, 43, "a"))
    assert not torch.equal(mask, trim.random_masks((50,), both, 0.5, 42, "b"))
    assert not torch.equal(mask[0], mask[1])
    joined = trim.random_masks((50,), ("bs",), 0.5, 42, "a")
    assert not torch.equal(joined, trim.random_masks((50,), ("s",), 0.5, 42, "ab"))
    assert trim.random_masks((50,), both, 1.0, 42, "a").all()


def test_dare_drops_at_random_rescales_and_elects():
    recipe = MergeRecipe(family="f", method="dare", sources=("a", "b"), keep=0.25, scaling=2.0)
    vectors = np.random.default_rng(0).normal(0, 1, (2, 6, 5)).astype(np.float32)
    whole = trim.TaskVectors(torch.zeros(6, 5), list(torch.tensor(vectors)))
    ours = rules.dare(whole, torch.tensor([0.5, 0.5]), recipe, "w")
    masks = trim.random_masks((6, 5), recipe.sources, 0.25, recipe.seed, "w").numpy()
    reference = 2 * oracle.elect_and_merge(
        [v * m / 0.25 for v, m in zip(vectors, masks, strict=True)]
    )
    np.testing.assert_allclose(ours, reference, rtol=1e-5)


@given(matrix=arrays(), millionths=st.integers(1000, 10**6), cut=st.integers(1, 8))
def test_a_global_threshold_is_that_of_one_long_row_however_it_is_cut(matrix, millionths, cut):
    keep = millionths / 10**6
    row = torch.tensor(matrix).flatten()
    parts = {str(i): part for i, part in enumerate(row.split(cut))}
    base = {name: torch.zeros_like(part) for name, part in parts.items()}
    least = global_trim.global_threshold(base, lambda names: {n: parts[n] for n in names}, keep)
    expected = np.sort(np.abs(matrix), axis=None)[::-1]
    assert least == expected[max(1, millionths * matrix.size // 10**6) - 1]
    whole = trim.TaskVectors(torch.zeros(matrix.shape), [torch.tensor(matrix)])
    assert least == whole.limits(keep)[0, 0], "one tensor: global is per tensor"
    limited = trim.TaskVectors(torch.zeros(matrix.shape), [torch.tensor(matrix)], [least])
    counts = torch.zeros(len(matrix), dtype=torch.int64)
    kept = trim.trim_(torch.tensor(matrix)[None], limited.limits(keep), counts)[0]
    np.testing.assert_array_equal(kept, oracle.trim_tensor(matrix, keep))
    expected = np.sum(np.abs(matrix) >= least, axis=1).tolist()
    assert counts.tolist() == expected, "equal magnitudes are kept and counted"


@given(vectors=arrays(least=2))
def test_unified_vectors_have_the_elected_sign_and_the_largest_agreeing_magnitude(vectors):
    base = {"w": np.zeros(vectors.shape[1:], np.float32)}
    alpha = torch.full((len(vectors),), 1 / len(vectors))
    ours = emr.unified_(torch.tensor(vectors), alpha).numpy()
    models = oracle.emr(base, [{"w": v} for v in vectors])
    for vector, model in zip(vectors, models, strict=True):
        masked = np.where(np.sign(vector) * np.sign(ours) > 0, ours, 0.0)
        total = np.abs(masked, dtype=float).sum()
        scale = np.abs(vector, dtype=float).sum() / total if total else 0.0
        np.testing.assert_allclose(scale * masked.astype(float), model["w"], rtol=1e-6)


@given(vector=arrays())
def test_sources_that_are_equal_are_their_own_unified_vector(vector):
    twice = torch.tensor(np.stack([vector, vector]))
    np.testing.assert_array_equal(emr.unified_(twice, torch.tensor([0.5, 0.5])), vector)
