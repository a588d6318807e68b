"""Creation of calibration.npz from the validation images of the sources' tasks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..atomic_files import check_output, written
from ..errors import BadFile, BadValue
from .family import Family
from .layouts import CALIBRATION

FILE = CALIBRATION
SEED = 0


def make_pool(family: Family, each: int) -> Iterator[str]:
    """Writes calibration.npz whole or not at all; yields each task that is done.

    Args:
        each: how many images of a task; all where there are fewer.

    Raises:
        BadValue: fewer than one.
        BadFile: the file exists, cannot be written, or a task has no validation images.
    """
    path, tasks = family.folder / FILE, family.own_tasks(family.sources)
    if each < 1:
        raise BadValue("each", each, "is below 1", "give at least 1 image")
    argument = f"calibration of {family.name}"
    check_output(path, argument, "move it away first")
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
    with written(path, argument) as aside:
        np.savez(aside, images=np.concatenate(images), tasks=np.array(names))
