"""Loading of a family's task images and prompts from its folder or datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoints.image_tower import Checkpoint
from ..data.benchmarks import benchmarks
from ..data.datasets import advice, datasets_root, load_dataset
from ..data.names import listed
from ..data.prompts import Prompts, prompts_of
from ..data.tasks import (
    Task,
    check_order,
    class_folders,
    class_names,
    load_folder,
    load_task,
    matched,
    read_npz,
)
from ..errors import BadFile
from ..text import normal
from . import heads
from .layouts import inside, unbroken


def read_task(
    folder: Path,
    task: Mapping[str, Any],
    split: str,
    size: int,
    skipped: Sequence[str],
    loose: bool,
    **about: str,
) -> Task:
    """Loads a task from tasks/<task>/, else tasks/<task>.npz, else its dataset.

    Args:
        folder: the family's.
        task: as family.toml has it.
        skipped: pictures left out on the user's word.
        loose: whether its head is a head_<task>.pt, which names no classes.
        about: name, title and kind.

    Raises:
        BadFile: there are none, or they cannot be read.
    """
    name = task["name"]
    pictures, arrays = _places(folder, name)
    if pictures.is_dir():
        classes = _declared(task) or _folders(folder, name, pictures / split, loose)
        return load_folder(pictures, split, size, classes, skipped, **about)
    if arrays.exists() or "dataset" not in task:
        return load_task(arrays, split=split, size=size, **about)
    dataset, root = task["dataset"], datasets_root(folder)
    if root.parent == folder:  # not the user's own choice
        inside(folder, root)
    remedy = advice(dataset, folder, name)
    if not benchmarks()[dataset].files:
        raise BadFile(f"task {name}", pictures, "does not exist", remedy)
    return load_dataset(root, dataset, split, size, _declared(task), skipped, remedy, **about)


def read_prompts(folder: Path, task: Mapping[str, Any]) -> Prompts:
    """Class names and templates of a task, from family.toml, its dataset's table or its images.

    Raises:
        BadFile: nothing tells its classes.
    """
    name = task["name"]
    classes, (pictures, arrays) = _declared(task), _places(folder, name)
    if not classes and pictures.is_dir():
        place, argument = pictures / "test", f"task {name}"
        classes = _by_head(folder, name, place) or tuple(class_folders(place, argument))
    if not classes:
        argument = f"classes of task {name}"
        held = read_npz(arrays, argument, ("classes",))["classes"]
        classes = class_names(held, argument, arrays)
    return prompts_of(task, classes)


def _places(folder: Path, name: str) -> tuple[Path, Path]:
    """Where a task's pictures may be, and its arrays; raises BadFile for a link that leads out, or
    to nothing."""
    pictures, arrays = (
        unbroken(folder, f"tasks/{called}", f"task {name}") for called in (name, f"{name}.npz")
    )
    return pictures, arrays


def _folders(folder: Path, name: str, place: Path, loose: bool) -> tuple[str, ...]:
    """A split's class folders in the order of the head's rows; raises BadFile if nobody tells it.

    Args:
        loose: whether the head is a head_<task>.pt, which names no classes.
    """
    rows = () if loose else _by_head(folder, name, place)
    if rows:
        return rows
    names = class_folders(place, f"task {name}")
    if rows is not None:
        check_order(names, place, f"task {name}")
    return tuple(names)


def _by_head(folder: Path, name: str, place: Path) -> tuple[str, ...] | None:
    """Class names of a head's rows in heads.safetensors, empty where it does not name them.

    None stands for no head. Raises BadFile where the class folders have other names.
    """
    path = folder / heads.FILE
    if not path.exists():
        return None
    file = Checkpoint.open(path, f"heads of {folder.name}")
    if not any(normal(task) == name for task in file.shapes):
        return None
    stored = file.metadata.get("heads")
    of_tasks = stored if isinstance(stored, dict) else {}
    of_task = next((about for task, about in of_tasks.items() if normal(task) == name), None)
    rows = of_task.get("classes") if isinstance(of_task, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, str) for row in rows):
        return ()
    names = class_folders(place, f"task {name}")
    if not matched(names, rows):
        problem = f"has class folders {listed(names)}, but its head is of {listed(rows)}"
        remedy = (
            f"name the folders alike, or move {heads.FILE} away and {heads.command(folder.name)}"
        )
        raise BadFile(f"task {name}", place, problem, remedy)
    return tuple(rows)


def _declared(task: Mapping[str, Any]) -> tuple[str, ...]:
    """Classes as family.toml or the dataset's table names them; none where neither does."""
    benchmark = benchmarks().get(task.get("dataset", ""))
    return tuple(task.get("classes", benchmark.classes if benchmark else ()))
