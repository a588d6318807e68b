"""Execution of an experiment cell by cell, resuming from cells measured before."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import UnknownName
from ..families.family import Family
from ..hardware import device as devices
from ..recipe import check
from ..runs.cells import Cell, Lab
from ..runs.store import RunRecord
from ..types import Event, MergeRecipe
from .plans import EXPERIMENTS


@dataclass(frozen=True, kw_only=True)
class CellDone:
    """The event that a cell's outcome is available.

    Args:
        cached: whether it was found on disk.
        done, total: cells so far, and in all.
        left: seconds that the rest will take, about; None before one was measured.
        seconds: that this one took now.
    """

    cell: Cell
    record: RunRecord
    cached: bool
    done: int
    total: int
    left: float | None
    seconds: float


def start_recipe(family: Family, **changes: Any) -> MergeRecipe:
    """M-TIES of all sources as the family's makers recommend it, with changes."""
    fields = {"method": "m-ties", "sources": family.sources, **family.recommended("m-ties")}
    return MergeRecipe(family=family.name, **(fields | changes))


def perform(
    name: str, family: Family, start: MergeRecipe, device: str = "auto", lab: Lab | None = None
) -> Generator[Event | CellDone, None, None]:
    """Measures an experiment's cells in order, passing on their events.

    What was measured before, by anybody, is found on disk and not measured again; that is how an
    experiment that was stopped or killed goes on.

    Args:
        name: a key of EXPERIMENTS.
        start: gives sources, weights, k, e, lambda, samples and seed, as far as the experiment
            does not vary them.
        lab: of the same family and device, for what it remembers; None starts afresh.

    Raises:
        InputError: before any work, where the recipe or the files are wrong.
    """
    if name not in EXPERIMENTS:
        raise UnknownName("experiment", name, EXPERIMENTS)
    check(start, family)
    lab = lab or Lab(family, devices.choose(device))
    plan = EXPERIMENTS[name].plan(family, start)
    progress = _Progress(total=sum(step.count for step in plan))
    for step in plan:
        records = yield from _measured(step.cells, lab, progress)
        if step.then is not None:
            yield from _measured(step.then(records), lab, progress)


def count(name: str, family: Family, start: MergeRecipe) -> int:
    """The number of an experiment's cells."""
    return sum(step.count for step in EXPERIMENTS[name].plan(family, start))


@dataclass
class _Progress:
    """How far an experiment is: cells so far and in all, and seconds of those measured now."""

    total: int
    done: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def left(self) -> float | None:
        """Seconds that the rest will take, about; None before one was measured."""
        return float(np.mean(self.seconds)) * (self.total - self.done) if self.seconds else None


def _measured(
    cells: Sequence[Cell], lab: Lab, progress: _Progress
) -> Generator[Event | CellDone, None, list[RunRecord]]:
    """Measures cells in turn, or reads them from disk; returns their records."""
    records = []
    for cell in cells:
        begun = time.perf_counter()
        record = lab.cached_run(cell)
        cached = record is not None
        if record is None:
            record = yield from lab.compute(cell)
        seconds = time.perf_counter() - begun
        progress.done += 1
        progress.seconds += [] if cached else [seconds]
        yield CellDone(
            cell=cell, record=record, cached=cached, done=progress.done, total=progress.total,
            left=progress.left, seconds=seconds,
        )  # fmt: skip
        records.append(record)
    return records
