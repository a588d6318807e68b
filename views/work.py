"""Background jobs that pages start: references, scores, merges, experiments, theory."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator
from typing import Any

import numpy as np

from mloss_core import (
    METHODS,
    BlockScored,
    Embedded,
    Family,
    Finished,
    InputError,
    MergeRecipe,
    TaskEvaluated,
    recorded,
    run,
)
from mloss_core.experiments import EXPERIMENTS, CellDone, Lab, count, perform
from mloss_core.live import live as merged_live
from mloss_core.run import references as evaluate_references
from mloss_core.store import new_id
from mloss_core.theory import theory as measure_theory

from . import session
from .jobs import GIVES_WAY, Job

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
    tasks = own_tasks(family)
    recipe = recommended(family)

    def events() -> Generator[Any, None, None]:
        evaluator = session.evaluator(family.name)
        for task in tasks:  # a few images at a time: whoever moves a slider waits no longer
            for source in (evaluator.own(task, family.sources), None):
                for seconds in evaluator.embed(source, task):
                    yield Embedded(source=source or "base", task=task, seconds=seconds)
        for label in ("own", "base", "ties", "ensembling"):
            yield from evaluate_references(evaluator, recipe, tasks, label, None)
        for source in family.sources:  # those that share a task, one by one
            if source not in tasks and (task := family.own_task(source)) in tasks:
                evaluation = evaluator.reference("own", task, (source,), (1.0,))
                yield dataclasses.replace(evaluation, model=source)

    board, spec = session.board(), _files(family)
    return board.find("references", spec, failed=not again) or board.submit(
        "references",
        "Measuring the sources",
        events,
        spec=spec,
        idle=True,
    )


def known_references(family: Family) -> dict[tuple[str, str], np.ndarray]:
    """What has been measured of base, own sources and the like so far: hits by model and task."""
    try:
        job = session.board().find("references", _files(family), failed=True)
    except InputError:
        return {}  # the job that needs the damaged file says so
    events = [e for e in list(job.events) if isinstance(e, TaskEvaluated)] if job else []
    return {(event.model, event.task): event.hits for event in events}


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

    def events() -> Generator[Any, None, None]:
        whole = recorded(run(recipe, family), recipe, kind="score", keep_model=False)
        with contextlib.closing(whole) as log:
            yield from (e for e in log if isinstance(e, BlockScored))

    board = session.board()
    return board.find("score", recipe) or board.submit(
        "score", "M-Loss of every block", events, spec=recipe, steps=family.model.blocks
    )


def merge(family: Family, recipe: MergeRecipe) -> Job:
    """A merge with live accuracies, recorded as a run; its result is the run's id."""
    tasks, name = own_tasks(family), new_id(recipe)

    def events() -> Generator[Any, None, None]:
        evaluator = session.evaluator(family.name)
        work = run(recipe, family, evaluator=evaluator, tasks=tasks)
        with contextlib.closing(recorded(work, recipe, kind="merge", id=name)) as log:
            for event in log:
                # The file holds them: a board of jobs must not keep every merged model in memory.
                yield dataclasses.replace(event, weights=None) if _holds(event) else event

    title = f"Merging {len(recipe.sources)} sources: {METHODS[recipe.method].title}"
    # Events of a run: scored and merged blocks, and an evaluation a task for each of live blocks,
    # three live references, two of the merge's end, and the whole references.
    steps = family.model.blocks * (2 + len(tasks)) + (9 + len(recipe.sources)) * len(tasks)
    return session.board().submit(
        "merge", title, events, spec=recipe, steps=steps, finish=lambda log: name
    )


def live(family: Family, recipe: MergeRecipe) -> Job:
    """A merge to look at, in place of the one asked for before; nothing is recorded."""
    tasks, board, desk = own_tasks(family), session.board(), session.desk()

    def events() -> Generator[Any, None, None]:
        evaluated = 0
        for event in merged_live(recipe, session.evaluator(family.name), tasks, desk=desk):
            yield dataclasses.replace(event, weights=None) if _holds(event) else event
            evaluated += isinstance(event, TaskEvaluated)
            if isinstance(event, TaskEvaluated) and evaluated == len(tasks):
                yield GIVES_WAY  # to all test images, when nobody waits for anything else

    return board.find("live", recipe) or board.replace(
        "live", "Live merge", events, spec=recipe, shown=False
    )


def can_be_live(recipe: MergeRecipe) -> bool:
    """Whether one model comes out, which can be judged on every task."""
    return METHODS[recipe.method].rule is not None


def experiment(name: str, family: Family, recipe: MergeRecipe) -> Job:
    """An experiment's cells; what happens within them is only a place to stop."""
    board = session.board()

    def events() -> Generator[Any, None, None]:
        evaluator = session.evaluator(family.name)
        lab = Lab(family, evaluator.device, evaluator)
        with contextlib.closing(perform(name, family, recipe, lab=lab)) as log:
            yield from (event if isinstance(event, CellDone) else None for event in log)

    # Of a cell: scored and merged blocks, evaluated tasks, its end and its record.
    steps = count(name, family, recipe) * (2 * family.model.blocks + len(recipe.sources) + 2)
    return board.find("experiment", (name, recipe)) or board.submit(
        "experiment", EXPERIMENTS[name].title, events, spec=(name, recipe), steps=steps
    )


def _holds(event: Any) -> bool:
    return isinstance(event, Finished) and event.weights is not None


def theory(family: Family, recipe: MergeRecipe) -> Job:
    """Predicted and measured M-Loss of every block along an M-TIES merge of the recipe."""
    board = session.board()
    return board.find("theory", recipe) or board.submit(
        "theory",
        "Theory beside measurement, every block",
        lambda: (block for block in measure_theory(recipe, family)),
        spec=recipe,
        steps=family.model.blocks,
    )
