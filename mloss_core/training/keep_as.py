"""A fine-tune kept as a source of a family of one's own; the family it came from never changes."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from ..checkpoints.image_tower import Checkpoint, save
from ..data.names import is_hidden
from ..data.tasks import Task
from ..errors import BadFile, BadValue, UnknownName
from ..families import heads as head_files
from ..families import pool
from ..families.family import Family, load
from ..families.folders import roots
from ..families.layouts import OWN
from ..text import normal
from .lesson import Lesson

CALIBRATION = 64  # trained pictures of the task that the pool gets


def keep_as(
    family: Family,
    lesson: Lesson,
    weights: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    target: str,
    source: str,
    beside: Sequence[str] = (),
) -> Path:
    """Adds a fine-tune as a source to a family in the folder of one's own families, which is made
    where there is none; returns its folder.

    A new family gets the base, the chosen sources beside with their tasks, and the calibration
    images of all. The lesson's own pictures become a task: those held out are its test pictures,
    those trained on its validation pictures and, unlabeled, calibration images.

    Args:
        weights, metadata: of the fine-tune's `Tuned`.
        target: name of the family of one's own.
        source: name of the new source.
        beside: sources of `family` that a new family gets, too.

    Raises:
        BadValue: a name is no plain one, or is taken.
        BadFile: the family is not one of one's own, or has another base; or the disk is full.
    """
    folder = check_target(family, lesson, target, source, beside)
    source = normal(source).strip()
    try:
        if folder.exists():
            _extend(family, lesson, weights, metadata, load(folder.name), source)
        else:
            _make(family, lesson, weights, metadata, folder, source, beside)
    except OSError as error:
        problem = f"cannot be written ({error})"
        raise BadFile("family", folder, problem, "free space, or set MLOSS_MODELS") from error
    return folder


def check_target(
    family: Family, lesson: Lesson, target: str, source: str, beside: Sequence[str] = ()
) -> Path:
    """The folder that `keep_as` would write; raises what it would, before anything is trained."""
    target, source = _plain("family", target), _plain("source", source)
    for name in beside:
        if name not in family.sources:
            raise UnknownName("beside", name, family.sources)
    embedded, own = roots()
    if (embedded / target).exists():
        problem = "is an embedded family, which never changes"
        raise BadValue("family", target, problem, "choose another name")
    folder = own / target
    if folder.exists():
        _check_extends(family, lesson, load(target), source)
    elif source in beside:
        remedy = "choose another name for the new one"
        raise BadValue("source", source, "is the name of a source beside", remedy)
    elif not lesson.of_family and lesson.name in family.own_tasks(beside):
        problem = "is the name of a task beside"
        raise BadValue("task", lesson.name, problem, "give the pictures another name")
    return folder


def _check_extends(family: Family, lesson: Lesson, mine: Family, source: str) -> None:
    """Raises InputError where a family of one's own cannot get the source."""
    if not (mine.folder / OWN).is_file():
        remedy = "choose another name; or write the model into its folder yourself"
        raise BadFile("family", mine.folder, f"is not described by a {OWN}", remedy)
    made_from = mine.about.get("made_from", {})
    if family.base().sha256 not in (mine.base().sha256, made_from.get("base")):
        raise BadFile("family", mine.folder, "has another base", "choose another name")
    if source in mine.sources:
        raise BadValue("source", source, f"is there already in {mine.name}", "name it otherwise")
    if not lesson.of_family and lesson.name in mine.tasks:
        problem = f"is a task of {mine.name} already"
        raise BadValue("task", lesson.name, problem, "give the pictures another name")


def _plain(what: str, name: str) -> str:
    name = normal(name).strip()
    if not name or is_hidden(name) or set(name) & set("/\\\0") or len(name.encode()) > 100:
        raise BadValue(what, name, "is no plain name", "use letters, digits, spaces, - and _")
    return name


def _make(
    family: Family,
    lesson: Lesson,
    weights: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    folder: Path,
    source: str,
    beside: Sequence[str],
) -> None:
    """Writes a new family aside, and gives it its name when it is whole."""
    aside = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.part")
    try:
        (aside / "sources").mkdir(parents=True)
        (aside / "tasks").mkdir()
        _write_tower(family.base(), aside / "base.safetensors")
        for name in beside:
            _write_tower(family.source(name), aside / "sources" / f"{name}.safetensors")
        tasks = list(family.own_tasks(beside))
        if lesson.of_family and lesson.name not in tasks:
            tasks.append(lesson.name)
        about = _about(family, folder.name, tasks, {*beside})
        for name in tasks:
            _write_task(aside, family.task(name), family.task(name, "val"))
        every = family.heads(torch.device("cpu"))
        matrices = {name: every[name] for name in tasks}
        _add(family, lesson, aside, about, matrices, _pool(family, tasks), source)
        save(aside / "sources" / f"{source}.safetensors", weights, metadata)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _extend(
    family: Family,
    lesson: Lesson,
    weights: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    mine: Family,
    source: str,
) -> None:
    """Adds the source to a family of one's own; the source itself comes last, so that a kill leaves
    at most a task without one."""
    about, images = dict(mine.about), _pool(mine, None)
    matrices = mine.heads(torch.device("cpu"))
    if lesson.of_family and lesson.name not in mine.tasks:
        about["tasks"] = [*about["tasks"], _described(family, lesson.name, set())]
        matrices[lesson.name] = family.heads(torch.device("cpu"))[lesson.name]
        own = _pool(family, [lesson.name])
        images = {name: [*images.get(name, []), *own.get(name, [])] for name in {**images, **own}}
        _write_task(mine.folder, family.task(lesson.name), family.task(lesson.name, "val"))
    _add(family, lesson, mine.folder, about, matrices, images, source)
    save(mine.folder / "sources" / f"{source}.safetensors", weights, metadata)


def _add(
    family: Family,
    lesson: Lesson,
    folder: Path,
    about: dict[str, Any],
    matrices: dict[str, Tensor],
    images: dict[str, list[np.ndarray]],
    source: str,
) -> None:
    """Writes the lesson's task, head and calibration images, and a description that says which
    task the source is of."""
    if not lesson.of_family:
        matrices = {**matrices, lesson.name: lesson.head}
        task = Task(
            name=lesson.name, title=lesson.title, kind="source", images=lesson.held_images,
            labels=lesson.held_labels, classes=lesson.classes,
        )  # fmt: skip
        trained = dataclasses.replace(task, images=lesson.images, labels=lesson.labels)
        _write_task(folder, task, trained)
        own = {"name": lesson.name, "title": lesson.title, "kind": "source", "sources": []}
        about["tasks"] = [*about["tasks"], own]
    about["tasks"] = [
        {**task, "kind": "source", "sources": [*_sources(task), source]}
        if task["name"] == lesson.name
        else task
        for task in about["tasks"]
    ]
    if not images.get(lesson.name):
        order = np.random.default_rng(pool.SEED).permutation(len(lesson.labels))[:CALIBRATION]
        images[lesson.name] = list(np.asarray(lesson.images[np.sort(order)][:]))
    _write_pool(folder, images)
    _replaced(
        folder / head_files.FILE, lambda path: save(path, matrices, {"made_from": family.name})
    )
    text = json.dumps(about, ensure_ascii=False, indent=1)
    _replaced(folder / OWN, lambda path: path.write_text(text, encoding="utf-8"))


def _sources(task: Mapping[str, Any]) -> list[str]:
    return list(task.get("sources", [task["name"]]))


def _about(family: Family, name: str, tasks: Sequence[str], sources: set[str]) -> dict[str, Any]:
    """The family.json of a new family."""
    model = family.model
    vision = {
        "image_size": model.image_size, "patch_size": model.patch_size, "width": model.width,
        "layers": model.blocks, "head_width": model.width // model.heads,
        "mlp_ratio": model.nodes / model.width,
    }  # fmt: skip
    kept = ("license", "base_model", "recommended")
    return {
        "name": name,
        "title": name,
        "description": f"Fine-tunes of the base of {family.name}, made in the Lab.",
        "made_from": {"family": family.name, "base": family.base().sha256},
        "embed_dim": model.embed_dim,
        "vision_cfg": vision,
        "quick_gelu": model.activation == "quick_gelu",
        "logit_scale": family.logit_scale,
        "mean": list(model.mean),
        "std": list(model.std),
        **{key: family.about[key] for key in kept if key in family.about},
        "tasks": [_described(family, task, sources) for task in tasks],
    }


def _described(family: Family, name: str, sources: set[str]) -> dict[str, Any]:
    """A task's entry: its own sources among these, and nothing of where its pictures were from."""
    prompts, own = family.prompts(name), [s for s in sorted(sources) if family.own_task(s) == name]
    return {
        "name": name, "title": family.title(name), "kind": family.kind(name), "sources": own,
        "templates": list(prompts.templates),
    }  # fmt: skip


def _write_tower(checkpoint: Checkpoint, path: Path) -> None:
    """An image tower by open_clip's names, in its own dtypes."""
    about = {"converted": checkpoint.sha256, "dialect": checkpoint.dialect}
    save(path, checkpoint.read(checkpoint.shapes), {**checkpoint.metadata, **about})


def _write_task(folder: Path, test: Task, val: Task) -> None:
    arrays = {
        "images": np.asarray(test.images[:]), "labels": test.labels,
        "val_images": np.asarray(val.images[:]), "val_labels": val.labels,
        "classes": np.array(test.classes),
    }  # fmt: skip
    _replaced(folder / "tasks" / f"{test.name}.npz", lambda path: _savez(path, arrays))


def _pool(family: Family, tasks: Sequence[str] | None) -> dict[str, list[np.ndarray]]:
    """A family's calibration images by task, of these tasks or of all; none where it is no .npz."""
    images: dict[str, list[UInt8[np.ndarray, "h w 3"]]] = {}
    if family.calibration_pool.is_file():
        with np.load(family.calibration_pool, allow_pickle=False) as file:
            for image, name in zip(file["images"], map(str, file["tasks"]), strict=True):
                if tasks is None or normal(name) in tasks:
                    images.setdefault(normal(name), []).append(image)
    return images


def _write_pool(folder: Path, images: Mapping[str, list[np.ndarray]]) -> None:
    names = np.repeat(list(images), [len(own) for own in images.values()])
    arrays = {"images": np.stack([i for own in images.values() for i in own]), "tasks": names}
    _replaced(folder / pool.FILE, lambda path: _savez(path, arrays))


def _savez(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **dict(arrays))


def _replaced(path: Path, write: Any) -> None:
    """Writes a file aside, flushes it, and gives it its name: whole or not at all."""
    aside = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    try:
        write(aside)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
