"""Zero-shot heads in heads.safetensors: made from a text tower, and checked when read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.image_tower import Checkpoint, save
from ..data.prompts import Prompts
from ..errors import BadFile, BadTensor
from ..text import normal
from ..version import __version__
from .text_tower import GIVE, load_text

FILE = "heads.safetensors"


def command(family: str) -> str:
    """The remedy of missing heads: the command that makes a family's heads."""
    return f"run python -m mloss_core heads {family}"


def read_heads(
    path: Path,
    family: str,
    tasks: Sequence[str],
    prompts: Callable[[str], Prompts],
    text: Path | None,
) -> dict[str, Tensor]:
    """The heads of these tasks as they are stored.

    Args:
        prompts: of a task, as they are now.
        text: the checkpoint that heads would be made from now, if there is one.

    Raises:
        BadFile: there is no such file, or it was made from other classes, prompts or another tower.
        BadTensor: it lacks a task, or holds NaN.
    """
    name = f"heads of {family}"
    if not path.exists():
        raise BadFile(name, path, f"does not exist, for {', '.join(tasks)[:80]}", command(family))
    file = Checkpoint.open(path, name)
    again = f"move it away and {command(family)}"
    spelt = {normal(key): key for key in file.shapes}  # the same letters, written in two ways
    missing = [task for task in tasks if task not in spelt]
    if missing:
        raise BadTensor(name, path.name, f"lacks {missing[0]}", again)
    stored = file.metadata.get("heads")
    if isinstance(stored, dict):  # by us; others' say nothing of how they came to be
        for task in tasks:
            if stored.get(spelt[task]) != prompts(task).as_json():
                problem = f"was made from other classes or templates of {task}"
                raise BadFile(name, path, problem, again)
        text_hash = file.metadata.get("text")
        if text is not None and text.exists() and _sha256(text, family) != text_hash:
            raise BadFile(name, path, f"was made from another file than {text.name}", again)
    file.check_finite()
    tensors = file.read([spelt[task] for task in tasks])
    return {task: tensors[spelt[task]] for task in tasks}


def make_heads(
    path: Path, family: str, prompts: Mapping[str, Prompts], text: Path, activation: str, width: int
) -> Iterator[int]:
    """Writes heads.safetensors whole or not at all; yields how many classes are done.

    Args:
        activation, width: the family's, and that of its embeddings.

    Raises:
        BadFile: the file exists, or there is no text tower to be used.
        BadTensor: the text tower is of another family.
    """
    if path.exists() or path.is_symlink():
        problem = "exists and is never overwritten"
        raise BadFile(f"heads of {family}", path, problem, "move it away first")
    tower = load_text(text, f"text tower of {family}", activation)
    if tower.embed_dim != width:
        problem = f"embeds into {tower.embed_dim} numbers, its images into {width}"
        raise BadTensor(f"text tower of {family}", text.name, problem, GIVE)
    matrices, done = {}, 0
    for task, of_task in prompts.items():
        rows = []
        for some in tower.embeddings(of_task.classes, of_task.templates):
            rows.append(some)
            done += len(some)
            yield done
        matrices[task] = torch.cat(rows)
    prompt_json = {task: of_task.as_json() for task, of_task in prompts.items()}
    about = {"heads": prompt_json, "text": _sha256(text, family), "version": __version__}
    save(path, matrices, about)


def _sha256(text: Path, family: str) -> str:
    return Checkpoint.open(text, f"text tower of {family}").sha256
