"""What tells before merging, against the naive oracle, and what must hold whatever the numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from mloss_core import MergeRecipe, run, score_block
from mloss_core.analysis.compatibility.clustering import clusters
from mloss_core.analysis.compatibility.sets import (
    Compatibility,
    alphas_of,
    compatibility_sets,
    losses_of_sets,
    pairs,
)
from mloss_core.analysis.compatibility.sign_conflict import conflict, count_signs
from mloss_core.data.calibration import draw_batch
from mloss_core.errors import BadValue, UnknownName
from mloss_core.families import family as zoo
from mloss_core.intervals import with_interval
from mloss_core.mloss import MEASURES, SetLosses, block_losses

ACTS = ("relu", "gelu", "quick_gelu")
SETS = {"seed": st.integers(0, 2**32 - 1), "q": st.integers(2, 5), "nodes": st.integers(4, 9)}


def recipe_for(family, **changes):
    fields = {"sources": family.sources, "samples": 5, "keep": 0.4, "variation": 0.0} | changes
    return MergeRecipe(family=family.name, method="m-ties", **fields)


def drawn(seed, q, nodes, images=3, tokens=4, width=5):
    rng = np.random.default_rng(seed)
    inputs = torch.from_numpy(rng.normal(0, 1, (images, tokens, width))).float()
    layers = [
        (torch.from_numpy(w).float(), torch.from_numpy(b).float())
        for w, b in zip(
            rng.normal(0, 1, (q, nodes, width)), rng.normal(0, 1, (q, nodes)), strict=True
        )
    ]
    return inputs, layers


def pre_activations(inputs, layers):
    """(sources, images, tokens, nodes), in doubles."""
    return np.stack([inputs.double() @ w.double().T + b.double() for w, b in layers])


@pytest.mark.parametrize("act", ACTS)
@given(**SETS)
def test_sets_agree_with_the_oracle(act, seed, q, nodes):
    inputs, layers = drawn(seed, q, nodes)
    h = pre_activations(inputs, layers)
    sets = [s for n in range(2, q + 1) for s in itertools.combinations(range(q), n)]
    alphas = alphas_of(sets, np.random.default_rng(seed).dirichlet(np.ones(q)).tolist())
    losses = block_losses(inputs, layers, act, alphas).per_image
    for row, members in enumerate(sets):
        weights = [alphas[row, i] for i in members]
        for image in range(len(inputs)):
            expected = oracle.set_losses(h[:, image], act, members, weights)
            ours = losses[:, row, image]
            np.testing.assert_allclose(ours[:2], expected[:2], rtol=5e-5, atol=1e-6)
            # Where the merged activation is nearly nothing, Eq. 6 magnifies fp32's rounding.
            assert ours[2] == pytest.approx(expected[2], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("act", ACTS)
@given(**SETS)
def test_sets_agree_with_a_scored_block_of_the_same_sources(act, seed, q, nodes):
    inputs, layers = drawn(seed, q, nodes)
    alpha = [1 / q] * q
    losses = block_losses(inputs, layers, act, np.array([alpha])).per_image
    scores = score_block(0, inputs, layers, act, alpha)
    np.testing.assert_allclose(losses[0, 0], scores.per_image, rtol=2e-5, atol=1e-7)
    expected = [scores.node.mean(), scores.layer, scores.layer_normalised]
    ours = losses[:, 0].mean(1)
    np.testing.assert_allclose(ours[:2], expected[:2], rtol=2e-5, atol=1e-7)
    assert ours[2] == pytest.approx(expected[2], rel=1e-3)


@pytest.mark.parametrize("difference", [1e-3, 1e-5])
def test_close_sources_are_measured_as_doubles_would(difference):
    inputs, layers = drawn(0, 1, 64, images=8)
    w, b = layers[0]
    near = [(w, b), (w + difference * torch.randn(w.shape), b)]
    h = pre_activations(inputs, near)
    losses = block_losses(inputs, near, "gelu", np.array([[0.5, 0.5]])).per_image
    expected = [oracle.set_losses(h[:, i], "gelu", (0, 1), (0.5, 0.5)) for i in range(len(inputs))]
    # Products are rounded to fp32, which hardly moves the loss; its own arithmetic must not.
    np.testing.assert_allclose(losses[:, 0], np.array(expected).T, rtol=2e-2 * 1e-3 / difference)


@pytest.mark.parametrize("act", ACTS)
@given(seed=st.integers(0, 2**32 - 1), nodes=st.integers(1, 40))
def test_equal_sources_have_no_loss(act, seed, nodes):
    inputs, layers = drawn(seed, 1, nodes)
    losses = block_losses(inputs, layers * 3, act, asked_sets_of(3)).per_image
    assert np.abs(losses).max() < 1e-12


def asked_sets_of(q):
    return compatibility_sets(MergeRecipe(family="x", method="ties", sources=tuple("abcdefgh"[:q])))


def compatibility_of(per_image, q):
    blocks = tuple(SetLosses(block=i, per_image=p, seconds=0.0) for i, p in enumerate(per_image))
    return Compatibility(sources=tuple("abcdefgh"[:q]), blocks=blocks)


@given(seed=st.integers(0, 2**32 - 1), q=st.integers(2, 6))
def test_the_pair_matrix_is_symmetric_with_a_zero_diagonal(seed, q):
    sets = len(asked_sets_of(q))
    compatibility = compatibility_of(np.random.default_rng(seed).gamma(1, 1, (2, 3, sets, 4)), q)
    for measure, block in itertools.product(MEASURES, (None, 0, 1)):
        matrix = compatibility.pair_matrix(measure, block)
        assert (matrix == matrix.T).all() and (np.diag(matrix) == 0).all()
        off = matrix[~np.eye(q, dtype=bool)]
        expected = compatibility.per_image(measure, block)[-len(pairs(q)) :].mean(1)
        assert sorted(off) == pytest.approx(sorted([*expected, *expected]))


@pytest.fixture(scope="module")
def measured(models):
    """The tiny family's answers, with unequal weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOSS_MODELS", str(models))
        family = zoo.load("tiny")
        recipe = recipe_for(family, weights=(0.5, 0.3, 0.2))
        blocks = tuple(losses_of_sets(recipe, family, compatibility_sets(recipe), device="cpu"))
    return family, recipe, Compatibility(sources=recipe.sources, blocks=blocks)


def states(family, sources):
    read = lambda c: {n: t.numpy() for n, t in c.load(torch.device("cpu")).items()}  # noqa: E731
    return read(family.base()), [read(family.source(s)) for s in sources]


def test_a_familys_pairs_and_left_out_sources_agree_with_the_oracle(measured):
    family, recipe, compatibility = measured
    model = family.model
    images = draw_batch(family.calibration_pool, recipe.sources, recipe.samples, recipe.seed).images
    pixels = (images.transpose(0, 3, 1, 2) / 255 - np.reshape(model.mean, (3, 1, 1))) / np.reshape(
        model.std, (3, 1, 1)
    )
    base, sources = states(family, recipe.sources)
    all_h = oracle.pretrained_pre_activations(base, sources, pixels, model.heads, model.activation)
    for block, h in enumerate(all_h):
        h = h.reshape(len(sources), -1, h.shape[-1])
        of = lambda members, a, h=h: oracle.set_losses(h, model.activation, members, a)  # noqa: E731
        whole = of((0, 1, 2), recipe.weights)
        for place, measure in enumerate(MEASURES):
            assert compatibility.whole(measure, block)[0] == pytest.approx(whole[place], rel=1e-4)
            matrix = compatibility.pair_matrix(measure, block)
            for i, j in pairs(3):
                assert matrix[i, j] == pytest.approx(of((i, j), (0.5, 0.5))[place], rel=1e-4)
            for i in range(3):
                rest = [j for j in range(3) if j != i]
                given = [recipe.weights[j] / sum(recipe.weights[k] for k in rest) for j in rest]
                gain = (whole[place] - of(rest, given)[place]) / whole[place]
                assert compatibility.gains(measure, block)[0, i] == pytest.approx(gain, abs=2e-4)


def test_totals_are_sums_of_layers_and_means_of_nodes(measured):
    *_, compatibility = measured
    by_block = {m: [compatibility.whole(m, b)[0] for b in range(3)] for m in MEASURES}
    assert compatibility.whole("node")[0] == pytest.approx(np.mean(by_block["node"]))
    for measure in ("layer", "normalised"):
        assert compatibility.whole(measure)[0] == pytest.approx(sum(by_block[measure]))


def test_the_first_block_of_a_merge_that_changes_nothing_sees_the_same_inputs(family):
    """With lambda 0 the partly merged model is the base: `run` and this measure the same."""
    recipe = recipe_for(family, scaling=0.0)
    blocks = tuple(losses_of_sets(recipe, family, compatibility_sets(recipe), device="cpu"))
    compatibility = Compatibility(sources=recipe.sources, blocks=blocks)
    scored = [e.scores for e in run(recipe, family, device="cpu") if hasattr(e, "scores")]
    for scores in scored:
        whole = [compatibility.whole(m, scores.block)[0] for m in MEASURES]
        expected = [scores.node.mean(), scores.layer, scores.layer_normalised]
        assert whole == pytest.approx(expected, rel=1e-4)


def test_some_tokens_are_those_of_a_scored_block(family):
    recipe = recipe_for(family, scaling=0.0, tokens=2)
    (first, *_) = losses_of_sets(recipe, family, compatibility_sets(recipe), device="cpu")
    scored = next(e.scores for e in run(recipe, family, device="cpu") if hasattr(e, "scores"))
    assert first.of("layer")[0].mean() == pytest.approx(scored.layer, rel=1e-4)


def test_two_sources_leave_nothing_out(family):
    recipe = recipe_for(family, sources=family.sources[:2])
    blocks = tuple(losses_of_sets(recipe, family, compatibility_sets(recipe), device="cpu"))
    compatibility = Compatibility(sources=recipe.sources, blocks=blocks)
    assert compatibility.gains("layer") is None
    assert compatibility.pair_matrix("layer")[0, 1] == pytest.approx(
        compatibility.whole("layer")[0]
    )


def test_weights_of_zero_become_equal_ones():
    rows = alphas_of([(0, 1), (1, 2), (0, 2)], (0.0, 0.0, 1.0))
    assert rows.tolist() == [[0.5, 0.5, 0], [0, 0, 1], [0, 0, 1]]


def test_bad_recipes_are_refused_before_any_work(family):
    with pytest.raises(UnknownName, match="dogs"):
        next(losses_of_sets(recipe_for(family, sources=("apples", "dogs")), family, np.eye(2)))
    with pytest.raises(BadValue, match="99"):
        next(losses_of_sets(recipe_for(family, samples=99), family, np.eye(3)))
    with pytest.raises(UnknownName, match="dogs"):
        next(count_signs(recipe_for(family, sources=("apples", "dogs")), family))


@pytest.mark.parametrize("keep", [0.05, 0.4, 1.0])
def test_sign_conflicts_agree_with_the_oracle(family, keep):
    base, sources = states(family, family.sources)
    vectors = [{n: oracle.task_vector(base[n], s[n]) for n in base} for s in sources]
    counted = list(count_signs(recipe_for(family, keep=keep), family, device="cpu"))
    assert [c.block for c in counted] == [None, 0, 1, 2]
    plain, weighted = conflict(counted), conflict(counted, weighted=True)
    for i, j in pairs(3):
        counts = np.sum(
            [oracle.sign_conflict(vectors[i][n], vectors[j][n], keep) for n in base], axis=0
        )
        assert plain[i, j] == plain[j, i] == pytest.approx(counts[1] / counts[0], rel=1e-9)
        assert weighted[i, j] == pytest.approx(counts[3] / counts[2], rel=1e-4)
    assert (np.diag(plain) == 0).all() and conflict([]) is None


def test_clusters_stand_side_by_side():
    distances = np.array([[0, 9, 1, 9], [9, 0, 9, 2], [1, 9, 0, 9], [9, 2, 9, 0]], float)
    clustering = clusters(distances)
    assert {frozenset(clustering.order[:2]), frozenset(clustering.order[2:])} == {
        frozenset({0, 2}), frozenset({1, 3})
    }  # fmt: skip
    assert sorted(clustering.heights.max(1)) == [1, 2, 9] and clustering.across.min() == 0
    assert clusters(np.array([[0, 1.0], [1.0, 0]])).order in {(0, 1), (1, 0)}


def test_intervals_of_one_image_are_not_known():
    mean, low, high = with_interval(np.array([[2.0]]))
    assert mean[0] == 2 and np.isnan([low[0], high[0]]).all()
    mean, low, high = with_interval(np.array([1.0, 3.0]))
    assert (mean, high - mean) == (2, pytest.approx(12.7062, abs=1e-3)) and low == 4 - high
