"""The live stages: the merge of a launch to the bit, whatever the cache holds from others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mloss_core import (
    BlockMerged,
    BlockScored,
    Embedded,
    Evaluator,
    Finished,
    MergeRecipe,
    Planned,
    TaskEvaluated,
    run,
    tensor_cache,
    trim,
)
from mloss_core.errors import UnknownName
from mloss_core.recipe import fingerprint
from mloss_core.run import live
from mloss_core.tensor_cache import TensorCache
from mloss_core.trim import SortedMagnitudes

CPU = torch.device("cpu")
USUAL = {"keep": 0.5, "variation": 0.2, "samples": 6}
# In this order with one cache: what one merge has left must not show in the next.
SETTINGS = (
    {},
    {"keep": 0.8},
    {"variation": 0.0},
    {"blocks": (1,)},
    {"blocks": ()},
    {"scaling": 1.7},
    {"weights": (0.5, 0.3, 0.2)},
    {"sources": ("clouds", "apples")},
    {"inputs_from": "pretrained", "scores": "squared", "ranks": "reversed"},
    {"ranks": "random"},
    {"ranks": "equal"},
    {"method": "m-dare"},
    {"method": "dare"},
    {"method": "ties"},
    {"method": "ties", "scope": "global"},
    {"method": "elect"},
    {"method": "simple-average"},
    {"method": "task-arithmetic"},
    {},
)


def recipe_for(family, **changes):
    fields = {"method": "m-ties", "sources": family.sources} | USUAL | changes
    return MergeRecipe(family="tiny", **fields)


def merge_live(recipe, evaluator, cache=None):
    family = evaluator.family
    options = {"evaluator": evaluator, "tasks": family.sources, "cache": cache}
    return run(recipe, family, stages=live(5), **options)


def whole(events):
    """The last hits of each task."""
    evaluations = (e for e in events if isinstance(e, TaskEvaluated) and e.model == "merged")
    return {e.task: e.hits for e in evaluations if e.block is None}


def test_every_setting_with_one_cache_gives_the_bytes_and_the_hits_of_run(family):
    evaluator, shared = Evaluator(family, CPU), TensorCache(keeps=True)
    for changes in SETTINGS:
        recipe = recipe_for(family, **changes)
        ours = list(merge_live(recipe, evaluator, cache=shared))
        reference = list(run(recipe, family, device="cpu", tasks=family.sources))
        a, b = ours[-1], reference[-1]
        assert isinstance(a, Finished) and a.metadata == b.metadata
        assert a.weights.keys() == b.weights.keys()
        assert all(torch.equal(a.weights[name], b.weights[name]) for name in b.weights), changes
        expected = whole(reference)
        for task, hits in whole(ours).items():
            np.testing.assert_array_equal(hits, expected[task])
        scored = [[e for e in log if isinstance(e, BlockScored)] for log in (ours, reference)]
        for one, two in zip(*scored, strict=True):
            np.testing.assert_array_equal(one.scores.node, two.scores.node)
            np.testing.assert_array_equal(one.rates, two.rates)


def test_first_all_tasks_on_a_few_images_then_each_on_all(family):
    events = list(merge_live(recipe_for(family), Evaluator(family, CPU)))
    steps = [e for e in events if not isinstance(e, Embedded | Planned)]
    kinds = [BlockScored, BlockMerged] * 3 + [TaskEvaluated] * 12 + [Finished]
    assert [type(event) for event in steps] == kinds
    judged = [e for e in steps if isinstance(e, TaskEvaluated)]
    assert [(e.model, e.task, e.accuracy.total) for e in judged] == [
        (model, task, images)
        for images in (5, 12)
        for model in ("merged", "ties")
        for task in family.sources
    ]
    for first, last in zip(judged[:6], judged[6:], strict=True):
        np.testing.assert_array_equal(first.hits, last.hits[:5])
    seconds = sum(e.seconds for e in steps[:6])
    assert steps[-1].seconds == pytest.approx(seconds), "evaluation is not merging"


def test_a_setting_that_is_passed_over_leaves_no_features_behind(family):
    evaluator = Evaluator(family, CPU)
    log = merge_live(recipe_for(family), evaluator)
    event = next(e for e in log if isinstance(e, TaskEvaluated))
    assert event.accuracy.total == 5 and evaluator._features
    log.close()
    assert not evaluator._features
    done = list(merge_live(recipe_for(family), evaluator))
    assert fingerprint(done[-1].metadata) in evaluator._features, "a whole one may be asked again"


@pytest.mark.parametrize("method", ["emr", "ensembling"])
def test_a_method_that_leaves_no_single_model_is_evaluated_all_the_same(method, family):
    log = list(merge_live(recipe_for(family, method=method), Evaluator(family, CPU)))
    assert log[-1].weights is None and whole(log).keys() == set(family.sources)


def test_what_the_family_does_not_have_is_refused(family):
    with pytest.raises(UnknownName, match="nowhere"):
        recipe = recipe_for(family, sources=("apples", "nowhere"))
        next(merge_live(recipe, Evaluator(family, CPU)))


def test_a_cache_takes_no_more_than_is_told(family):
    shared, names = TensorCache(keeps=True), family.sources
    evaluator, limit = Evaluator(family, CPU), tensor_cache.room(family.model.shapes(), len(names))
    for recipe in (recipe_for(family), recipe_for(family, method="ties", variation=0.0)):
        list(merge_live(recipe, evaluator, cache=shared))
    parts = [part for kept in shared._ordered.values() for part in vars(kept).values()]
    taken = sum(part.numel() * part.element_size() for part in parts)
    assert limit / 3 < taken <= limit < tensor_cache.ROOM


def test_a_cache_keeps_what_fits_and_clears_for_other_sources(family, monkeypatch):
    shared, names = TensorCache(keeps=True), family.sources
    base, files = family.base(), [family.source(source) for source in names]
    assert shared.of(base, files, CPU) is shared
    name = next(iter(family.model.block_names(0)))
    first = shared.read(files, [name], CPU)[name]
    assert shared.read(files, [name], CPU)[name] is first
    shared.of(base, files, CPU)
    assert shared.read(files, [name], CPU)[name] is first, "the same sources again"
    assert shared.of(base, files[:2], CPU) is shared
    assert len(shared.read(files[:2], [name], CPU)[name]) == 2
    monkeypatch.setattr(tensor_cache, "ROOM", 1000)
    other = shared.of(base, files, CPU)
    assert other is not shared and not other.keeps
    assert other.read(files, [name], CPU)[name] is not other.read(files, [name], CPU)[name]


rates = st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4).map(np.array)


@given(rates, st.floats(0.01, 1.0), st.integers(0, 2**32 - 1))
def test_ordered_magnitudes_give_the_limits_that_a_search_finds(rates, keep, seed):
    rng = np.random.default_rng(seed)
    vectors = [torch.from_numpy(rng.integers(-3, 4, (4, 6)).astype(np.float32)) for _ in range(3)]
    base = torch.zeros(4, 6)
    searched, kept = trim.TaskVectors(base, vectors), SortedMagnitudes(torch.stack(vectors))
    before = kept.vectors.clone()
    ordered = trim.TaskVectors(base, vectors, None, kept)
    torch.testing.assert_close(ordered.limits(keep), searched.limits(keep), rtol=0, atol=0)
    torch.testing.assert_close(
        ordered.limits(keep, rates), searched.limits(keep, rates), rtol=0, atol=0
    )
    ordered.part(slice(None), slice(0, 2)).zero_()
    assert torch.equal(kept.vectors, before), "whoever works on a part works on a copy"
