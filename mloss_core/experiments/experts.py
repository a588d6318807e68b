"""Heterogeneous experts: a source fine-tuned at each rate and length, and merged with the others.

An expert stands in for the family's own source of its task, under that source's name. So a cell's
recipe is an ordinary one, and the expert's hash tells the cells apart.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import shutil
from collections.abc import Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.alignment import alignment
from ..analysis.compatibility.sign_conflict import conflict, count_signs
from ..analysis.task_vectors import geometry
from ..checkpoints.image_tower import Checkpoint, save
from ..errors import BadValue, UnknownName
from ..families.family import Family
from ..methods import METHODS
from ..runs.cells import Cell, Lab
from ..runs.layout import root, writing
from ..training.events import Diverged, TrainingEvent, Tuned
from ..training.finetune import finetune, fingerprint, provenance
from ..training.keeping import usual_folder
from ..training.lesson import of_task
from ..training.settings import Finetune
from ..types import MergeRecipe
from .search import replaced
from .steps import Plan, Step, cell_of

RATES = (1e-4, 3e-4, 1e-3, 2e-3)
STEPS = (10, 30, 100, 300)
BATCHES = (32,)
TASKS = 2
MERGES = ("simple-average", "ties")
EACH = 100  # steps of training between two checkpoints: what a kill loses at most
FOLDER = ".experts"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The fine-tunes whose merges are compared: every combination.

    Args:
        rate, steps, batch: values of these settings.
        tasks: of the family, each of a source's own; None takes TASKS of them, evenly apart.
    """

    rate: tuple[float, ...] = field(default_factory=lambda: RATES)
    steps: tuple[int, ...] = field(default_factory=lambda: STEPS)
    batch: tuple[int, ...] = BATCHES
    tasks: tuple[str, ...] | None = None

    def settings(self) -> Iterator[Finetune]:
        """Every combination; raises InputError for a bad value."""
        for batch, rate, steps in itertools.product(self.batch, self.rate, self.steps):
            often = max(1, steps // EACH)
            yield Finetune(rate=rate, steps=steps, batch=batch, checkpoints=often)


@dataclass(frozen=True, kw_only=True)
class ExpertCell(Cell):
    """A cell whose recipe merges an expert.

    Args:
        source: of the family, which the expert stands in for.
        task: that it is fine-tuned on: the source's own.
        settings: of the fine-tune.
    """

    source: str
    task: str
    settings: Finetune

    @property
    def together(self) -> Hashable:
        """The fine-tune: one worker trains it, and measures all that is measured of it."""
        return self.source, self.task, self.settings

    @property
    def of_vectors(self) -> bool:
        """Whether M-Loss and task vectors are what it measures, and no accuracy."""
        return not self.tasks


def experts(family: Family, start: MergeRecipe, grid: Grid | None = None) -> Plan:
    """Plan of the family's own merges, and of those with an expert in place of a source.

    Raises:
        InputError: the grid holds a bad value, or a task that no source was fine-tuned on.
    """
    grid, tasks = grid or Grid(), family.own_tasks(start.sources)
    cells: list[Cell] = []
    for recipe in _merges(family, start):
        cells.append(cell_of(recipe, tasks, f"Own sources: {METHODS[recipe.method].title}"))
    cells[0] = dataclasses.replace(cells[0], beside=("base", "own"))
    chosen = _chosen(tasks) if grid.tasks is None else grid.tasks
    for task, settings in itertools.product(chosen, grid.settings()):
        if task not in tasks:
            raise UnknownName("tasks", task, tasks)
        cells += _of_expert(family, start, task, settings)
    return (Step(cells=tuple(cells)),)


def _merges(family: Family, start: MergeRecipe) -> tuple[MergeRecipe, ...]:
    """The recipes of MERGES; TIES as its settings were chosen on validation images."""
    usual = family.recommended("ties") | {"variation": 0.0}
    ties = dataclasses.replace(start, method="ties", blocks=None, **usual)
    return (replaced(start, "simple-average", {}), ties)


def _chosen(tasks: Sequence[str]) -> Sequence[str]:
    """TASKS of the tasks, evenly apart: neighbours are often alike."""
    return tasks[:: max(1, len(tasks) // TASKS)][:TASKS]


def _of_expert(
    family: Family, start: MergeRecipe, task: str, settings: Finetune
) -> Iterator[ExpertCell]:
    """The merges with one expert, and what is measured of it along that by M-TIES."""
    tasks, source = family.own_tasks(start.sources), family.own_source(task, start.sources)
    name = f"{family.title(task)}, {named(settings.rate, settings.steps, settings.batch)}"
    shared: dict[str, Any] = {"source": source, "task": task, "settings": settings}
    for i, recipe in enumerate(_merges(family, start)):
        label, beside = f"{name}: {METHODS[recipe.method].title}", () if i else (source,)
        yield ExpertCell(label=label, recipe=recipe, tasks=tasks, beside=beside, **shared)
    along = dataclasses.replace(start, method="m-ties", blocks=None)
    yield ExpertCell(label=f"{name}: M-Loss", recipe=along, tasks=(), **shared)


def named(rate: float, steps: int, batch: int) -> str:
    """A place on the grid in words; the usual batch goes without saying."""
    size = f", batch {batch}" * (batch != BATCHES[0])
    return f"rate {rate:g}, {steps} step{'s' * (steps != 1)}{size}"


class Experts:
    """The experts of a lab's family: trained once each, and kept in the folder of runs under a
    hash of what decides their bytes."""

    def __init__(self, lab: Lab):
        self.lab = lab
        self._lesson = functools.cache(lambda task: of_task(lab.family, task))
        self._joined = functools.lru_cache(maxsize=1)(self._join)  # cells of one follow each other

    def trained(self, cell: ExpertCell) -> Generator[TrainingEvent, None, Lab]:
        """Trains the cell's expert, or goes on training it, unless it is kept.

        Returns:
            A lab of the family with the expert in its place.

        Raises:
            BadValue: the loss is no number at that rate.
        """
        path = self._path(cell)
        if not path.exists():
            yield from self._train(cell, path)
        return self._joined(cell.source, path)

    def kept(self, cell: ExpertCell) -> Lab | None:
        """The same without training; None where it is not kept."""
        path = self._path(cell)
        return self._joined(cell.source, path) if path.exists() else None

    def cells(self, start: MergeRecipe) -> Iterator[ExpertCell]:
        """The cells of every expert of this family that is kept, of whatever grid."""
        family = self.lab.family
        for path in sorted((root() / FOLDER).glob("*.safetensors")):
            about: Any = Checkpoint.open(path, f"expert {path.stem}").metadata
            if about.get("base") == family.base().sha256 and about["task"] in family.tasks:
                settings = Finetune(**about["finetune"])
                cells = list(_of_expert(family, start, about["task"], settings))
                # Else it is of other pictures, or another head.
                if self._path(cells[0]) == path:
                    yield from cells

    def _path(self, cell: ExpertCell) -> Path:
        lesson, lab = self._lesson(cell.task), self.lab
        about = provenance(cell.settings, lab.family, lesson, lab.device)
        return root() / FOLDER / f"{fingerprint(about)}.safetensors"

    def _train(self, cell: ExpertCell, path: Path) -> Iterator[TrainingEvent]:
        folder, lesson = usual_folder(path.stem), self._lesson(cell.task)
        family, device = self.lab.family, self.lab.device.type
        for event in finetune(cell.settings, family, lesson, folder, device=device):
            if isinstance(event, Diverged):
                problem = f"leads to a loss that is no number at step {event.step}"
                shown = f"{cell.settings.rate:g}"
                raise BadValue("rate", shown, problem, "leave that rate out of the grid")
            if isinstance(event, Tuned):
                with writing():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    save(path, event.weights, event.metadata)
                shutil.rmtree(folder, ignore_errors=True)  # its state is no longer needed
            yield event

    def _join(self, source: str, path: Path) -> Lab:
        """A lab that shares the test images and what it has embedded of them."""
        family, parts = self.lab.family, self.lab.family.parts
        for name in family.sources:
            family.source(name)  # opened once, not with each expert
        opened = {name: file for name, file in family.opened.items() if name != source}
        chosen = {n: part for n, part in parts.about.get("part", {}).items() if n != source}
        about = {**parts.about, "part": chosen}
        parts = dataclasses.replace(parts, about=about, sources={**parts.sources, source: path})
        family = dataclasses.replace(family, parts=parts, opened=opened)
        return Lab(family, self.lab.device, self.lab.evaluators["test"])


def vectors(lab: Lab, cell: Cell) -> dict[str, np.ndarray]:
    """What the task vectors of the cell's sources tell, computed once and kept beside the cell.

    Returns:
        norms: of each task vector, over the base's.
        conflict: sign conflict of each pair at the recipe's k.
        overlap: by block and matrix, of leading directions, left and right, over all pairs.
    """
    kept = lab.cached_arrays(cell)
    if kept is not None:
        return kept
    recipe, device = cell.recipe, lab.device.type
    sources, keep = recipe.sources, recipe.keep
    signs = conflict(count_signs(recipe, lab.family, device=device))
    assert signs is not None, "every tower has tensors"
    blocks = alignment(lab.family, sources, keep=keep, device=device)
    overlap = [[(m.left + m.right) / 2 for m in block.matrices] for block in blocks]
    norms = geometry(lab.family, sources).relative_norms
    arrays = {"norms": norms, "conflict": signs, "overlap": np.array(overlap)}
    lab.keep_arrays(cell, arrays)
    return arrays
