"""Background jobs that pages start: references, scores, merges, experiments, theory."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import numpy as np
import streamlit as st

from mloss_core import (
    METHODS,
    Family,
    Finished,
    InputError,
    MergeRecipe,
    TaskEvaluated,
    recorded,
    run,
)
from mloss_core.analysis.compatibility.ensemble_gap import ensemble_gap
from mloss_core.analysis.compatibility.prediction import TRIPLES, DropMeasured, sets_of, study
from mloss_core.analysis.compatibility.sets import compatibility_sets, losses_of_sets
from mloss_core.analysis.compatibility.sign_conflict import SignsCounted, count_signs
from mloss_core.analysis.leave_one_out import losses_along
from mloss_core.analysis.theory import theory as measure_theory
from mloss_core.analysis.trace import TracedBlock, trace_blocks
from mloss_core.experiments import EXPERIMENTS, CellDone, Lab, count, perform
from mloss_core.mloss import SetLosses
from mloss_core.run import Merge, launch
from mloss_core.run import references as references_stages
from mloss_core.runs.store import new_id
from mloss_core.types import Planned
from views.state import session
from views.state.job_board import Job

Events = Generator[Any, None, None]
NARROW = 256  # widest model that is measured without being asked


def own_tasks(family: Family) -> tuple[str, ...]:
    """The tasks that a source was fine-tuned on: the readouts of a merge."""
    return family.own_tasks(family.sources)


def references(family: Family, again: bool = False) -> Job:
    """Base, own sources and, after them, TIES as recommended and the ensemble, on all test
    images: idle work, done once.

    Args:
        again: also if it failed; otherwise every redrawn page would begin what fails again.
    """
    tasks, recipe = own_tasks(family), recommended(family)
    # Those that share a task come one by one, after the first.
    shared = [s for s in family.sources if s not in tasks and family.own_task(s) in tasks]
    stages = references_stages(("own", "base", "ties", "ensembling", *shared))

    def events() -> Events:
        evaluator = session.evaluator(family.name)
        return run(recipe, family, stages=stages, evaluator=evaluator, tasks=tasks)

    board, spec = session.board(), _files(family)
    return board.find("references", spec, failed=not again) or board.submit(
        "references",
        "Measuring the sources",
        events,
        spec=spec,
        idle=True,
    )


def known_references(family: Family) -> dict[tuple[str, str], np.ndarray]:
    """What has been measured of base, own sources and the like so far: hits by model and task.

    A launched merge has measured base and own sources, too.
    """
    board = session.board()
    try:
        job, files = board.find("references", _files(family), failed=True), _hashes(family)
    except InputError:
        return {}  # the job that needs the damaged file says so
    hits = {}
    for merge in board.finished("merge"):
        if merge.spec.family == family.name and _hashes_of(merge.events[-1]) <= files:
            hits |= _hits(merge.events, ("base", "own"), "references")
    return hits | (_hits(job.events) if job else {})


def _hits(
    events: Sequence[Any], models: Sequence[str] = (), stage: str = ""
) -> dict[tuple[str, str], np.ndarray]:
    """Whole models' answers by model and task, of these models and this stage where given."""
    return {
        (e.model, e.task): e.hits
        for e in list(events)
        if isinstance(e, TaskEvaluated)
        and e.block is None
        and (not models or (e.model in models and e.stage == stage))
    }


def _hashes(family: Family) -> set[Any]:
    return {family.base().sha256, *(family.source(s).sha256 for s in family.sources)}


def _hashes_of(merge: Finished) -> set[Any]:
    described: Any = merge.metadata
    return {described["base"], *described["sources"].values()}


def _files(family: Family) -> tuple:
    """What decides the references: the sources' content."""
    return family.name, tuple(family.source(s).sha256 for s in family.sources)


def recommended(family: Family) -> MergeRecipe:
    """M-TIES of all sources as the family's makers recommend it."""
    values: dict[str, Any] = family.recommended("m-ties")
    return MergeRecipe(family=family.name, method="m-ties", sources=family.sources, **values)


def begin_references(family: Family) -> None:
    """Starts that background work for families that any machine evaluates in a minute."""
    if family.model.width <= NARROW:
        references(family)


def score(family: Family, recipe: MergeRecipe) -> Job:
    """M-Loss of every block along an M-TIES merge of the recipe, recorded as a run."""

    def events() -> Events:
        merge = run(recipe, family, stages=(Merge(),))
        with contextlib.closing(recorded(merge, recipe, kind="score", keep_model=False)) as log:
            yield from map(without_weights, log)

    board = session.board()
    return board.find("score", recipe) or board.submit(
        "score", "M-Loss of every block", events, spec=recipe
    )


def merge(family: Family, recipe: MergeRecipe) -> Job:
    """A merge with live accuracies, recorded as a run; its result is the run's id."""
    tasks, name = own_tasks(family), new_id(recipe)

    def events() -> Events:
        evaluator = session.evaluator(family.name)
        work = run(recipe, family, stages=launch(), evaluator=evaluator, tasks=tasks)
        with contextlib.closing(recorded(work, recipe, kind="merge", id=name)) as log:
            yield from map(without_weights, log)

    title = f"Merging {len(recipe.sources)} sources: {METHODS[recipe.method].title}"
    return session.board().submit("merge", title, events, spec=recipe, finish=lambda log: name)


def experiment(name: str, family: Family, recipe: MergeRecipe) -> Job:
    """An experiment's cells; what happens within them is only a place to stop."""
    board = session.board()

    def events() -> Events:
        evaluator = session.evaluator(family.name)
        lab = Lab(family, evaluator.device, evaluator)
        with contextlib.closing(perform(name, family, recipe, lab=lab)) as log:
            yield Planned(steps=count(name, family, recipe))
            yield from (event if isinstance(event, CellDone) else None for event in log)

    return board.find("experiment", (name, recipe)) or board.submit(
        "experiment", EXPERIMENTS[name].title, events, spec=(name, recipe)
    )


def without_weights(event: Any) -> Any:
    """The event as a board keeps it, which must not hold every merged model in memory."""
    finished = isinstance(event, Finished)
    return dataclasses.replace(event, weights=None) if finished else event


def theory(family: Family, recipe: MergeRecipe) -> Job:
    """Predicted and measured M-Loss of every block along an M-TIES merge of the recipe."""
    board = session.board()
    return board.find("theory", recipe) or board.submit(
        "theory",
        "Theory beside measurement, every block",
        lambda: _planned(family.model.blocks, measure_theory(recipe, family)),
        spec=recipe,
    )


def measure(family: Family, recipe: MergeRecipe) -> Job:
    """M-Loss of pairs, of the set and of the set without each source; then sign conflicts."""

    def events() -> Events:
        yield Planned(steps=2 * family.model.blocks + 1)
        yield from losses_of_sets(recipe, family, compatibility_sets(recipe))
        yield from count_signs(recipe, family)

    return _find_or_submit("compatibility", "Measuring compatibility", events, recipe)


def study_recipe(family: Family, sources: Sequence[str], rule: str, **settings: int) -> MergeRecipe:
    """How the prediction study merges: as the family's makers recommend."""
    values: dict[str, Any] = {**family.recommended(rule), "variation": 0.0, **settings}
    return MergeRecipe(family=family.name, method=rule, sources=tuple(sources), **values)


def find_job(kind: str, spec: Any) -> Job | None:
    """The job of that kind that was asked this, also where it failed."""
    return session.board().find(kind, spec, failed=True)


def predict(family: Family, recipe: MergeRecipe) -> Job:
    """Every pair and some triples, merged and evaluated."""

    def events() -> Events:
        yield Planned(steps=2 * family.model.blocks + 1 + sets)
        for event in study(recipe, session.evaluator(family.name), TRIPLES):
            yield event if isinstance(event, SetLosses | SignsCounted | DropMeasured) else None

    sets = len(sets_of(len(recipe.sources), TRIPLES, recipe.seed))
    title = f"Merging {sets} sets by {METHODS[recipe.method].title}"
    return _find_or_submit("study", title, events, recipe)


def gap(family: Family, recipe: MergeRecipe, tasks: Sequence[str]) -> Job:
    """Distances of M-TIES, TIES and rows trimmed alike to the ensemble."""

    def events() -> Events:
        yield from ensemble_gap(recipe, session.evaluator(family.name), tasks)

    return _find_or_submit("gap", "Measuring the ensemble gap", events, recipe)


def _find_or_submit(kind: str, title: str, events: Any, spec: Any) -> Job:
    job = session.board().find(kind, spec)
    return job or session.board().submit(kind, title, events, spec=spec)


def _planned(steps: int, events: Iterable[Any]) -> Events:
    """Events that each are a step, planned before the first."""
    yield Planned(steps=steps)
    yield from events


KEPT = 2  # blocks that stay looked into: each holds its inputs of all images


def factors_job(family: Family, recipe: MergeRecipe) -> Job | None:
    """Both factors of every node, the Theory page's own job."""
    ask = "Measure curvature and variance"
    return _job_or_button(family, "theory", recipe, ask, lambda: theory(family, recipe))


def look(family: Family, recipe: MergeRecipe, block: int) -> Job:
    """What a block's c_fc sees; the result is that of `TracedBlock.on_cpu`."""
    spec = (recipe, block)

    def events() -> Events:
        def kept(block_data: TracedBlock) -> TracedBlock | None:
            return block_data.on_cpu() if block_data.scores.block == block else None

        with contextlib.closing(trace_blocks(recipe, family, kept)) as blocks:
            yield Planned(steps=block + 1)
            for block_data in blocks:
                yield block_data
                if block_data is not None:
                    return

    board = session.board()
    return board.find("look", spec) or board.submit(
        "look", f"Looking into block {block}", events, spec=spec,
        finish=lambda log: log[-1], keep=KEPT,
    )  # fmt: skip


def block_job(family: Family, recipe: MergeRecipe, block: int) -> Job | None:
    """The same once somebody asks for it, or by itself in small families."""
    return _job_or_button(
        family, "look", (recipe, block), f"Look into block {block}",
        lambda: look(family, recipe, block),
    )  # fmt: skip


def culprits_job(family: Family, recipe: MergeRecipe) -> Job | None:
    """M-Loss of all sources, of all but each one, and of all pairs, along the map's merge."""

    def begin() -> Job:
        return session.board().submit(
            "culprits", "M-Loss without each source",
            lambda: _planned(
                family.model.blocks, losses_along(recipe, family, compatibility_sets(recipe))
            ),
            spec=recipe,
        )  # fmt: skip

    return _job_or_button(family, "culprits", recipe, "Measure M-Loss without each source", begin)


def map_job(family: Family, recipe: MergeRecipe, what: str) -> Job | None:
    """The map of that recipe, recorded as a run.

    Args:
        what: the map in words, for the button.
    """
    ask = f"Measure M-Loss {what}"
    return _job_or_button(family, "score", recipe, ask, lambda: score(family, recipe))


def _job_or_button(
    family: Family, kind: str, spec: Any, label: str, begin: Callable[[], Job]
) -> Job | None:
    """The job of that kind and spec. Small families begin it by themselves; else, and after it
    failed or was cancelled, a button does."""
    job = session.board().last(kind, spec)
    if job is not None and job.state in ("queued", "running", "finished"):
        session.looked_at(job)
        return job
    alone = job is None and family.model.width <= NARROW
    if alone or st.button(label, key=f"ask-{kind}-{hash(spec)}"):
        job = session.begun(begin()) if alone else begin()
        session.head_start(job)
    return job
