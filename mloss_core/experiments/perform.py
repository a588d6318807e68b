"""Execution of an experiment cell by cell, resuming from cells measured before."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import UnknownName
from ..families.family import Family
from ..hardware import device as devices
from ..recipe import check
from ..runs.cells import Cell, Lab
from ..runs.engines import Elsewhere, Engine
from ..runs.store import RunRecord
from ..training.events import TrainingEvent
from ..types import Event, MergeRecipe
from .experts import ExpertCell, Experts, vectors
from .plans import EXPERIMENTS
from .steps import Plan


@dataclass(frozen=True, kw_only=True)
class CellDone:
    """The event that a cell's outcome is available.

    Args:
        cached: whether it was found on disk.
        done, total: cells so far, and in all.
        left: seconds that the rest will take, about; None before one was measured.
        seconds: that this one took now.
        vectors: of a cell that measures an expert's task vector, see `experts.vectors`.
    """

    cell: Cell
    record: RunRecord
    cached: bool
    done: int
    total: int
    left: float | None
    seconds: float
    vectors: Mapping[str, np.ndarray] = field(default_factory=dict)


def start_recipe(family: Family, **changes: Any) -> MergeRecipe:
    """M-TIES of all sources as the family's makers recommend it, with changes."""
    fields = {"method": "m-ties", "sources": family.sources, **family.recommended("m-ties")}
    return MergeRecipe(family=family.name, **(fields | changes))


def perform(
    name: str,
    family: Family,
    start: MergeRecipe,
    device: str = "auto",
    lab: Lab | None = None,
    plan: Plan | None = None,
    engine: Engine | None = None,
) -> Generator[Event | TrainingEvent | CellDone, None, None]:
    """Measures an experiment's cells in order, passing on their events.

    What was measured before, by anybody, is found on disk and not measured again; that is how an
    experiment that was stopped or killed goes on.

    Args:
        name: a key of EXPERIMENTS.
        start: gives sources, weights, k, e, lambda, samples and seed, as far as the experiment
            does not vary them.
        lab: of the same family and device, for what it remembers; None starts afresh.
        plan: instead of the experiment's own, such as one of another grid of experts.
        engine: where cells are measured; None for this process, which alone passes on events
            within a cell.

    Raises:
        InputError: before any work, where the recipe or the files are wrong.
        WorkerLost: the engine's workers died on a cell, again and again.
    """
    if name not in EXPERIMENTS:
        raise UnknownName("experiment", name, EXPERIMENTS)
    check(start, family)
    lab = lab or Lab(family, devices.choose(device))
    plan = EXPERIMENTS[name].plan(family, start) if plan is None else plan
    experts = Experts(lab)
    progress = _Progress(total=cells_of(plan), workers=engine.workers if engine else 1)
    for step in plan:
        records = yield from _measured(step.cells, experts, progress, engine)
        if step.then is not None:
            yield from _measured(step.then(records), experts, progress, engine)


def count(name: str, family: Family, start: MergeRecipe) -> int:
    """The number of an experiment's cells."""
    return cells_of(EXPERIMENTS[name].plan(family, start))


def cells_of(plan: Plan) -> int:
    """The number of a plan's cells."""
    return sum(step.count for step in plan)


def experts_on_disk(start: MergeRecipe, lab: Lab) -> list[CellDone]:
    """The cells of the family's experts that were measured before; nothing is measured now."""
    experts, kept = Experts(lab), []
    for cell in experts.cells(start):
        outcome = _on_disk(cell, experts)
        if outcome is not None:
            record, arrays = outcome
            kept.append(
                CellDone(
                    cell=cell, record=record, cached=True, done=len(kept) + 1,
                    total=len(kept) + 1, left=None, seconds=0.0, vectors=arrays,
                )
            )  # fmt: skip
    return kept


@dataclass
class _Progress:
    """How far an experiment is: cells so far and in all, and seconds of those measured now."""

    total: int
    workers: int
    done: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def left(self) -> float | None:
        """Seconds that the rest will take, about; None before one was measured."""
        if not self.seconds:
            return None
        return float(np.mean(self.seconds)) * (self.total - self.done) / self.workers


def _measured(
    cells: Sequence[Cell], experts: Experts, progress: _Progress, engine: Engine | None
) -> Generator[Event | TrainingEvent | CellDone, None, list[RunRecord]]:
    """Measures cells in turn, here or elsewhere, or reads them from disk; returns their records."""
    records, elsewhere = [], None
    if engine:
        elsewhere = Elsewhere(engine, experts.lab, cells, in_turn, lambda c: _on_disk(c, experts))
    for cell in cells:
        begun = time.perf_counter()
        outcome, seconds = elsewhere.outcome(cell) if elsewhere else (_on_disk(cell, experts), None)
        cached = outcome is not None and seconds is None
        if outcome is None:
            outcome = yield from _computed(cell, experts)
        record, arrays = outcome
        seconds = time.perf_counter() - begun if seconds is None else seconds
        progress.done += 1
        progress.seconds += [] if cached else [seconds]
        yield CellDone(
            cell=cell, record=record, cached=cached, done=progress.done, total=progress.total,
            left=progress.left, seconds=seconds, vectors=arrays,
        )  # fmt: skip
        records.append(record)
    return records


Outcome = tuple[RunRecord, dict[str, np.ndarray]]  # a cell's run, and an expert's `vectors`


def _on_disk(cell: Cell, experts: Experts) -> Outcome | None:
    """What was measured of a cell before; None where any of it is missing."""
    lab = experts.kept(cell) if isinstance(cell, ExpertCell) else experts.lab
    record = lab.cached_run(cell) if lab else None
    of_vectors = isinstance(cell, ExpertCell) and cell.of_vectors
    arrays = lab.cached_arrays(cell) if lab and of_vectors else {}
    return None if record is None or arrays is None else (record, arrays)


def _computed(cell: Cell, experts: Experts) -> Generator[Event | TrainingEvent, None, Outcome]:
    """Measures a cell in this process, what of it is missing; trains its expert before."""
    lab = experts.lab
    if isinstance(cell, ExpertCell):
        lab = yield from experts.trained(cell)
    record = lab.cached_run(cell)
    if record is None:
        record = yield from lab.compute(cell)
    of_vectors = isinstance(cell, ExpertCell) and cell.of_vectors
    return record, vectors(lab, cell) if of_vectors else {}


def in_turn(lab: Lab, cells: Sequence[Cell]) -> list[float]:
    """Measures a worker's cells; returns the seconds of each."""
    experts, seconds = Experts(lab), []
    for cell in cells:
        begun = time.perf_counter()
        for _ in _computed(cell, experts):
            pass  # a worker has nobody to show its events to
        seconds.append(time.perf_counter() - begun)
    return seconds
