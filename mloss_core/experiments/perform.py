"""Execution of an experiment cell by cell, resuming from cells measured before."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from types import SimpleNamespace
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
    total = count(name, family, start)
    plan = EXPERIMENTS[name].plan(family, start)
    cell, done, measured = next(plan, None), 0, []
    while cell is not None:
        begun = time.perf_counter()
        record = lab.cached_run(cell)
        cached = record is not None
        if record is None:
            record = yield from lab.compute(cell)
        seconds, done = time.perf_counter() - begun, done + 1
        measured += [] if cached else [seconds]
        left = float(np.mean(measured)) * (total - done) if measured else None
        yield CellDone(
            cell=cell, record=record, cached=cached, done=done, total=total, left=left,
            seconds=seconds,
        )  # fmt: skip
        try:
            cell = plan.send(record)
        except StopIteration:
            return


def count(name: str, family: Family, start: MergeRecipe) -> int:
    """The number of an experiment's cells, counted by running its plan on blank outcomes."""
    plan, cells = EXPERIMENTS[name].plan(family, start), 0
    scores = {block: np.zeros(1) for block in range(family.model.blocks)}
    try:
        cell = next(plan)
        while True:
            cells += 1
            hits = {"merged": {task: np.zeros(1, bool) for task in cell.tasks}}
            blank: Any = SimpleNamespace(hits=hits, scores=lambda: scores)
            cell = plan.send(blank)
    except StopIteration:
        return cells
