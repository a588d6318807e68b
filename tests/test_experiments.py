"""Experiments: what they measure, once each, and that no choice sees a test image."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mloss_core import InputError, MergeRecipe, list_runs
from mloss_core.experiments import (
    EXPERIMENTS,
    CellDone,
    Lab,
    claims,
    experts,
    perform,
    plans,
    rows,
    search,
    start_recipe,
)
from mloss_core.experiments.perform import count
from mloss_core.experiments.steps import cell_of
from mloss_core.families.family import Family
from mloss_core.hardware.device import choose

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def short(monkeypatch):
    shorten(monkeypatch)


def shorten(monkeypatch):
    """Few settings: the tiny family's accuracies mean nothing anyway."""
    monkeypatch.setattr(search, "KEEP", (0.2, 0.6))
    monkeypatch.setattr(search, "SCALING_TRIMMED", (0.5, 1.0))
    monkeypatch.setattr(search, "SCALING", (1.0, 2.0))
    monkeypatch.setattr(search, "VARIATION", ())
    # Of each method the first settings, of matrices two; training takes two steps.
    first = {m: {f: values[:1] for f, values in of.items()} for m, of in search.TRIED.items()}
    first |= {"tsv-m": {"scaling": (0.5, 1.0)}, "wudi": {"steps": (2,), "rate": (1e-3,)}}
    first |= {name: {"steps": (2,)} for name in ("adamerging", "samerging")}
    monkeypatch.setattr(search, "TRIED", first)
    monkeypatch.setattr(plans, "GRID_KEEP", (0.1, 0.5))
    monkeypatch.setattr(plans, "GRID_VARIATION", (0.0, 0.1, 0.2))
    monkeypatch.setattr(plans, "SIZES", (6, 24, 512))
    monkeypatch.setattr(plans, "RANDOM_DRAWS", 3)
    monkeypatch.setattr(plans, "RUNNERS_UP", 2)
    monkeypatch.setattr(experts, "RATES", (1e-3, 1e-2))
    monkeypatch.setattr(experts, "STEPS", (1, 2))
    monkeypatch.setattr(experts, "TASKS", 1)


@pytest.fixture
def start(family) -> MergeRecipe:
    return start_recipe(family, samples=6)


def done(name, family, start, lab=None) -> list[CellDone]:
    events = perform(name, family, start, device="cpu", lab=lab)
    return [event for event in events if isinstance(event, CellDone)]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_counts_its_cells_and_says_what_follows(
    name, family, start, short, measured_methods
):
    cells = measured_methods.cells if name == "methods" else done(name, family, start)
    assert [d.done for d in cells] == list(range(1, len(cells) + 1))
    assert {d.total for d in cells} <= {len(cells)}
    assert len(cells) == count(name, family, start)
    table = rows(cells, family.model)
    words = claims(name, cells, table)
    if name == "out-of-domain":  # the tiny family has no such task
        assert not cells and not words
        return
    assert table and words and all(word.strip() for word in words)
    for row in table:
        mean, low, high = row.mean
        assert low <= mean <= high and {len(h) for h in row.answers.values()} == {12}


def test_the_papers_settings_are_tried_and_tested(family, start):
    tried = list(search.candidates("m-ties", start))
    (paper,) = filter(search.of_paper, tried)
    assert (paper.keep, paper.variation, paper.scaling) == (0.8, 0.1, 1.0)
    assert len(set(tried)) == len(tried) and all(r.variation <= r.keep for r in tried)
    last = [*(r for r in tried if r is not paper), paper]  # the paper's own came last
    cells = plans._runners_up(last, family.tasks, 5)
    assert [c.recipe for c in cells] == [*last[1:5], paper]
    assert cells[-1].label == f"M-TIES, place {len(tried)}"


def test_every_gain_over_ties_has_rows_trimmed_alike_beside_it(family, start, short):
    for name in ("keep-and-variation", "controls"):
        cells = [
            cell for step in plans.EXPERIMENTS[name].plan(family, start) for cell in step.cells
        ]
        ours = [
            c.recipe for c in cells if (c.recipe.method, c.recipe.ranks) == ("m-ties", "m-loss")
        ]
        alike = {(r.keep, r.variation) for c in cells if (r := c.recipe).ranks == "equal"}
        ties = {c.recipe.keep for c in cells if c.recipe.method == "ties"}
        assert ours and {(r.keep, r.variation) for r in ours} == alike
        assert {r.keep for r in ours} == ties and set(plans.GRID_KEEP) <= ties


def test_a_second_run_measures_nothing(family, start, short, monkeypatch, runs, measured_methods):
    first = measured_methods.cells
    measured_methods.copied_to(runs)
    monkeypatch.setattr(Lab, "compute", lambda *a: pytest.fail("measured again"))
    second = done("methods", family, start)
    assert all(d.cached for d in second) and not all(d.cached for d in first)
    for one, other in zip(first, second, strict=True):
        assert one.cell == other.cell
        for model, tasks in one.record.hits.items():
            for task, hits in tasks.items():
                np.testing.assert_array_equal(hits, other.record.hits[model][task])


def test_cells_are_those_of_single_merges(family, start, short):
    """A cell's accuracies are what `run` measures of its recipe, image by image."""
    from mloss_core import Evaluator, TaskEvaluated, run

    (cell,) = [d for d in done("controls", family, start) if d.cell.label == "k = 0.5: M-TIES"]
    evaluator = Evaluator(family, choose("cpu"))
    events = run(start, family, device="cpu", evaluator=evaluator, tasks=family.tasks)
    merged = [e for e in events if isinstance(e, TaskEvaluated) and e.model == "merged"]
    for task in family.tasks:
        last = [e for e in merged if e.task == task and e.block is None][-1]
        np.testing.assert_array_equal(last.hits, cell.record.hits["merged"][task])


def test_choosing_settings_opens_no_test_image(family, start, short, monkeypatch):
    opened, task = [], Family.task

    def watched(self, name, split="test"):
        opened.append(split)
        return task(self, name, split)

    monkeypatch.setattr(Family, "task", watched)
    lab, chosen = Lab(family, choose("cpu")), []
    step = search.searched("m-ties", start, plans.own_tasks(family, start), chosen.append)
    for cell in step.cells:
        for _ in lab.compute(cell):
            pass
    step.then([lab.cached_run(cell) for cell in step.cells])
    assert set(chosen[0]) == set(search.candidates("m-ties", start))
    assert set(opened) == {"val"}


def test_other_test_images_change_no_choice(own_family, short, measured_methods):
    """The same settings are chosen when all test labels are different."""
    from mloss_core import load

    def settings(cells):
        return {d.cell.label: d.cell.recipe for d in cells if d.cell.split == "test"}

    before = settings(measured_methods.cells)
    for path in (own_family / "tasks").glob("*.npz"):
        with np.load(path) as file:
            arrays = {key: file[key] for key in file.files}
        arrays["labels"] = (arrays["labels"] + 1) % 4
        np.savez(path, **arrays)
    after = done("methods", load("tiny"), start_recipe(load("tiny"), samples=6))
    assert not any(d.cached for d in after) and settings(after) == before


def test_what_decides_a_cell_decides_its_name(family, start, own_family):
    from mloss_core import load

    lab, cell = Lab(load("tiny"), choose("cpu")), cell_of(start, family.tasks)
    same = cell_of(start, family.tasks, "another label")
    assert lab.id(cell) == lab.id(same)
    others = [
        cell_of(start, family.tasks, keep=0.3),
        cell_of(start, family.tasks, seed=1),
        cell_of(start, family.tasks, samples=5),
        cell_of(start, family.tasks[:2]),
        cell_of(start, family.tasks, sources=start.sources[:2]),
    ]
    assert len({lab.id(c) for c in (cell, *others)}) == 6
    for part in ("tasks/apples.npz", "heads.safetensors", "calibration.npz"):
        before = Lab(load("tiny"), choose("cpu")).id(cell)
        change(own_family / part)
        assert Lab(load("tiny"), choose("cpu")).id(cell) != before, part


def change(path: Path) -> None:
    """Writes something else of the same shape."""
    from safetensors.numpy import load_file, save_file

    if path.suffix == ".npz":
        with np.load(path) as file:
            arrays = {key: file[key] for key in file.files}
        arrays["images"] = 255 - arrays["images"]
        np.savez(path, **arrays)
    else:
        save_file({k: -v for k, v in load_file(path).items()}, path)


def test_a_cancelled_cell_is_measured_again(family, start, short):
    events = perform("keep-and-variation", family, start, device="cpu")
    next(events)
    events.close()
    (stopped,) = list_runs(kinds=("cell",))
    assert stopped.state == "cancelled"
    assert not done("keep-and-variation", family, start)[0].cached
    assert {run.state for run in list_runs(kinds=("cell",))} == {"finished"}


# The command line on the fixture `short`'s grid, and so slowly that it can be killed between cells.
SLOWLY = """
import sys, time
import pytest
from mloss_core.__main__ import main
from mloss_core.experiments import Lab
from test_experiments import shorten
shorten(pytest.MonkeyPatch())
compute = Lab.compute
Lab.compute = lambda *arguments: time.sleep(1) or compute(*arguments)
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_experiment_resumes_and_ends_with_the_same_table(
    family, models, tmp_path, cli, short, monkeypatch
):
    arguments = ["experiment", "keep-and-variation", "--family=tiny", "--samples=6", "--device=cpu"]
    arguments += ["--engine=process"]
    folder = tmp_path / "killed"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    env = {"MLOSS_MODELS": str(models), "MLOSS_RUNS": str(folder), "PYTHONPATH": paths}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, *arguments],
        cwd=ROOT, env=os.environ | env, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(list(folder.glob("cell-*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    some = len(list(folder.glob("cell-*")))
    assert 3 <= some < count_of_grid()

    def output(where, *more):
        monkeypatch.setenv("MLOSS_RUNS", str(tmp_path / where))
        outcome = cli(*arguments, *more)
        assert outcome.status == 0, outcome.err
        return outcome.out

    assert output("killed", "--json").count('"cached": true') == some
    tables = [without_seconds(output(where)) for where in ("killed", "whole")]
    assert tables[0] == tables[1]


def count_of_grid() -> int:
    return sum((1 + (e > 0)) * (e <= k) for k in plans.GRID_KEEP for e in plans.GRID_VARIATION)


def without_seconds(table: str) -> list[list[str]]:
    """The table's cells but for measured seconds and memory."""
    cells = [line.split("|") for line in table.splitlines() if line.startswith("| ")]
    heads = cells[0]
    skipped = [i for i, head in enumerate(heads) if head.strip() in ("merging, s", "memory, MB")]
    own = [line for line in cells if len(line) == len(heads)]
    assert skipped and len(own) > 3
    return [[cell for i, cell in enumerate(line) if i not in skipped] for line in own]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["table-9"], ("experiment", "table-9", "controls")),
        (["controls", "--keep=2"], ("--keep", "2")),
        (["controls", "--sources=apples"], ("--sources", "too few")),
        (["controls", "--samples=900"], ("--samples", "900")),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, words, cli, family):
    outcome = cli("experiment", *arguments, "--family=tiny")
    assert outcome.status == 2 and outcome.err.count("\n") == 1
    assert [word for word in words if word not in outcome.err] == []
    assert list_runs(kinds=("cell",)) == []


def test_the_report_has_a_section_for_every_table(
    cli, family, tmp_path, short, runs, measured_methods
):
    measured_methods.copied_to(runs)
    out = tmp_path / "findings.md"
    assert cli("experiment", "all", "--family=tiny", "--samples=6", "--out", out).status == 0
    text = out.read_text()
    for heading in (*(f"## Table {n}" for n in range(1, 7)), "## Controls"):
        assert heading in text
    assert "Nothing to measure" in text.split("## Table 4")[1].split("## ")[0]
    again = cli("experiment", "all", "--family=tiny", "--out", out)
    assert again.status == 2 and "never overwritten" in again.err


def test_an_analysis_knows_no_experiment_and_runs_know_neither():
    core = ROOT / "mloss_core"
    for path in (core / "analysis").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert "experiments" not in (node.module or "").split("."), path
    for path in (core / "runs").rglob("*.py"):
        text = path.read_text()
        assert "..experiments" not in text and "..analysis" not in text, path


def test_an_unknown_experiment_is_named(family, start):
    with pytest.raises(InputError, match="table-9"):
        next(perform("table-9", family, start))
