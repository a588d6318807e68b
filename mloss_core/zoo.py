"""Families on disk: find them, describe them, open their parts.

A family is a folder with family.json, base.safetensors, sources/, tasks/, heads.safetensors and
calibration.npz (docs/format.md), under assets/zoo or $MLOSS_MODELS (default ./models).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import Checkpoint
from .errors import BadFile, BadTensor, BadValue, UnknownName
from .family import ModelFamily
from .tasks import Task, load_task

ZOO = Path(__file__).resolve().parents[1] / "assets" / "zoo"


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family's folder, with what family.json says of it.

    Args:
        about: family.json as it is.
        sources: names of the sources, in the order of the tasks where they have one.
    """

    model: ModelFamily
    folder: Path
    about: Mapping[str, Any]
    sources: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's name, by which the family is asked for."""
        return self.folder.name

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks, source tasks first."""
        return tuple(task["name"] for task in self.about["tasks"])

    def title(self, task: str) -> str:
        """A task's or source's name as shown to people."""
        return self._task(task).get("title", task)

    def kind(self, task: str) -> str:
        """ "source" if a source was fine-tuned on the task, else "out-of-domain"."""
        return self._task(task).get("kind", "source")

    def _task(self, name: str) -> Mapping[str, Any]:
        return next((t for t in self.about["tasks"] if t["name"] == name), {})

    def recommended(self, method: str) -> dict[str, float]:
        """k, e and lambda that the family's makers tuned on validation images."""
        known = self.about.get("recommended", {})
        common = {k: v for k, v in known.items() if k in ("keep", "variation", "scaling")}
        return common | known.get(method, {})

    def base(self) -> Checkpoint:
        """The base model's image tower, audited."""
        base = Checkpoint.open(self.folder / "base.safetensors", f"base of family {self.name}")
        base.audit(self.model.shapes())
        base.check_finite()
        return base

    def source(self, name: str) -> Checkpoint:
        """A source's image tower, audited against the base; raises UnknownName, BadTensor."""
        if name not in self.sources:
            raise UnknownName("--sources", name, self.sources)
        path = self.folder / "sources" / f"{name}.safetensors"
        source = Checkpoint.open(path, f"source {name}")
        source.audit(self.model.shapes(), self.base().dtypes)
        source.check_finite()
        return source

    def heads(self, device: torch.device) -> dict[str, Tensor]:
        """Zero-shot head of each task: classes x embedding, unit rows."""
        heads = Checkpoint.open(self.folder / "heads.safetensors", f"heads of {self.name}")
        missing = [task for task in self.tasks if task not in heads.shapes]
        if missing:
            remedy = "give one tensor a task"
            raise BadTensor(heads.name, heads.path.name, f"lacks {missing[0]}", remedy)
        for task in self.tasks:
            shape = heads.shapes[task]
            if len(shape) != 2 or shape[1] != self.model.embed_dim:
                remedy = f"give classes x {self.model.embed_dim}"
                raise BadTensor(heads.name, heads.path.name, f"{task} has shape {shape}", remedy)
        heads.check_finite()
        return {
            task: head.to(device, torch.float32) for task, head in heads.read(self.tasks).items()
        }

    def task(self, name: str, split: str = "test") -> Task:
        """A task's images and labels; raises UnknownName, BadFile."""
        if name not in self.tasks:
            raise UnknownName("--tasks", name, self.tasks)
        path = self.folder / "tasks" / f"{name}.npz"
        return load_task(path, name, self.title(name), self.kind(name), split)

    @property
    def calibration_pool(self) -> Path:
        """The file of unlabeled training images."""
        return self.folder / "calibration.npz"


def roots() -> tuple[Path, ...]:
    """Folders that hold families: the embedded zoo, and $MLOSS_MODELS."""
    return ZOO, Path(os.environ.get("MLOSS_MODELS", "models"))


def families() -> tuple[str, ...]:
    """Names of all families found."""
    found = (path.parent for root in roots() for path in sorted(root.glob("*/family.json")))
    return tuple(dict.fromkeys(folder.name for folder in found))


def load(name: str) -> Family:
    """The family of that name.

    Raises:
        BadValue: the name is a path.
        UnknownName: no family is called so.
        BadFile: its family.json cannot be read.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        remedy = f"choose from {', '.join(families())}"
        raise BadValue("--family", name, "is not a plain name but a path or empty", remedy)
    for root in roots():
        path = root / name / "family.json"
        if path.is_file():
            return _read(path)
    raise UnknownName("--family", name, families())


def _read(path: Path) -> Family:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        tasks = [task["name"] for task in about["tasks"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        problem = f"cannot be read ({error!r})"
        raise BadFile("family.json", path, problem, "see docs/format.md") from error
    found = {file.stem for file in (path.parent / "sources").glob("*.safetensors")}
    ordered = [task for task in tasks if task in found] + sorted(found - set(tasks))
    return Family(
        model=ModelFamily.from_config(path.parent.name, about),
        folder=path.parent,
        about=about,
        sources=tuple(ordered),
    )
