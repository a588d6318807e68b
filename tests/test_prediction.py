"""Whether M-Loss predicts: drops counted naively, correlations against scipy, files, words."""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from test_compatibility import states

import oracle
from mloss_core import Evaluator, Finished, MergeRecipe, TaskEvaluated, geometry, list_runs, run
from mloss_core.analysis.compatibility import words
from mloss_core.analysis.compatibility.ensemble_gap import GapMeasured, ensemble_gap, gap_difference
from mloss_core.analysis.compatibility.prediction import (
    DropMeasured,
    Study,
    gathered,
    sets_of,
    study,
)
from mloss_core.analysis.compatibility.sets import alphas_of, losses_of_sets
from mloss_core.errors import BadValue
from mloss_core.evaluation.rank_correlation import (
    Correlation,
    correlated,
    draws_of_models,
    interval,
    weighted_spearman,
)
from mloss_core.run import cell
from mloss_core.types import Planned
from mloss_core.vit import Tower

CPU = torch.device("cpu")


def measured(recipe, evaluator, tasks):
    """The events of an experiment's cell."""
    family = evaluator.family
    return run(recipe, family, stages=cell(), evaluator=evaluator, tasks=tasks)


def recipe_for(family, method="ties", **changes):
    fields = {"sources": family.sources, "samples": 6, "keep": 0.4, "variation": 0.1} | changes
    return MergeRecipe(family=family.name, method=method, **fields)


def hits_of(events):
    return {e.task: e.hits for e in events if isinstance(e, TaskEvaluated) and e.model == "merged"}


@pytest.mark.parametrize("method", ["ties", "m-ties", "simple-average"])
def test_measured_is_what_run_ends_with(family, method):
    recipe, tasks = recipe_for(family, method), family.tasks[:2]
    events = list(measured(recipe, Evaluator(family, CPU), tasks))
    whole = list(run(recipe, family, device="cpu", evaluator=Evaluator(family, CPU), tasks=tasks))
    ours, reference = hits_of(events), hits_of(e for e in whole if getattr(e, "block", 0) is None)
    assert ours.keys() == reference.keys() == set(tasks)
    assert all((ours[t] == reference[t]).all() and len(ours[t]) == 12 for t in tasks)
    last = events[-1]
    assert isinstance(last, Finished) and last.weights.keys() == whole[-1].weights.keys()
    assert last.metadata == whole[-1].metadata
    assert all(e.block is None for e in events if isinstance(e, TaskEvaluated))


def test_drops_are_own_minus_merged_accuracy_and_are_kept(family, runs):
    recipe = recipe_for(family)
    events = list(study(recipe, Evaluator(family, CPU), triples=5))
    drops = [e for e in events if isinstance(e, DropMeasured)]
    assert [e.members for e in drops] == [(0, 1), (0, 2), (1, 2), (0, 1, 2)]
    assert not any(e.cached for e in drops)
    evaluator = Evaluator(family, CPU)
    for event in drops:
        names = tuple(family.sources[i] for i in event.members)
        merged = hits_of(measured(dataclasses.replace(recipe, sources=names), evaluator, names))
        own = {n: evaluator.judged("own", n, evaluator.of_file(n, n), 0.0).hits for n in names}
        expected = np.mean([own[n].mean() - merged[n].mean() for n in names])
        assert event.drop[0] == pytest.approx(expected)
        rng = np.random.default_rng(1)  # resampled image by image, as one would do it by hand
        gaps = [own[n].astype(float) - merged[n] for n in names]
        draws = [np.mean([rng.choice(g, len(g)).mean() for g in gaps]) for _ in range(2000)]
        assert event.drop[1:] == pytest.approx(np.quantile(draws, (0.025, 0.975)), abs=0.06)
    kept = list_runs(kinds=("cell",))
    assert len(kept) == 4 and {run.state for run in kept} == {"finished"}
    again = [e for e in study(recipe, Evaluator(family, CPU), 5) if isinstance(e, DropMeasured)]
    assert all(e.cached for e in again) and [e.drop for e in again] == [e.drop for e in drops]
    other = [
        e for e in study(recipe_for(family, keep=0.5), Evaluator(family, CPU), 0)
        if isinstance(e, DropMeasured)
    ]  # fmt: skip
    assert not any(e.cached for e in other), "another recipe is another cell"
    (kept[0].folder / "record.json").write_text("{torn")
    third = [e for e in study(recipe, Evaluator(family, CPU), 5) if isinstance(e, DropMeasured)]
    assert [e.cached for e in third].count(False) == 1, "a damaged file is measured again"
    assert len(list_runs(kinds=("cell",))) == 7


def test_predictors_are_what_their_definitions_say(family):
    recipe = recipe_for(family)
    events = list(study(recipe, Evaluator(family, CPU), triples=1))
    moved = geometry(family, family.sources)
    result = gathered(recipe, 1, moved, events)
    base, sources = states(family, family.sources)
    vectors = [
        np.concatenate([oracle.task_vector(base[n], s[n]).ravel() for n in base]) for s in sources
    ]
    size = np.linalg.norm(np.concatenate([np.asarray(base[n], float).ravel() for n in base]))
    alphas = alphas_of(result.sets, [1.0] * 3)
    images = dataclasses.replace(recipe, method="m-ties")
    losses = list(losses_of_sets(images, family, alphas, device="cpu"))
    for i, members in enumerate(result.sets):
        both = list(itertools.combinations([vectors[m] for m in members], 2))
        apart = np.mean([np.linalg.norm(a - b) for a, b in both]) / size
        cosine = np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in both])
        norm = np.mean([np.linalg.norm(vectors[m]) for m in members]) / size
        expected = {"distance": apart, "cosine": cosine, "norm": norm}
        expected["layer"] = sum(b.of("layer")[i].mean() for b in losses)
        for name, value in expected.items():
            assert result.predictors[name][i] == pytest.approx(value, rel=1e-4), name
    assert (result.expected("cosine") == -result.predictors["cosine"]).all()


def test_an_unfinished_study_holds_the_sets_that_are_measured(family):
    recipe, moved = recipe_for(family), geometry(family, family.sources)
    events = list(study(recipe, Evaluator(family, CPU), triples=0))
    second = [i for i, e in enumerate(events) if isinstance(e, DropMeasured)][1]
    assert gathered(recipe, 0, moved, events[: second + 1]).sets == ((0, 1), (0, 2))
    assert gathered(recipe, 0, moved, []).sets == ()


@pytest.mark.parametrize(("sources", "triples", "word"), [(2, 1, "too few"), (3, -1, "below 0")])
def test_studies_that_teach_nothing_are_refused(family, sources, triples, word):
    recipe = recipe_for(family, sources=family.sources[:sources])
    with pytest.raises(BadValue, match=word):
        next(study(recipe, Evaluator(family, CPU), triples))


def test_sets_are_all_pairs_and_different_triples_of_the_seed():
    sets = sets_of(8, 28, 1)
    assert sets[:28] == list(itertools.combinations(range(8), 2))
    assert len(set(sets[28:])) == 28 and {len(s) for s in sets[28:]} == {3}
    assert sets == sets_of(8, 28, 1) != sets_of(8, 28, 2) and len(sets_of(4, 28, 0)) == 10


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=5, max_size=30))
def test_rank_correlations_are_scipys_also_of_repeated_sets(points):
    x, y = np.array(points, dtype=float).T
    counts = np.random.default_rng(len(points)).integers(0, 3, (4, len(points)))
    for weights in (np.ones((1, len(x))), counts.astype(float)):
        for row, rho in zip(weights.astype(int), weighted_spearman(x, y, weights), strict=True):
            a, b = np.repeat(x, row), np.repeat(y, row)
            if (row > 0).sum() < 5 or np.ptp(a) == 0 or np.ptp(b) == 0:
                assert np.isnan(rho)
            else:
                assert rho == pytest.approx(spearmanr(a, b).statistic, abs=1e-9)


def test_models_are_drawn_not_sets():
    sets = list(itertools.combinations(range(6), 2))
    draws = draws_of_models(sets, 6, 0)
    assert draws.shape == (2000, 15) and (draws == np.round(draws)).all()
    # What a model's absence does: all its pairs are absent with it.
    of_first = draws[:, [i for i, s in enumerate(sets) if 0 in s]]
    absent = (of_first == 0).all(1).mean()
    assert absent == pytest.approx((5 / 6) ** 6, abs=0.06)


def test_pairs_that_share_models_have_wider_intervals_than_independent_ones():
    """The drop of a pair is the sum of what its models bring: eight numbers, not 28."""
    rng = np.random.default_rng(3)
    effect, sets = rng.normal(0, 1, 8), list(itertools.combinations(range(8), 2))
    y = np.array([effect[i] + effect[j] for i, j in sets])
    x = y + rng.normal(0, 2, len(y))
    correlation = correlated(x, y, sets, 8)
    assert np.diff(correlation.by_models) > np.diff(correlation.by_sets)
    assert correlation.by_models[0] <= correlation.rho <= correlation.by_models[1]
    assert np.isnan(interval(np.full(10, np.nan))).all()


def study_of(x, drop, models=8):
    sets = tuple(itertools.combinations(range(models), 2))
    flat = np.zeros(len(sets))
    predictors = {name: flat for name in words.TITLES} | {"layer": x, "cosine": -x[::-1]}
    return Study(
        sources=tuple("abcdefgh"[:models]), sets=sets, drops=np.stack([drop] * 3),
        predictors=predictors,
    )  # fmt: skip


def test_words_say_what_comes_out_whatever_it_is():
    x = np.arange(28.0)
    assert "**M-Loss predicts**" in words.prediction(study_of(x, x), "pairs")[0]
    assert "**M-Loss points the wrong way**" in words.prediction(study_of(x, -x), "pairs")[0]
    noise = np.random.default_rng(0).normal(0, 1, 28)
    said = words.prediction(study_of(x, noise), "pairs")
    assert "**M-Loss is not shown to predict**" in said[0] and "holds 0" in said[0]
    assert [line for line in said if line.startswith("Cosine")], said
    few = study_of(np.arange(3.0), np.arange(3.0), 3)
    assert "nothing can be said" in words.prediction(few, "pairs")[0]


def test_the_gap_is_the_distance_to_the_mean_of_unit_embeddings(family):
    recipe = recipe_for(family, "m-ties", weights=(0.5, 0.3, 0.2))
    evaluator = Evaluator(family, CPU)
    gaps = [e for e in ensemble_gap(recipe, evaluator, family.tasks) if isinstance(e, GapMeasured)]
    assert [g.task for g in gaps] == list(family.tasks)
    _, sources = states(family, family.sources)
    *_, ties = run(dataclasses.replace(recipe, method="ties"), family, device="cpu")
    merged = {n: t.numpy() for n, t in ties.weights.items()}
    model, task = family.model, gaps[0].task
    pixels = evaluator.pixels(task, 0, None).numpy()
    embed = lambda s: oracle.features(s, pixels, model.heads, model.activation)  # noqa: E731
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    ensemble = sum(a * unit(embed(s)) for a, s in zip(recipe.alpha, sources, strict=True))
    expected = 1 - (unit(embed(merged)) * unit(ensemble)).sum(1)
    np.testing.assert_allclose(gaps[0].ties, expected, atol=1e-5)
    *_, alike = run(dataclasses.replace(recipe, ranks="equal"), family, device="cpu")
    rows = {n: t.numpy() for n, t in alike.weights.items()}
    expected = 1 - (unit(embed(rows)) * unit(ensemble)).sum(1)
    np.testing.assert_allclose(gaps[0].alike, expected, atol=1e-5)
    assert gap_difference(gaps)[0] == pytest.approx(
        np.mean([(g.ties - g.m_ties).mean() for g in gaps])
    )


def test_a_gap_measured_before_is_read_and_nothing_is_embedded(family, runs, monkeypatch):
    recipe = recipe_for(family, "m-ties")
    first = [
        e for e in ensemble_gap(recipe, Evaluator(family, CPU), family.tasks)
        if isinstance(e, GapMeasured)
    ]  # fmt: skip
    files = list(runs.glob("cell-*.npz"))
    assert not any(g.cached for g in first) and len(files) == 3
    with monkeypatch.context() as patch:
        patch.setattr(Tower, "features", lambda *a: pytest.fail("embedded again"))
        second = list(ensemble_gap(recipe, Evaluator(family, CPU), family.tasks))
    assert isinstance(second.pop(0), Planned)
    assert [type(e) for e in second] == [GapMeasured] * 3 and all(g.cached for g in second)
    for one, other in zip(first, second, strict=True):
        for name in ("m_ties", "ties", "alike"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    other = list(
        ensemble_gap(dataclasses.replace(recipe, keep=0.5), Evaluator(family, CPU), ("apples",))
    )
    assert not any(g.cached for g in other if isinstance(g, GapMeasured)), "another recipe"
    files[0].write_bytes(b"torn")
    third = [
        e
        for e in ensemble_gap(recipe, Evaluator(family, CPU), family.tasks)
        if isinstance(e, GapMeasured)
    ]
    assert [g.cached for g in third].count(False) == 1, "a damaged file is measured again"
    assert not list(runs.glob(".*part*")) and list_runs(kinds=("cell",)) == []


def gap_of(m_ties, ties):
    return words.gap([GapMeasured(task="a", m_ties=m_ties, ties=ties, seconds=0.0)])


@pytest.mark.parametrize(("shift", "word"), [(0.1, "nearer to"), (-0.1, "farther from")])
def test_the_gap_in_words_begins_with_its_verdict(shift, word):
    ties = np.linspace(0.3, 0.5, 50)
    noise = 0.01 * np.cos(np.arange(50.0))
    said = gap_of(ties - shift + noise, ties)
    assert said.startswith(f"**Distinguishable**: M-TIES is {word} the ensemble than TIES by 25.0%")
    little = gap_of(ties - 0.001 * shift + noise, ties)
    assert little.startswith(f"**Not distinguishable**: M-TIES is {word} the ensemble than")
    rows = GapMeasured(
        task="a", m_ties=ties - shift, ties=ties, alike=ties - shift + 0.02 + noise, seconds=0.0
    )
    assert "M-TIES is nearer than they are (difference +0.0" in words.gap([rows])
    assert "Rows trimmed alike" not in said
    same = gap_of(ties, ties)
    assert same.startswith("**Not distinguishable**: M-TIES is as far from the ensemble as TIES. ")
    one = gap_of(ties[:1] - shift, ties[:1])
    assert one.startswith("**Not measured**") and "(95 % interval not measured" in one


def test_a_rival_without_an_interval_gets_no_verdict():
    rng = np.random.default_rng(2)
    nothing = Correlation(rho=0.3, by_models=(np.nan, np.nan), by_sets=(0.0, 0.5))
    said = words._against("cosine", nothing, (0.1, np.nan, np.nan))
    assert "not measured" in said and "distinguishable" not in said
    x = rng.normal(0, 1, 28)
    for line in words.prediction(study_of(x, x), "pairs")[1:]:
        outcome, low, high = re.search(
            r": ((?:not )?distinguishable) from M-Loss.*interval (\S+) to (\S+)\)\.$", line
        ).groups()
        assert (outcome == "distinguishable") == (float(low) > 0 or float(high) < 0)


def test_without_tasks_there_is_no_gap(family):
    with pytest.raises(BadValue, match="no task"):
        next(ensemble_gap(recipe_for(family, "m-ties"), Evaluator(family, CPU), ()))
