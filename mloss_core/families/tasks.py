"""Loading of a family's task images and prompts from its folder or datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.benchmarks import benchmarks
from ..data.datasets import advice, datasets_root, load_dataset
from ..data.prompts import Prompts, prompts_of
from ..data.tasks import Task, class_folders, load_folder, load_task, read_npz
from ..errors import BadFile


def read_task(
    folder: Path,
    task: Mapping[str, Any],
    split: str,
    size: int,
    skipped: Sequence[str],
    **about: str,
) -> Task:
    """Loads a task from tasks/<task>/, else tasks/<task>.npz, else its dataset.

    Args:
        folder: the family's.
        task: as family.toml has it.
        skipped: pictures left out on the user's word.
        about: name, title and kind.

    Raises:
        BadFile: there are none, or they cannot be read.
    """
    name = task["name"]
    pictures, arrays = folder / "tasks" / name, folder / "tasks" / f"{name}.npz"
    if pictures.is_dir():
        return load_folder(pictures, split, size, _declared(task), skipped, **about)
    if arrays.exists() or "dataset" not in task:
        return load_task(arrays, split=split, **about)
    dataset, root = task["dataset"], datasets_root(folder)
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
    classes, pictures = _declared(task), folder / "tasks" / name
    if not classes and pictures.is_dir():
        classes = tuple(class_folders(pictures / "test", f"task {name}"))
    if not classes:
        arrays = read_npz(folder / "tasks" / f"{name}.npz", f"classes of task {name}", ("classes",))
        classes = tuple(str(name) for name in arrays["classes"])
    return prompts_of(task, classes)


def _declared(task: Mapping[str, Any]) -> tuple[str, ...]:
    """Classes as family.toml or the dataset's table names them; none where neither does."""
    benchmark = benchmarks().get(task.get("dataset", ""))
    return tuple(task.get("classes", benchmark.classes if benchmark else ()))
