"""run(): its events in order, and what it evaluates on the way."""

from __future__ import annotations

import math
import os
from collections import ChainMap, Counter

import numpy as np
import pytest
import torch

from mloss_core import (
    BlockMerged,
    BlockScored,
    Embedded,
    Evaluator,
    Finished,
    MergeRecipe,
    Planned,
    TaskEvaluated,
    Tower,
    launch,
    load,
    progress,
    run,
)
from mloss_core.checkpoints.image_tower import Checkpoint
from mloss_core.data.calibration import preprocess
from mloss_core.errors import BadValue, OutOfMemory, UnknownName
from mloss_core.evaluation.evaluator import hits
from mloss_core.fields import FIELDS, WAYS
from mloss_core.methods.emr import TaskModels
from mloss_core.methods.keep_rates import node_rates
from mloss_core.methods.method import Models
from mloss_core.recipe import calibration_of
from mloss_core.sweep import sweep

CPU = torch.device("cpu")


def recipe_for(family, method="m-ties", **changes):
    fields = {"keep": 0.5, "variation": 0.2, "samples": 6, "sources": family.sources}
    return MergeRecipe(family="tiny", method=method, **fields | changes)


def evaluated(events, **wanted):
    """The evaluations with these fields."""
    evaluations = [event for event in events if isinstance(event, TaskEvaluated)]
    return [e for e in evaluations if all(getattr(e, k) == v for k, v in wanted.items())]


@pytest.fixture(scope="module")
def events(models):
    """A whole run with two evaluated tasks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOSS_MODELS", str(models))
        family = load("tiny")
        evaluator = Evaluator(family, CPU)
        options = {"evaluator": evaluator, "tasks": family.tasks[:2], "stages": launch(5, 7)}
        return list(run(recipe_for(family), family, device="cpu", **options))


def test_each_block_is_scored_then_merged_and_the_end_comes_once(events):
    steps = [e for e in events if isinstance(e, BlockScored | BlockMerged)]
    order = [(type(e), e.scores.block if isinstance(e, BlockScored) else e.block) for e in steps]
    assert order == [(kind, block) for block in range(3) for kind in (BlockScored, BlockMerged)]
    assert isinstance(events[-1], Finished)
    assert sum(isinstance(event, Finished) for event in events) == 1


def test_only_chosen_blocks_are_scored(family):
    events = list(run(recipe_for(family, blocks=(1,)), family, device="cpu"))
    assert [type(e) for e in events] == [
        Planned,
        BlockMerged,
        BlockScored,
        BlockMerged,
        BlockMerged,
        Finished,
    ]


@pytest.mark.parametrize("method", ["simple-average", "task-arithmetic", "ties", "dare"])
def test_methods_without_data_merge_every_block_and_score_none(method, family):
    events = list(run(recipe_for(family, method), family, device="cpu"))
    assert [type(event) for event in events] == [Planned] + [BlockMerged] * 3 + [Finished]
    assert events[-1].weights.keys() == family.model.shapes().keys()


def test_the_share_kept_is_counted(events, family):
    scored = [event for event in events if isinstance(event, BlockScored)]
    kept = [event.kept for event in events if isinstance(event, BlockMerged)]
    base = family.base().load(CPU)
    for block, (share, event) in enumerate(zip(kept, scored, strict=True)):
        name, count = f"visual.transformer.resblocks.{block}.mlp.c_fc.weight", 0
        for source in family.sources:
            vector = (family.source(source).load(CPU)[name] - base[name]).abs().numpy()
            for row, rate in zip(vector, event.rates, strict=True):
                least = np.sort(row)[::-1][max(1, math.floor(rate * len(row) + 1e-9)) - 1]
                count += int((row >= least).sum())  # equal magnitudes are all kept
        assert share == count / (len(family.sources) * base[name].numel())
    by_node = [event.kept_by_node for event in events if isinstance(event, BlockMerged)]
    assert [nodes.mean() for nodes in by_node] == pytest.approx(kept)
    for event, nodes in zip(scored, by_node, strict=True):
        width = family.model.width
        assert (nodes >= np.maximum(1, np.floor(event.rates * width + 1e-9)) / width - 1e-12).all()
    assert all(event.rates.min() >= 0.3 and event.rates.max() == 0.5 for event in scored)


def test_the_sum_of_step_times_is_the_merge_time(events):
    steps = [event.seconds for event in events if isinstance(event, BlockScored | BlockMerged)]
    assert events[-1].seconds == pytest.approx(sum(steps))
    assert all(event.seconds >= 0 for event in events[1:])


def test_partial_models_are_evaluated_as_their_weights_say(events, family):
    recipe, merged = recipe_for(family), {}
    base = family.base().load(CPU)
    sources = [family.source(name) for name in recipe.sources]
    images = preprocess(calibration_of(recipe, family).images, family.model, CPU)
    evaluator = Evaluator(family, CPU)
    models = Models(config=family.model, base=base, sources=sources, device=CPU)
    for event in sweep(models, recipe, images, merged):
        if isinstance(event, BlockScored):
            continue
        tower = Tower(family.model, ChainMap(dict(merged), base))
        for task in family.tasks[:2]:
            (ours,) = evaluated(events, model="merged", task=task, block=event.block)
            features = tower.features(evaluator.pixels(task, 0, 5))
            expected = hits(features, evaluator.heads[task], evaluator.task(task).labels[:5])
            np.testing.assert_array_equal(ours.hits, expected)
    final = events[-1].weights
    assert all(torch.equal(merged[name], final[name]) for name in final)


def test_the_whole_model_is_judged_quickly_then_fully_beside_its_references(events, family):
    whole = evaluated(events, model="merged", task="apples", block=None)
    assert [event.accuracy.total for event in whole] == [7, 12]
    for label in ("base", "own", "ties", "ensembling"):
        evaluations = evaluated(events, model=label, task="bridges", block=None)
        assert evaluations[-1].accuracy.total == 12
        np.testing.assert_array_equal(evaluations[-1].hits[:5], evaluations[0].hits[:5])
    assert not evaluated(events, task="clouds")


def test_a_reference_is_what_its_own_weights_say(events, family):
    evaluator = Evaluator(family, CPU)
    weights = {"base": family.base().load(CPU), "own": family.source("apples").load(CPU)}
    weights["ties"] = list(run(recipe_for(family, "ties"), family, device="cpu"))[-1].weights
    for label, tensors in weights.items():
        features = Tower(family.model, tensors).features(evaluator.pixels("apples", 0, None))
        expected = hits(features, evaluator.heads["apples"], evaluator.task("apples").labels)
        np.testing.assert_array_equal(
            evaluated(events, model=label, task="apples")[-1].hits, expected
        )


def test_ensembling_is_the_weighted_mean_of_the_sources_embeddings(family):
    alpha = (0.5, 0.3, 0.2)
    evaluator = Evaluator(family, CPU)
    recipe = recipe_for(family, "ensembling", weights=alpha)
    events = list(run(recipe, family, device="cpu", evaluator=evaluator, tasks=["apples"]))
    assert events[-1].weights is None
    pixels, total = evaluator.pixels("apples", 0, None), 0
    for weight, name in zip(alpha, recipe.sources, strict=True):
        tower = Tower(family.model, family.source(name).load(CPU))
        total = total + weight * tower.features(pixels)
    expected = hits(total, evaluator.heads["apples"], evaluator.task("apples").labels)
    for label in ("merged", "ensembling"):
        np.testing.assert_array_equal(evaluated(events, model=label)[-1].hits, expected)


class Counting:
    """A model that counts the images it embeds."""

    def __init__(self, tower):
        self.tower, self.built, self.batch_sizes = tower, 0, []

    def __call__(self):
        self.built += 1
        return self

    def features(self, images, task):
        self.batch_sizes.append(len(images))
        return self.tower.features(images)


@pytest.fixture
def counting(family):
    return Counting(Tower(family.model, family.base().load(CPU)))


def test_more_images_extend_what_is_known_and_nothing_is_embedded_twice(family, counting):
    evaluator = Evaluator(family, CPU)
    for images in (5, 3, None, 7, None):
        features = evaluator.features("key", counting, "apples", images)
        assert len(features) == images or images is None
    assert counting.batch_sizes == [5, 7]
    whole = counting.tower.features(evaluator.pixels("apples", 0, None))
    torch.testing.assert_close(features, whole, rtol=1e-5, atol=1e-6)


def test_asking_for_more_images_than_there_are_builds_no_model_twice(family, counting):
    evaluator = Evaluator(family, CPU)
    for _ in range(2):
        assert len(evaluator.features("key", counting, "apples", 100)) == 12
    assert (counting.built, counting.batch_sizes) == (1, [12])


@pytest.mark.parametrize("method", ["m-ties", "ties", "emr", "ensembling"])
@pytest.mark.parametrize("tasks", [("apples", "clouds"), ()])
def test_the_first_event_plans_exactly_the_steps_that_follow(method, tasks, family):
    recipe = recipe_for(family, method, sources=("apples", "bridges"))
    evaluator = Evaluator(family, CPU) if tasks else None
    for _ in range(2):  # what is embedded already changes no count
        log = list(run(recipe, family, evaluator=evaluator, tasks=tasks))
        assert isinstance(log[0], Planned)
        ways = [e for e in log if isinstance(e, Embedded) and e.done < e.total]
        assert len(log) - 1 - len(ways) == log[0].steps
        shares = [progress(log[:n]) for n in range(1, len(log) + 1)]
        assert shares[0] == 0 and shares[-1] == 1 and shares == sorted(shares)


def test_a_run_opens_and_audits_every_file_once(own_family, monkeypatch):
    family, calls = load("tiny"), Counter()

    def counted(name):
        original = getattr(Checkpoint, name)

        def call(*args, **options):
            calls[name] += 1
            return original(*args, **options)

        return call

    opened = counted("open")
    monkeypatch.setattr(Checkpoint, "open", staticmethod(opened))
    for name in ("audit", "check_finite", "changed"):
        monkeypatch.setattr(Checkpoint, name, counted(name))
    family.opened.clear()
    list(run(recipe_for(family), family, device="cpu", tasks=family.tasks))
    files = 5  # the base, three sources and the heads, which need no audit
    assert calls == {"open": files, "check_finite": files, "audit": files - 1}
    calls.clear()
    evaluator = Evaluator(family, CPU)
    calls.clear()
    list(run(recipe_for(family), family, evaluator=evaluator, tasks=family.tasks))
    assert calls == {"changed": files - 1}, "one look at each file's stamp, and no more"


def test_a_file_that_changes_between_runs_is_noticed(own_family):
    family = load("tiny")
    *_, first = run(recipe_for(family, "simple-average"), family, device="cpu")
    file = own_family / "sources" / "apples.safetensors"
    other = (own_family / "sources" / "clouds.safetensors").read_bytes()
    file.write_bytes(other)
    os.utime(file, ns=(0, 0))
    *_, last = run(recipe_for(family, "simple-average"), family, device="cpu")
    assert first.metadata["sources"]["apples"] != last.metadata["sources"]["apples"]
    assert not all(torch.equal(first.weights[n], last.weights[n]) for n in first.weights)


def test_no_gradient_mode_leaks_to_the_consumer(family):
    evaluator = Evaluator(family, CPU)
    for _ in run(recipe_for(family), family, device="cpu", evaluator=evaluator, tasks=["apples"]):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


def test_tensors_of_events_live_on_the_cpu_without_gradients(events):
    for tensor in events[-1].weights.values():
        assert tensor.device == CPU and tensor.dtype == torch.float32 and not tensor.requires_grad


def test_unknown_tasks_and_other_errors_come_out_as_they_are(family, monkeypatch):
    evaluator = Evaluator(family, CPU)
    with pytest.raises(UnknownName, match="nothing"):
        list(run(recipe_for(family), family, evaluator=evaluator, tasks=["nothing"]))

    def fail(*_):
        raise RuntimeError("an internal mistake")

    monkeypatch.setattr("mloss_core.mloss._gap", fail)
    with pytest.raises(RuntimeError, match="an internal mistake") as caught:
        list(run(recipe_for(family), family, device="cpu"))
    assert not isinstance(caught.value, OutOfMemory)


def test_emr_judges_only_tasks_whose_source_is_merged(family):
    evaluator = Evaluator(family, CPU)
    recipe = recipe_for(family, "emr", sources=("apples", "clouds"))
    options = {"evaluator": evaluator, "tasks": family.tasks, "stages": launch(quick=5)}
    events = list(run(recipe, family, device="cpu", **options))
    assert events[-1].weights is None
    assert {e.task for e in evaluated(events, model="merged")} == {"apples", "clouds"}
    assert {e.task for e in evaluated(events, model="base")} == set(family.tasks)
    sources = {name: family.source(name) for name in recipe.sources}
    model = TaskModels(family.model, family.base().load(CPU), sources)
    assert [e.block for e in model.prepare(recipe)] == [0, 1, 2]
    for task in recipe.sources:
        features = Tower(family.model, model.weights(task)).features(
            evaluator.pixels(task, 0, None)
        )
        torch.testing.assert_close(model.features(evaluator.pixels(task, 0, None), task), features)
        expected = hits(features, evaluator.heads[task], evaluator.task(task).labels)
        np.testing.assert_array_equal(
            evaluated(events, model="merged", task=task)[-1].hits, expected
        )
    with pytest.raises(BadValue, match="bridges: has no mask"):
        model.features(evaluator.pixels("bridges", 0, 2), "bridges")


def test_a_merge_is_compared_with_plain_ties_whatever_its_scope(family):
    options = {"device": "cpu", "tasks": ["apples"], "stages": launch(quick=5)}
    for_scope = {}
    for scope in ("tensor", "global"):
        events = list(run(recipe_for(family, scope=scope), family, **options))
        for_scope[scope] = evaluated(events, model="ties")[-1].hits
    np.testing.assert_array_equal(for_scope["tensor"], for_scope["global"])


def test_the_first_choice_is_the_default(family):
    recipe = recipe_for(family)
    assert all(getattr(recipe, name) == next(iter(FIELDS[name].choices)) for name in WAYS)


def test_missing_scores_are_an_error(family):
    with pytest.raises(BadValue, match="of block 1 are missing"):
        node_rates(recipe_for(family), 1, 128)
