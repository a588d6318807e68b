"""mloss_core/experiments/tried.py: which kept runs are choices of blocks of the same merge."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mloss_core import Evaluator, MergeRecipe, list_runs, run
from mloss_core.experiments import Tried, cost, same_but_blocks, tried
from mloss_core.recipe import check
from mloss_core.runs.store import recorded
from views.explain import block_figures

CPU = torch.device("cpu")
TASKS = ("apples", "bridges", "clouds")


def recipe_of(family, **changes) -> MergeRecipe:
    fields = {"method": "m-ties", "sources": family.sources, "keep": 0.5, "samples": 6} | changes
    return MergeRecipe(family=family.name, **fields)


@pytest.fixture
def keep(family):
    """Merges a recipe and keeps the run, as the app does."""
    evaluator = Evaluator(family, CPU)

    def kept(tasks=TASKS, **changes) -> None:
        recipe = recipe_of(family, **changes)
        check(recipe, family)
        events = run(recipe, family, device="cpu", evaluator=evaluator, tasks=tasks)
        for _ in recorded(events, recipe, kind="merge", keep_model=False):
            pass

    return kept


def labels(choices: list[Tried]) -> dict[str, bool]:
    return {t.row.label: t.same for t in choices}


def test_choices_of_the_same_merge_are_found_newest_first_and_once(family, keep):
    for blocks in ((1,), None, (0, 2), (1,)):
        keep(blocks=blocks)
    keep(method="ties")
    choices = tried(recipe_of(family), family, TASKS)
    assert list(labels(choices)) == ["no block (TIES)", "block 1", "blocks 0,2", "all blocks"]
    assert all(t.same for t in choices)
    assert [t.blocks for t in choices] == [(), (1,), (0, 2), (0, 1, 2)]
    assert [t.row.cost.products for t in choices] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    newest = {r.id: r for r in list_runs()}[choices[1].run.id]
    assert (choices[1].row.answers["apples"] == newest.hits["merged"]["apples"]).all()


def test_other_settings_are_told_apart_and_other_merges_left_out(family, keep):
    keep(blocks=(1,), variation=0.2)
    keep(blocks=(1,), samples=8)
    keep(blocks=(1,), ranks="random")
    keep(method="ties", scope="global")
    keep(method="dare")
    keep(blocks=(1,), sources=("apples", "bridges"))
    keep(blocks=(1,), weights=(0.5, 0.25, 0.25))
    keep(blocks=(1,), tasks=("apples",))
    choices = tried(recipe_of(family), family, TASKS)
    assert labels(choices) == {
        "block 1, k = 0.5, e = 0.1, λ = 1, 8 images, seed 42": False,
        "block 1, k = 0.5, e = 0.2, λ = 1, 6 images, seed 42": False,
    }
    assert labels(tried(recipe_of(family, variation=0.2), family, TASKS))["block 1"]


def test_a_run_of_a_file_that_changed_since_is_no_such_choice(family, keep):
    keep(blocks=(1,))
    (record,) = list_runs()
    about = {**record.metadata, "base": "0" * 64}
    other = dataclasses.replace(record, metadata=about)
    assert tried(recipe_of(family), family, TASKS, [record])
    assert tried(recipe_of(family), family, TASKS, [other]) == []
    (record.folder / "hits.npz").write_bytes(b"torn")
    assert tried(recipe_of(family), family, TASKS) == [], "damaged: left out, the page goes on"


def test_without_any_block_e_and_the_draw_do_not_matter(family):
    none = recipe_of(family, blocks=(), variation=0.0, samples=3)
    assert same_but_blocks(none, recipe_of(family, blocks=(1,)))
    assert not same_but_blocks(recipe_of(family, samples=3), recipe_of(family, blocks=(1,)))
    assert not same_but_blocks(none, recipe_of(family, blocks=(1,), keep=0.4))


def test_seconds_are_in_proportion_to_the_multiply_adds(family):
    of = lambda blocks: cost.seconds(recipe_of(family, blocks=blocks), family.model, 9.0)  # noqa: E731
    assert of(None) == of((0, 1, 2)) == pytest.approx(9.0) and of(()) == 0
    assert 0 < of((0,)) < of((1,)) < of((2,)) < of((1, 2)) < 9, "a late block costs its way"
    m = family.model
    tokens, width = m.tokens, m.width
    block = 4 * tokens * width**2 + 2 * tokens**2 * width
    mlp, products = 2 * tokens * width * m.nodes, 3 * tokens * width * m.nodes
    embed = (tokens - 1) * 3 * m.patch_size**2 * width
    whole = embed + 2 * (block + mlp) + block + 3 * products
    assert of((1,)) == pytest.approx(9 * (embed + block + mlp + block + products) / whole)


def test_the_frontier_holds_each_choice_once_with_its_interval(family, keep):
    for blocks in ((1,), None, (0, 2)):
        keep(blocks=blocks)
    keep(method="ties")
    keep(blocks=(1,), variation=0.2)
    choices = tried(recipe_of(family), family, TASKS)
    figure = block_figures.frontier(choices, (0, 2), ensemble=0.5)
    traces = {t.name: t for t in figure.data}
    points = {name: list(traces[name].x) for name in block_figures.KINDS}
    expected = {"this choice": 2 / 3, "other choices": 1 / 3, "all blocks": 1,
                "no block (TIES)": 0, "other settings": 1 / 3}  # fmt: skip
    assert {name: x for name, (x,) in points.items()} == pytest.approx(expected)
    by_label = {t.row.label: t.row for t in choices}
    mean, low, high = by_label["blocks 0,2"].mean
    ours = traces["this choice"]
    assert ours.y[0] == mean and ours.error_y.array[0] == pytest.approx(high - mean)
    assert ours.error_y.arrayminus[0] == pytest.approx(mean - low)
    assert list(traces["ensemble"].y) == [0.5, 0.5]
    best = block_figures.best([t.row for t in choices if t.same])
    means = [y for _, y in best]
    assert means == sorted(set(means)) and max(means) == max(
        t.row.mean[0] for t in choices if t.same
    )


def test_distributions_are_the_shares_of_nodes_at_most_x():
    node = np.array([3.0, 1.0, 0.0, 1.0])
    figure = block_figures.distributions({4: node})
    line, label = figure.data
    assert label.text == ("<b>4</b>",) and figure.layout.showlegend is False, "no legend of twelve"
    for x, share in zip(line.x, line.y, strict=True):
        assert share <= (node <= x).mean()
    assert line.name == "block 4" and max(line.y) == 1
    assert block_figures.distributions({0: np.zeros(3)}).layout.xaxis.type == "linear"
