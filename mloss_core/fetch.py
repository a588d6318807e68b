"""Downloads of open_clip's models and torchvision's datasets."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from .benchmarks import benchmarks
from .datasets import GONE, by_hand, opened
from .dialects import OPEN_CLIP_CONFIG, WEIGHTS
from .errors import BadFile, BadValue, MlossError
from .hub import base_by_hand, base_config, pretrained


def fetch_base(folder: Path, name: str) -> bool:
    """Downloads a base by open_clip's name into a family's folder; False if it is there already.

    open_clip and huggingface_hub download it into their cache, where a broken download goes on.

    Raises:
        BadValue: open_clip knows no such CLIP.
        BadFile: the download failed.
    """
    if (folder / name).exists():
        return False
    config = base_config(name)
    import open_clip

    with _aside(folder, name, base_by_hand(name, folder)) as aside:
        file = Path(open_clip.download_pretrained(pretrained(name) or {}))
        called = file.name if file.name in WEIGHTS else "open_clip_pytorch_model.bin"
        (aside / name).mkdir(parents=True)
        _link(file.resolve(), aside / name / called)
        (aside / name / OPEN_CLIP_CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
        (folder / name).parent.mkdir(exist_ok=True)
        (aside / name).rename(folder / name)
    return True


def can_fetch(dataset: str) -> bool:
    """Whether torchvision can download a dataset."""
    return bool(benchmarks()[dataset].files) and dataset not in GONE


def fetch_dataset(root: Path, dataset: str) -> bool:
    """Downloads a dataset below the root, whole or not at all; False if it is there already.

    Raises:
        BadValue: torchvision cannot fetch it.
        BadFile: the download failed, or something else lies in its place.
    """
    if _is_there(root, dataset):
        return False
    if not can_fetch(dataset):
        raise BadValue("dataset", dataset, "cannot be downloaded", by_hand(dataset, root))
    with _aside(root, dataset, by_hand(dataset, root)) as aside:
        for split in ("test", "val"):
            opened(aside, dataset, split, download=True)
        parts = sorted(aside.iterdir())
        for part in parts:
            if (root / part.name).exists():
                problem = f"is in the way of {dataset}"
                raise BadFile("fetch", root / part.name, problem, "move it away first")
        for part in parts:
            part.rename(root / part.name)
    return True


@contextmanager
def _aside(root: Path, what: str, remedy: str) -> Iterator[Path]:
    """A temporary folder for a download, removed afterwards; errors become BadFile."""
    aside = root / f".{uuid4().hex}.part"
    try:
        aside.mkdir(parents=True)
        yield aside
    except MlossError:
        raise
    except Exception as error:  # of the network, of the disk, of damaged archives
        problem = f"{what} could not be fetched ({type(error).__name__}: {error})"
        raise BadFile("fetch", root, problem, f"try again, or {remedy}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _is_there(root: Path, dataset: str) -> bool:
    try:
        for split in ("test", "val"):
            opened(root, dataset, split)
    except Exception:  # whatever is wrong with it: it is to be fetched
        return False
    return True


def _link(file: Path, target: Path) -> None:
    """Hard-links a file, or copies it where the disk has no links across."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)
