"""A fine-tune's folder: checkpoints, and the state that it goes on from after a kill.

    step-000025.safetensors   the image tower after so many steps, as any source
    state.safetensors         of the last checkpoint: weights in fp32, the optimizer, what was said

Each file is written aside, flushed and renamed; the tower goes before the state that names it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..checkpoints.read import KEY
from ..errors import BadFile
from ..runs.layout import root

STATE = "state.safetensors"
FREE = "free space and begin again: it goes on from its last checkpoint"


@dataclass(kw_only=True)
class Kept:
    """What is known of a fine-tune up to its last checkpoint.

    Args:
        about: what decides its bytes.
        step: of the last checkpoint.
        said: of each step loss, rate, gradient and seconds, from the first.
        looks: of each look step, hits, distances, outside and seconds.
        written: of each checkpoint step and seconds.
        diverged: the step that was no longer a number.
        tensors: of weights and optimizer; empty before the first checkpoint.
    """

    about: Mapping[str, Any]
    step: int = 0
    said: list[list[Any]] = field(default_factory=list)
    looks: list[list[Any]] = field(default_factory=list)
    written: list[list[Any]] = field(default_factory=list)
    diverged: int | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)


def usual_folder(id: str) -> Path:
    """Where a fine-tune of this id is kept that nobody gave a folder: in the folder of runs."""
    return root() / ".finetunes" / id


def checkpoint(folder: Path, step: int) -> Path:
    """The file of the tower after so many steps."""
    return folder / f"step-{step:06d}.safetensors"


def checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints in a fine-tune's folder, by step, up to the one that its state names."""
    try:
        with safe_open(folder / STATE, framework="pt") as file:
            written = json.loads((file.metadata() or {})[KEY])["written"]
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        problem = f"holds no fine-tune with a checkpoint ({error})"
        raise BadFile("keep_in", folder, problem, "train first") from error
    return {int(step): checkpoint(folder, int(step)) for step, _ in written}


def kept(folder: Path, about: Mapping[str, Any]) -> Kept:
    """What the folder holds of this fine-tune, nothing where it is new or empty.

    Raises:
        BadFile: it holds another one, or something else, or its state cannot be read.
    """
    state = folder / STATE
    if not state.exists():
        _check_free(folder)
        return Kept(about=about)
    try:
        with safe_open(state, framework="pt") as file:
            stored = json.loads((file.metadata() or {})[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        found = Kept(tensors=tensors, **stored)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        problem = f"cannot be read ({error})"
        raise BadFile("keep_in", state, problem, "delete the folder, or name another") from error
    if found.about != json.loads(json.dumps(about)):
        keys = [key for key in about if found.about.get(key) != json.loads(json.dumps(about[key]))]
        problem = f"holds another fine-tune: {', '.join(keys)} differ"
        raise BadFile("keep_in", folder, problem, "name another folder, or delete this one")
    found.about = about  # in its own order of keys, as files say it
    if not checkpoint(folder, found.step).exists():
        problem = f"lacks the checkpoint of step {found.step}"
        raise BadFile("keep_in", folder, problem, "delete the folder, or name another")
    return found


def keep(folder: Path, kept: Kept, tower: Mapping[str, Tensor], metadata: dict[str, Any]) -> Path:
    """Writes a checkpoint and then the state; returns the checkpoint's path.

    Raises:
        BadFile: the disk is full; what was there before still is.
    """
    path = checkpoint(folder, kept.step)
    stored = {name: value for name, value in vars(kept).items() if name != "tensors"}
    _put(path, tower, metadata)
    _put(folder / STATE, kept.tensors, stored)
    return path


def _check_free(folder: Path) -> None:
    """Makes the folder; raises BadFile where it holds what is not ours."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A kill before the first state may leave a tower, or files aside.
        others = [p.name for p in folder.iterdir() if not p.name.startswith(("step-", "."))]
    except OSError as error:
        remedy = "name another folder"
        raise BadFile("keep_in", folder, f"cannot be used ({error})", remedy) from error
    if others:
        problem = f"holds {others[0]}, which is no fine-tune's"
        raise BadFile("keep_in", folder, problem, "name an empty or a new folder")


def _put(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Replaces a file, whole or not at all, also where the machine goes down."""
    aside = path.with_name(f".{path.stem}.{uuid4().hex[:8]}.part")
    try:
        ordered = {name: tensors[name].contiguous() for name in sorted(tensors)}
        save_file(ordered, aside, {KEY: json.dumps(metadata, sort_keys=True)})
        aside.chmod(0o644)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except (OSError, SafetensorError) as error:
        raise BadFile("keep_in", path, f"cannot be written ({error})", FREE) from error
    finally:
        aside.unlink(missing_ok=True)
