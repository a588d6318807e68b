"""Cells of experiments: one recipe evaluated on some images, cached on disk by content hash."""

from __future__ import annotations

import functools
import hashlib
import json
import zipfile
from collections.abc import Generator, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch

from ..data.images import Pictures, Resized
from ..data.tasks import Task
from ..errors import BadFile
from ..evaluation.evaluator import Evaluator
from ..families.family import Family
from ..methods.keep_rates import draws_images
from ..recipe import calibration_of, recipe_fields, version_of
from ..run import cell as cell_stages
from ..run import run
from ..types import Event, MergeRecipe
from . import store
from .layout import CELL, root, writing
from .store import RunRecord

SPLITS = ("test", "val")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement of an experiment.

    Args:
        label: how its table names it.
        tasks: evaluated on.
        split: "test", or "val" where a setting is being chosen.
        beside: what is measured with it: the references "base" and "own", or "ensemble gap".
    """

    label: str
    recipe: MergeRecipe
    tasks: tuple[str, ...]
    split: str = "test"
    beside: tuple[str, ...] = ()

    @property
    def together(self) -> Hashable | None:
        """What the cells that one worker must measure share; None where it can be any worker."""
        return None


class Lab:
    """Measures cells of one family on one device, with features and hashes cached between them.

    Sources are embedded once, and a cached cell takes milliseconds.
    """

    def __init__(self, family: Family, device: torch.device, test: Evaluator | None = None):
        self.family, self.device = family, device
        self.evaluators = {split: Evaluator(family, device, split) for split in SPLITS}
        if test is not None:  # somebody's, with what it has embedded
            self.evaluators["test"] = test
        self._images = functools.cache(self._hash_of_images)
        self._calibration = functools.cache(self._hash_of_calibration)
        self._model = functools.cache(self._hash_of_model)

    def id(self, cell: Cell) -> str:
        """A cell's run id: a hash of everything that decides its outcome.

        That is recipe, models, calibration and images, heads and version; not its label.
        """
        recipe, drawn = cell.recipe, None
        if draws_images(recipe, self.family.model):
            drawn = self._calibration(recipe.sources, recipe.samples, recipe.seed)
        models = [self._model(name) for name in (None, *recipe.sources)]
        images = [self._images(task, cell.split) for task in cell.tasks]
        parts = [recipe_fields(recipe), models, drawn, images, cell.split, cell.beside]
        parts.append(version_of(recipe.method))
        return f"{CELL}{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]}"

    def cached_run(self, cell: Cell) -> RunRecord | None:
        """The cell's finished run on disk; None where there is none."""
        try:
            record = store.load_run(self.id(cell))
        except BadFile:
            return None
        return record if record.state == "finished" else None

    def compute(self, cell: Cell) -> Generator[Event, None, RunRecord]:
        """Measures the cell, recording it as a run; returns its record."""
        events = run(
            cell.recipe,
            self.family,
            stages=cell_stages(cell.beside),
            evaluator=self.evaluators[cell.split],
            tasks=cell.tasks,
            keep=root(),
        )
        facts = {"split": cell.split, "tasks": list(cell.tasks)}
        name = self.id(cell)
        yield from store.recorded(
            events, cell.recipe, kind="cell", id=name, keep_model=False, facts=facts
        )
        return store.load_run(name)

    def cached_arrays(self, cell: Cell) -> dict[str, np.ndarray] | None:
        """Arrays that were kept for the cell; None where there are none, or they cannot be read."""
        try:
            with np.load(self._arrays(cell), allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None

    def keep_arrays(self, cell: Cell, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps what was measured of a cell besides its answers; raises BadFile if it cannot.

        The file is written aside and then renamed, as a run is.
        """
        path = self._arrays(cell)
        aside = path.with_name(f".{path.stem}.{uuid4().hex[:8]}.part.npz")
        with writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                np.savez_compressed(aside, allow_pickle=False, **arrays)
                aside.replace(path)
            finally:
                aside.unlink(missing_ok=True)

    def _arrays(self, cell: Cell) -> Path:
        return root() / f"{self.id(cell)}.npz"

    def _hash_of_model(self, name: str | None) -> str:
        return (self.family.source(name) if name else self.family.base()).sha256

    def _hash_of_calibration(self, sources: tuple[str, ...], samples: int, seed: int) -> str:
        recipe = MergeRecipe(
            family=self.family.name, method="m-ties", sources=sources, samples=samples, seed=seed
        )
        batch = calibration_of(recipe, self.family)
        assert batch is not None, "M-TIES reads images"
        return batch.sha256

    def _hash_of_images(self, task: str, split: str) -> str:
        evaluator = self.evaluators[split]
        head = evaluator.heads[task].cpu().numpy()
        return hashlib.sha256(fingerprint(evaluator.task(task)) + head.tobytes()).hexdigest()


def fingerprint(task: Task) -> bytes:
    """Hash of a task's images and labels; picture files count by name, size and time of change."""
    digest, images = hashlib.sha256(task.labels.tobytes()), task.images
    if isinstance(images, Pictures):
        about = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in images.paths]
        digest.update(repr(about).encode())
    elif isinstance(images, Resized):
        digest.update(np.ascontiguousarray(images.pixels).data)
        digest.update(images.which.tobytes())
    else:
        digest.update(np.ascontiguousarray(images).data)
    return digest.digest()
