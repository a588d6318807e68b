"""calibration.npz from the validation images of the sources' tasks, as the paper draws them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np

from .errors import BadFile, BadValue
from .zoo import Family

FILE = "calibration.npz"
SEED = 0


def make_pool(family: Family, each: int) -> Iterator[str]:
    """Writes calibration.npz whole or not at all; yields each task that is done.

    Args:
        each: how many images of a task; all where there are fewer.

    Raises:
        BadValue: fewer than one.
        BadFile: the file exists, cannot be written, or a task has no validation images.
    """
    path, tasks = family.folder / FILE, [t for t in family.tasks if t in family.sources]
    if each < 1:
        raise BadValue("--each", each, "is below 1", "give at least 1 image")
    if path.exists() or path.is_symlink():
        problem = "exists and is never overwritten"
        raise BadFile(f"calibration of {family.name}", path, problem, "move it away first")
    if not tasks:
        problem = "has no task named as a source"
        raise BadFile("family", family.folder, problem, "name tasks in its family.toml")
    images, names = [], []
    for name in tasks:
        task = family.task(name, "val")
        chosen = np.random.default_rng(SEED).permutation(len(task.images))[:each]
        images.append(task.images[np.sort(chosen)][:])
        names += [name] * len(chosen)
        yield name
    _write(path, np.concatenate(images), np.array(names))


def _write(path: Path, images: np.ndarray, tasks: np.ndarray) -> None:
    aside = path.with_name(f".{uuid4().hex}.part.npz")
    try:
        np.savez(aside, images=images, tasks=tasks)
        aside.rename(path)
    except OSError as error:
        problem, remedy = f"cannot be written ({error})", "free space"
        raise BadFile("calibration", path, problem, remedy) from error
    finally:
        aside.unlink(missing_ok=True)
