"""Heterogeneous experts: trained once, merged as by hand, judged on halves, and told in words."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr

from mloss_core import InputError, Tower, list_runs
from mloss_core.data.calibration import preprocess
from mloss_core.experiments import CellDone, Lab, claims, experts, perform, rows, start_recipe
from mloss_core.experiments.expert_grid import PREDICTORS, Point, correlations, falls, points
from mloss_core.experiments.expert_words import advice, advice_of, words
from mloss_core.experiments.experts import ExpertCell, Grid
from mloss_core.experiments.report import section
from mloss_core.families import family as zoo
from mloss_core.hardware.device import choose
from mloss_core.training.events import Begun, Written
from mloss_core.training.finetune import finetune
from mloss_core.training.lesson import of_task
from views.experiments import expert_figures

GRID = Grid(rate=(1e-3, 1e-2), steps=(2, 4), batch=(4,), tasks=("apples",))
N = 400


@pytest.fixture
def start(family):
    return start_recipe(family, samples=6)


def done(family, start, grid=GRID) -> list[CellDone]:
    plan = experts.experts(family, start, grid)
    events = perform("experts", family, start, device="cpu", plan=plan)
    return [event for event in events if isinstance(event, CellDone)]


@pytest.fixture(scope="session")
def measured(models, tmp_path_factory):
    """The grid's cells, and the folder of their runs."""
    folder = tmp_path_factory.mktemp("experts") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOSS_MODELS", str(models))
        patch.setenv("MLOSS_RUNS", str(folder))
        tiny = zoo.load("tiny")
        return done(tiny, start_recipe(tiny, samples=6)), folder


@pytest.fixture
def on_disk(measured, runs) -> list[CellDone]:
    """The cells, their runs where the test's own are."""
    shutil.copytree(measured[1], runs)
    return measured[0]


# Cells.


def test_each_expert_is_trained_once_and_nothing_is_done_twice(
    family, start, on_disk, runs, monkeypatch
):
    first = on_disk
    assert len(first) == 2 + 4 * 3 and not any(d.cached for d in first)
    assert len(list((runs / experts.FOLDER).iterdir())) == 4
    assert not list((runs / ".finetunes").iterdir())  # optimizers' states are no longer needed
    monkeypatch.setattr(experts, "finetune", lambda *a, **k: pytest.fail("trained again"))
    monkeypatch.setattr(Lab, "compute", lambda *a: pytest.fail("measured again"))
    monkeypatch.setattr(experts, "geometry", lambda *a: pytest.fail("measured again"))
    second = done(family, start)
    assert all(d.cached for d in second)
    for one, other in zip(first, second, strict=True):
        assert (one.cell, one.record.id) == (other.cell, other.record.id)
        assert one.vectors.keys() == other.vectors.keys()


def test_an_interrupted_grid_goes_on_in_the_middle_of_a_training(family, start, runs, monkeypatch):
    monkeypatch.setattr(experts, "EACH", 2)  # a checkpoint after two of the four steps
    plan = experts.experts(family, start, GRID)
    events, begun = perform("experts", family, start, device="cpu", plan=plan), 0
    for event in events:
        begun += isinstance(event, Begun)
        if begun == 2 and isinstance(event, Written):
            break
    events.close()
    assert event.step == 2 and len(list((runs / experts.FOLDER).iterdir())) == 1
    again = list(perform("experts", family, start, device="cpu", plan=plan))
    assert [e.resumed for e in again if isinstance(e, Begun)] == [2, 0, 0]
    assert [e.cached for e in again if isinstance(e, CellDone)] == [True] * 5 + [False] * 9
    assert len(list((runs / experts.FOLDER).iterdir())) == 4
    assert {run.state for run in list_runs(kinds=("cell",))} == {"finished"}


def test_an_expert_is_what_the_lab_trains(family, measured, tmp_path):
    cell = measured[0][-1].cell
    lesson = of_task(family, "apples")
    *_, tuned = finetune(cell.settings, family, lesson, tmp_path / "own", device="cpu")
    towers = [load_file(path) for path in (measured[1] / experts.FOLDER).iterdir()]
    same = [all(torch.equal(t[n], w) for n, w in tuned.weights.items()) for t in towers]
    assert same.count(True) == 1


def test_merged_accuracies_and_norms_are_those_by_hand(family, on_disk, runs):
    grid = points(on_disk)
    assert [(p.rate, p.steps) for p in grid] == [(1e-3, 2), (1e-3, 4), (1e-2, 2), (1e-2, 4)]
    base = family.base().load(choose("cpu"))
    others = [family.source(name).load(choose("cpu")) for name in ("bridges", "clouds")]
    size = sum(float(w.double().square().sum()) for w in base.values()) ** 0.5
    by_norm = {}
    for path in (runs / experts.FOLDER).iterdir():
        expert = {name: w.float() for name, w in load_file(path).items()}
        moved = sum(float((expert[n] - w).double().square().sum()) for n, w in base.items()) ** 0.5
        by_norm[round(moved / size, 6)] = expert
    assert sorted(by_norm) == sorted(round(point.norm, 6) for point in grid)
    for point in grid:
        expert = by_norm[round(point.norm, 6)]
        merged = {n: (w + others[0][n] + others[1][n]) / 3 for n, w in expert.items()}
        assert point.own.sum() == right(family, expert, "apples")
        for task, hits in point.merged["simple-average"].items():
            assert len(hits) == 12 and hits.sum() == right(family, merged, task)
        assert point.merged["ties"].keys() == set(family.tasks)


def right(family, weights: dict[str, torch.Tensor], task: str) -> int:
    """Correct answers of a tower on a task's test pictures."""
    pictures = family.task(task)
    pixels = preprocess(pictures.images, family.model, torch.device("cpu"))
    features = Tower(family.model, weights).features(pixels).numpy()
    head = family.heads(torch.device("cpu"))[task].numpy()
    cosines = features @ head.T / np.linalg.norm(head, axis=1)
    return int((cosines.argmax(1) == pictures.labels).sum())


def test_measures_are_the_analyses_of_the_family_with_the_expert(on_disk):
    last = on_disk[-1]
    point = points(on_disk)[-1]
    q = last.cell.recipe.sources.index("apples")
    conflict = last.vectors["conflict"]
    assert point.conflict == pytest.approx((conflict[q].sum() - conflict[q, q]) / 2)
    assert point.mloss == pytest.approx(np.mean([n.mean() for n in last.record.scores().values()]))
    norms = last.vectors["norms"]
    assert point.apart == pytest.approx(2 * norms[q] / (norms.sum() - norms[q]))
    assert 0 < point.overlap < 1 and last.vectors["overlap"].shape == (3, 4)


def test_what_the_grid_asks_is_checked(family, start):
    for changes in ({"rate": (0.0,)}, {"steps": (0,)}, {"tasks": ("pears",)}):
        with pytest.raises(InputError):
            experts.experts(family, start, Grid(**changes))
    cells = experts.experts(family, start, None)[0].cells
    assert len(cells) == 2 + 3 * 16 * 2
    assert {c.task for c in cells if isinstance(c, ExpertCell)} == {"apples", "bridges"}


def test_a_rate_that_ends_in_no_number_is_named(family, start):
    grid = Grid(rate=(1e30,), steps=(3,), batch=(4,), tasks=("apples",))
    with pytest.raises(InputError) as caught:
        done(family, start, grid)
    assert caught.value.field == "rate" and "no number" in str(caught.value)


# What follows.


def answers(right: int, first: int = 0) -> np.ndarray:
    """So many of N pictures are answered correctly, evenly mixed, another few for each `first`."""
    order = np.random.default_rng(first).permutation(N)
    hits = np.zeros(N, bool)
    hits[order[:right]] = True
    return hits


def point(rate: float, steps: int, own: int, merged: int, **measures: float) -> Point:
    hits = {"a": answers(merged), "b": answers(merged, 1)}
    usual = {"norm": rate * steps, "apart": rate * steps / 0.1, "mloss": 1.0, "conflict": 0.4}
    return Point(
        task="a", rate=rate, steps=steps, batch=32, own=answers(own),
        merged={"simple-average": hits, "ties": hits}, **{**usual, "overlap": 0.2, **measures},
    )  # fmt: skip


RATES, STEPS = (1e-4, 1e-3, 1e-2, 1e-1), (10, 30, 100, 300)


def simulated(merged) -> list[Point]:
    """A grid whose merges answer merged(place of the rate, place of the steps) pictures."""
    return [
        point(rate, steps, 200 + 10 * (i + j), merged(i, j))
        for i, rate in enumerate(RATES)
        for j, steps in enumerate(STEPS)
    ]


def test_a_grid_whose_long_trainings_hurt_says_so():
    grid = simulated(lambda i, j: 320 - 60 * max(0, i + j - 3))
    rows = list(falls(grid, "ties", "steps"))
    assert [fall.collapse.there for fall in rows] == [False, True, True, True]
    worst = rows[-1]
    assert (worst.best.steps, worst.last.steps) == (10, 300) and worst.own.low > 0
    assert worst.collapse.comparison.difference == pytest.approx(45, abs=8)
    text = "\n".join(words(grid))
    assert "holds here in part" in text and "in 6 of 8 rows" in text
    assert "In 6 of these 6 the expert alone gained" in text
    told = advice_of(grid)
    assert "rate 0.1, 300 steps" in told and "moved norms apart by 300.0" in told


def test_a_grid_without_a_fall_says_that_none_is_shown():
    grid = simulated(lambda i, j: 200 + 20 * j)
    text = "\n".join(words(grid))
    assert (
        "is not shown here" in text
        and "in 0 of 8 rows, not shown to be in 0, and the best itself in 8" in text
    )
    assert "none is shown to merge worse" in advice_of(grid)
    assert advice_of([]) is None and not list(words([]))


def test_a_fall_is_judged_on_pictures_that_did_not_choose():
    """Merges that are all alike fall by chance in about one row of forty."""
    rng, there = np.random.default_rng(0), 0
    for _ in range(200):
        row = []
        for steps in STEPS:
            hits = {task: rng.random(N) < 0.5 for task in ("a", "b")}
            one = point(1e-3, steps, 100, 100)
            row.append(Point(**{**vars(one), "merged": {"ties": hits}}))
        (fall,) = falls(row, "ties", "steps")
        there += fall.collapse.there
    assert there <= 14  # 5 are expected; 14 or more come in one of two thousand


def test_rank_correlations_are_scipys_and_their_intervals_hold_them():
    rng = np.random.default_rng(1)
    grid = [
        point(rate, steps, 200 + i + 4 * j, 300 - 20 * (i + j), mloss=float(rng.random()))
        for i, rate in enumerate(RATES)
        for j, steps in enumerate(STEPS)
    ]
    values = correlations(grid, "ties")
    assert "batch" not in values and "conflict" not in values  # they do not vary
    reached = [p.mean("ties")[0] for p in grid]
    for name, value in values.items():
        column = [PREDICTORS[name][1](p) for p in grid]
        assert value.rho == pytest.approx(spearmanr(column, reached)[0])
        low, high = value.by_models
        assert low <= value.rho <= high
    assert values["norm"].by_models[1] < 0
    low, high = values["mloss"].by_models
    assert low < 0 < high
    # Rows drawn anew leave more open than points drawn as if they had nothing in common.
    apart, alike = values["mloss"].by_sets, values["mloss"].by_models
    assert alike[1] - alike[0] > apart[1] - apart[0]
    text = "\n".join(words(grid))
    assert "these go with merged accuracy: norm -" in text and "not what causes it" in text


def test_a_small_grid_has_no_correlation(on_disk):
    assert all(math.isnan(v.rho) for v in correlations(points(on_disk), "ties").values())


# What is shown.


def test_the_section_has_a_row_for_every_expert_and_says_what_follows(family, on_disk):
    text = "\n\n".join(section("experts", family, on_disk))
    assert text.count("| 0.001 ") == text.count("| 0.01 ") == 2
    for heading in ("alone", "TIES, mean", "norm", "M-Loss", "sign conflict", "alignment"):
        assert heading in text
    said = claims("experts", on_disk, rows(on_disk, family.model))
    assert said and all(line in text for line in said)
    assert "merged by TIES" in text and "the base" in text and "unknown" in text


def test_advice_reads_what_is_on_disk(family, start, on_disk, runs):
    assert "Of the fine-tunes measured on this family, at rates from 0.001 to 0.01" in advice(
        family, start, "cpu"
    )
    shutil.rmtree(runs / experts.FOLDER)
    assert advice(family, start, "cpu") is None


def test_the_figures_draw_what_was_measured(on_disk):
    grid = points(on_disk)
    figure = expert_figures.curves(grid, {"apples": "Apples"})
    merged, alone = figure.data[:2]
    assert list(merged.x) == [2, 4] and alone.line.dash == "dash"
    assert list(merged.y) == [p.mean("simple-average")[0] for p in grid[:2]]
    assert list(alone.y) == [p.own_accuracy.rate for p in grid[:2]]
    maps = {
        trace.hovertemplate.split("<br>")[1][:4]: trace for trace in expert_figures.maps(grid).data
    }
    assert len(maps) >= 6
    norm = maps["norm"]
    np.testing.assert_allclose(norm.z, [[grid[0].norm, grid[1].norm], [grid[2].norm, grid[3].norm]])


def test_the_command_takes_a_grid_and_refuses_one_elsewhere(cli, family):
    options = ["--family=tiny", "--samples=6", "--device=cpu", "--tasks=apples"]
    outcome = cli("experiment", "experts", *options, "--rates=1e-3", "--steps=2", "--batches=4")
    assert outcome.status == 0 and outcome.out.count("| 0.001 ") == 1, outcome.err
    for arguments, shown in (
        (["experts", "--rates=1e-3,fast"], "--rates"), (["experts", "--steps=1.5"], "--steps"),
        (["experts", "--batches=0"], "--batches"), (["experts", "--tasks=pears"], "--tasks"),
        (["controls", "--rates=1e-3"], "--rates"),
    ):  # fmt: skip
        outcome = cli("experiment", *arguments, "--family=tiny")
        assert outcome.status == 2 and shown in outcome.err and outcome.err.count("\n") == 1
