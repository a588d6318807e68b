"""Alignment of task vectors: plain NumPy, closed forms, and what holds whatever the numbers."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from mloss_core import Finished, MergeRecipe, load, run
from mloss_core.analysis.alignment import align, alignment
from mloss_core.errors import BadValue, UnknownName
from mloss_core.methods.matrices import LAYERS, Deltas
from mloss_core.trim import TaskVectors

EXACT = {"rtol": 2e-4, "atol": 2e-5}


def states(family):
    read = lambda c: {n: t.numpy() for n, t in c.load(torch.device("cpu")).items()}  # noqa: E731
    return read(family.base()), [read(family.source(s)) for s in family.sources]


def merged(family, method):
    recipe = MergeRecipe(family="tiny", method=method, sources=family.sources, keep=0.4)
    last = list(run(recipe, family, device="cpu"))[-1]
    assert isinstance(last, Finished)
    return last.weights


def of(matrices, merge=None):
    """`align` of task vectors that are given as they are."""
    stored = [torch.as_tensor(np.array(m), dtype=torch.float32) for m in matrices]
    vectors = TaskVectors(torch.zeros_like(stored[0]), stored)
    deltas = Deltas(vectors, [1.0] * len(stored), slice(0, len(stored[0])))
    after = None if merge is None else torch.as_tensor(np.array(merge), dtype=torch.float32)
    return align("mlp.c_fc.weight", deltas, after)


# --- a naive second opinion ---------------------------------------------------------------------


def overlap(deltas, side, rank):
    """Mean over pairs of the squared cosines between leading singular vectors, one by one."""
    leading = []
    for delta in deltas:
        u, _, v = np.linalg.svd(delta, full_matrices=False)
        leading.append(u.T[:rank] if side == "left" else v[:rank])
    shares = []
    for i in range(len(deltas)):
        for j in range(i + 1, len(deltas)):
            shares.append(sum((a @ b) ** 2 for a in leading[i] for b in leading[j]) / rank)
    return np.mean(shares)


def counted(deltas, merge, rank):
    """SVC's s_ir of each source, averaged with ||u_r^T D_i||^2 as weights."""
    u, _, _ = np.linalg.svd(sum(deltas), full_matrices=False)
    counts = []
    for r in range(rank):
        shares, sizes = [], []
        for delta in deltas:
            projected = u[:, r] @ delta
            sizes.append(projected @ projected)
            shares.append((u[:, r] @ merge) @ projected / sizes[-1])
        counts.append(np.average(shares, weights=sizes))
    return counts


@pytest.mark.parametrize("method", ["ties", "simple-average"])
def test_a_family_agrees_with_the_oracle(family, method):
    base, sources = states(family)
    weights = merged(family, method)
    blocks = list(alignment(family, family.sources, weights, 0.4, device="cpu"))
    assert [b.block for b in blocks] == [0, 1, 2]
    for block in blocks:
        assert tuple(m.name for m in block.matrices) == LAYERS
        for got in block.matrices:
            name = f"{oracle.BLOCKS}{block.block}.{got.name}"
            deltas = [oracle.task_vector(base[name], s[name]) for s in sources]
            merge = oracle.task_vector(base[name], weights[name].numpy())
            rank = min(merge.shape) // 3
            np.testing.assert_allclose(got.left, overlap(deltas, "left", rank), **EXACT)
            np.testing.assert_allclose(got.right, overlap(deltas, "right", rank), **EXACT)
            assert got.left_by_chance == pytest.approx(rank / len(merge))
            assert got.right_by_chance == pytest.approx(rank / merge.shape[1])
            np.testing.assert_allclose(got.in_sum, counted(deltas, sum(deltas), rank), **EXACT)
            np.testing.assert_allclose(got.in_merge, counted(deltas, merge, rank), **EXACT)
            kept = [(merge * d).sum() / (d * d).sum() for d in deltas]
            np.testing.assert_allclose(got.kept, kept, **EXACT)
            np.testing.assert_allclose(got.singular, np.linalg.svd(merge)[1], **EXACT)


@pytest.mark.parametrize("keep", [0.1, 1.0])
def test_sign_conflicts_agree_with_the_oracle(family, keep):
    base, sources = states(family)
    for got in alignment(family, family.sources, None, keep, device="cpu"):
        names = [n for n in base if n.startswith(f"{oracle.BLOCKS}{got.block}.")]
        both = opposed = 0
        for name in names:
            vectors = [oracle.task_vector(base[name], s[name]) for s in sources]
            for i, j in ((0, 1), (0, 2), (1, 2)):
                counts = oracle.sign_conflict(vectors[i], vectors[j], keep)
                both, opposed = both + counts[0], opposed + counts[1]
        assert got.conflict == pytest.approx(opposed / both, rel=1e-9)


# --- closed forms -------------------------------------------------------------------------------


def test_identical_sources(own_family):
    folder = own_family / "sources"
    for name in ("bridges", "clouds"):
        shutil.copy(folder / "apples.safetensors", folder / f"{name}.safetensors")
    family = load("tiny")
    weights = merged(family, "simple-average")
    for block in alignment(family, family.sources, weights, 0.3, device="cpu"):
        assert block.conflict == 0
        for matrix in block.matrices:
            assert matrix.left == pytest.approx(1) and matrix.right == pytest.approx(1)
            np.testing.assert_allclose(matrix.kept, 1, rtol=1e-4)  # a plain average has all of each
            np.testing.assert_allclose(
                matrix.in_sum, 3, rtol=1e-4
            )  # and the sum has it three times
            np.testing.assert_allclose(matrix.in_merge, 1, rtol=1e-4)


def test_orthogonal_sources():
    """Two sources in different rows and columns: nothing overlaps, nothing counts twice."""
    a, b = np.zeros((2, 12, 8))
    rng = np.random.default_rng(1)
    a[:6, :4], b[6:, 4:] = rng.normal(size=(6, 4)), rng.normal(size=(6, 4))
    got = of([a, b], (a + b) / 2)
    assert got.left == pytest.approx(0, abs=1e-9) and got.right == pytest.approx(0, abs=1e-9)
    assert got.left_by_chance == pytest.approx(4 / 12)
    assert got.right_by_chance == pytest.approx(4 / 8)
    np.testing.assert_allclose(got.kept, 0.5, rtol=1e-5)
    np.testing.assert_allclose(got.in_sum, 1, rtol=1e-5)
    np.testing.assert_allclose(got.in_merge, 0.5, rtol=1e-5)
    np.testing.assert_allclose(of([a, b], a).kept, [1, 0], atol=1e-6)


def test_opposite_sources_cancel():
    a = np.random.default_rng(2).normal(size=(6, 9))
    got = of([a, -a], a)
    assert got.left == pytest.approx(1) and got.right == pytest.approx(1)
    np.testing.assert_allclose(got.kept, [1, -1], rtol=1e-5)
    assert np.isnan(got.in_sum).all() and np.isnan(got.in_merge).all()  # the sum has no direction


def test_random_subspaces_overlap_by_chance():
    rng = np.random.default_rng(3)
    got = of(rng.normal(size=(4, 60, 80)))
    assert got.left == pytest.approx(got.left_by_chance, abs=0.04)
    assert got.right == pytest.approx(got.right_by_chance, abs=0.04)


def test_a_change_of_low_rank_counts_with_its_own_directions():
    """As after LoRA: directions beyond a change's rank would be made of rounding."""
    rng = np.random.default_rng(4)
    u, v = rng.normal(size=(12, 2)), rng.normal(size=(2, 10))
    got = of([u @ v, u @ np.diag([2.0, 3.0]) @ v])  # r is 5
    assert got.left == pytest.approx(1, abs=1e-5) and got.right == pytest.approx(1, abs=1e-5)
    assert got.left_by_chance == pytest.approx(2 / 12)
    assert np.isfinite(got.in_sum).tolist() == [True, True, False, False, False]


# --- what must hold whatever the numbers ---------------------------------------------------------


@given(st.integers(0, 2**20), st.integers(2, 5), st.integers(2, 9), st.integers(2, 9))
def test_shares_stay_in_their_bounds(seed, q, rows, columns):
    deltas = np.random.default_rng(seed).normal(size=(q, rows, columns))
    got = of(deltas, deltas.mean(0))
    assert 0 <= got.left <= 1 and 0 <= got.right <= 1
    assert len(got.in_sum) == max(1, min(rows, columns) // q)
    assert got.in_sum.min() >= 0 and got.in_sum.max() <= q * (1 + 1e-5)
    np.testing.assert_allclose(got.in_merge, got.in_sum / q, rtol=1e-4)
    # What the average has of all sources is its own norm.
    energy = (deltas**2).sum((1, 2))
    total = q * (deltas.mean(0) ** 2).sum()
    np.testing.assert_allclose((got.kept * energy).sum(), total, rtol=1e-3, atol=1e-5)


@given(st.integers(0, 2**20))
def test_rotations_and_sizes_change_no_overlap(seed):
    rng = np.random.default_rng(seed)
    deltas = rng.normal(size=(3, 9, 12))
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (9, 12))
    sizes = rng.uniform(0.1, 10, 3)[:, None, None]
    plain, other = of(deltas), of(sizes * (left @ deltas @ right))
    assert plain.left == pytest.approx(other.left, abs=1e-4)
    assert plain.right == pytest.approx(other.right, abs=1e-4)


# --- hostile input ------------------------------------------------------------------------------


def test_a_source_that_equals_the_base_is_unknown(own_family):
    shutil.copy(own_family / "base.safetensors", own_family / "sources/clouds.safetensors")
    family = load("tiny")
    weights = merged(family, "simple-average")
    with_it = list(alignment(family, family.sources, weights, device="cpu"))
    without = list(alignment(family, ("apples", "clouds"), device="cpu"))
    pair = list(alignment(family, ("apples", "bridges"), device="cpu"))
    for block, alone, two in zip(with_it, without, pair, strict=True):
        assert math.isnan(alone.conflict)
        assert block.conflict == pytest.approx(two.conflict)
        for matrix, unknown in zip(block.matrices, alone.matrices, strict=True):
            assert math.isnan(matrix.kept[2]) and np.isfinite(matrix.kept[:2]).all()
            assert math.isfinite(matrix.left) and np.isfinite(matrix.in_sum).all()
            shares = (unknown.left, unknown.right, unknown.left_by_chance, unknown.right_by_chance)
            assert all(map(math.isnan, shares))
            np.testing.assert_allclose(unknown.in_sum, 1, rtol=1e-4)  # one source, counted once
            assert unknown.in_merge is unknown.kept is unknown.singular is None


def test_sources_that_all_equal_the_base():
    got = of(np.zeros((2, 4, 5)), np.zeros((4, 5)))
    assert math.isnan(got.left) and math.isnan(got.right)
    assert np.isnan(got.in_sum).all() and np.isnan(got.in_merge).all() and np.isnan(got.kept).all()
    assert (got.singular == 0).all()


def test_more_sources_than_directions():
    got = of(np.random.default_rng(5).normal(size=(6, 3, 4)))
    assert len(got.in_sum) == 1 and got.left_by_chance == pytest.approx(1 / 3)


def test_wrong_sources_are_refused(family):
    with pytest.raises(UnknownName, match="dogs"):
        next(alignment(family, ("apples", "dogs")))
    with pytest.raises(BadValue, match="too few"):
        next(alignment(family, ("apples",)))
    with pytest.raises(BadValue, match="keep"):
        next(alignment(family, family.sources, None, 0.0))


@pytest.mark.gpu
def test_a_gpu_gives_the_same(family):
    weights = merged(family, "ties")
    both = (alignment(family, family.sources, weights, device=d) for d in ("cpu", "cuda"))
    for cpu, gpu in zip(*both, strict=True):
        assert cpu.conflict == pytest.approx(gpu.conflict)
        for a, b in zip(cpu.matrices, gpu.matrices, strict=True):
            np.testing.assert_allclose([a.left, a.right], [b.left, b.right], rtol=1e-3)
            np.testing.assert_allclose(a.in_sum, b.in_sum, rtol=1e-3)
            np.testing.assert_allclose(a.in_merge, b.in_merge, rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(a.kept, b.kept, rtol=1e-3)
            np.testing.assert_allclose(a.singular, b.singular, rtol=1e-3)
