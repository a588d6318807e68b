"""Labelled images of torchvision's datasets, by name, without downloading."""

from __future__ import annotations

import inspect
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from ..errors import BadFile
from .benchmarks import benchmarks
from .images import Pictures, Resized
from .names import is_hidden, visible
from .tasks import Task, check_labels

WHOLE = ("EuroSAT", "SUN397")  # come without any split
BY_FLAG = ("MNIST", "FashionMNIST", "CIFAR100")  # torchvision asks for train=, not for split=
VALIDATED = ("DTD", "Flowers102")  # have validation images of their own
CHANNELS_FIRST = ("SVHN", "STL10")
# Whose files name the classes: their order must be that of our table.
NAMED = ("StanfordCars", "DTD", "SUN397", "Food101", "STL10", "CIFAR100")
GONE = ("StanfordCars",)  # no longer downloadable
SEED = 0  # of the splits that are ours
SHARE, MOST = 10, 5000  # one image in ten, and of a training split never more than 5000


def datasets_root(folder: Path) -> Path:
    """The folder of a family's datasets: $MLOSS_DATASETS, else datasets/ in its folder."""
    return Path(os.environ.get("MLOSS_DATASETS") or folder / "datasets").expanduser()


def load_dataset(
    root: Path,
    dataset: str,
    split: str,
    size: int,
    classes: Sequence[str],
    skipped: Sequence[str],
    remedy: str,
    **about: str,
) -> Task:
    """The task of one split ("test" or "val") of a torchvision dataset below the root.

    Args:
        skipped: pictures left out on the user's word, relative to the root.
        remedy: what to do where it is not there.
        about: name, title and kind.

    Raises:
        BadFile: it is not there, or not what torchvision expects.
    """
    argument = f"task {about['name']}"
    try:
        tv_dataset = opened(root, dataset, split)
        images, labels = _contents(tv_dataset, root, dataset, size)
    except Exception as error:  # damaged files raise a dozen kinds
        # A RuntimeError is torchvision's word for files that are not there, or not as published.
        missing = isinstance(error, RuntimeError)
        reason = "all of it, as published" if missing else f"{type(error).__name__}: {error}"
        problem = f"does not hold torchvision's {dataset} ({reason})"
        raise BadFile(argument, root, problem, remedy) from error
    _check_classes(getattr(tv_dataset, "classes", None), dataset, argument, root)
    check_labels(labels, len(labels), len(classes), argument, root)
    chosen = _chosen(dataset, split, len(labels))
    if isinstance(images, Pictures) and skipped:
        out = {root / name for name in skipped}
        chosen = np.array([i for i in chosen if images.paths[i] not in out], np.int64)
    return Task(images=images[chosen], labels=labels[chosen], classes=tuple(classes), **about)


def opened(root: Path, dataset: str, split: str, download: bool = False) -> Any:
    """The torchvision dataset of that name, which gives paths instead of decoded pictures."""
    import torchvision  # comes with open_clip; takes a second

    kind = getattr(torchvision.datasets, dataset)
    if issubclass(kind, torchvision.datasets.ImageFolder):
        kind = type(dataset, (kind,), {"find_classes": lambda _, place: _visible_classes(place)})
    options: dict[str, Any] = {"download": True} if download else {}
    if "loader" in inspect.signature(kind).parameters:
        options["loader"] = str
    part = "train" if split == "val" and dataset not in VALIDATED else split
    if dataset in BY_FLAG:
        options["train"] = part == "train"
    elif dataset not in WHOLE:
        options["split"] = part
    return kind(root, **options)


def _visible_classes(place: str | Path) -> tuple[list[str], dict[str, int]]:
    """What ImageFolder finds as classes, but for hidden folders."""
    names = [path.name for path in visible(Path(place)) if path.is_dir()]
    return names, {name: number for number, name in enumerate(names)}


def _contents(
    tv_dataset: Any, root: Path, dataset: str, size: int
) -> tuple[Pictures | Resized, Int64[np.ndarray, " n"]]:
    """All images and labels of an opened dataset."""
    if hasattr(tv_dataset, "data"):
        pixels = np.asarray(tv_dataset.data)
        if dataset in CHANNELS_FIRST:
            pixels = pixels.transpose(0, 2, 3, 1)
        labels = np.asarray(
            tv_dataset.targets if hasattr(tv_dataset, "targets") else tv_dataset.labels
        )
        return Resized(pixels, np.arange(len(pixels)), size), labels.astype(np.int64)
    # GTSRB takes no loader, so that only its own list tells paths without decoding them.
    pairs = (
        tv_dataset._samples
        if dataset == "GTSRB"
        else [tv_dataset[i] for i in range(len(tv_dataset))]
    )
    pairs = sorted((Path(path), int(label)) for path, label in pairs)  # disks list in any order
    pairs = [(path, label) for path, label in pairs if not is_hidden(path.name)]
    if any(".." in path.relative_to(root).parts for path, _ in pairs):
        raise ValueError("it names pictures that lie elsewhere")
    labels = np.array([label for _, label in pairs], np.int64)
    return Pictures(tuple(path for path, _ in pairs), size), labels


def _chosen(dataset: str, split: str, total: int) -> Int64[np.ndarray, " n"]:
    """Indices of a split's images: all of an official split, else a seeded draw."""
    order = np.random.default_rng(SEED).permutation(total)
    share = max(1, total // SHARE)
    if dataset in WHOLE:  # the first tenth tests, the second validates
        return np.sort(order[:share] if split == "test" else order[share : 2 * share])
    if split == "val" and dataset not in VALIDATED:  # taken from the training images
        return np.sort(order[: min(share, MOST)])
    return np.arange(total)


def _check_classes(names: Sequence[str] | None, dataset: str, argument: str, root: Path) -> None:
    """Raises BadFile where a dataset's own class names are not in the order of our table."""
    if names is None or dataset not in NAMED:
        return
    ours = benchmarks()[dataset].classes
    words = [[re.findall("[a-z0-9]+", name.lower()) for name in side] for side in (names, ours)]
    odd = [name for name, expected in zip(*words, strict=False) if name != expected]
    if odd or len(names) != len(ours):
        difference = (
            f"its class {' '.join(odd[0])} is not" if odd else f"{len(names)} classes are not"
        )
        problem = (
            f"holds another {dataset} than torchvision's: {difference} among {len(ours)} in order"
        )
        raise BadFile(argument, root, problem, "fetch it again")


def advice(dataset: str, folder: Path, task: str) -> str:
    """The remedy for a task whose images are missing."""
    in_torchvision = bool(benchmarks()[dataset].files)
    put = by_hand(dataset, datasets_root(folder) if in_torchvision else folder / "tasks" / task)
    if not in_torchvision or dataset in GONE:
        return put
    family, task = shlex.quote(folder.name), shlex.quote(task)
    return f"run python -m mloss_core fetch {family} --tasks {task}, or {put}"


def by_hand(dataset: str, place: Path) -> str:
    """The remedy without a download: which files to put where."""
    if not benchmarks()[dataset].files:
        return f"put pictures into {place}/test/CLASS/, a folder per class"
    gone = "; it is no longer offered for download" if dataset in GONE else ""
    return f"put {benchmarks()[dataset].files} into {place}{gone}"
