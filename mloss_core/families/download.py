"""Downloads of open_clip's models and torchvision's datasets."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..atomic_files import UNIQUE, sweep
from ..checkpoints.read import OPEN_CLIP_CONFIG, WEIGHTS
from ..data.benchmarks import benchmarks
from ..data.datasets import GONE, by_hand, opened
from ..errors import BadFile, BadValue, MlossError

DOWNLOADS = re.compile(rf"\.{UNIQUE}\.part")  # the hidden folders that they are written into


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
    sweep(root, DOWNLOADS)
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


def pretrained(name: str) -> dict[str, Any] | None:
    """open_clip's pretrained config of a model by its name and tag; None if unknown."""
    import open_clip  # takes seconds

    model, _, tag = name.partition("/")
    return open_clip.get_pretrained_cfg(model, tag) or None


def base_by_hand(name: str, folder: Path) -> str:
    """The remedy without a download: which file to put where."""
    page = str((pretrained(name) or {}).get("hf_hub", "")).strip("/")
    return f"put open_clip_model.safetensors of huggingface.co/{page} into {folder / name}"


def base_config(name: str) -> dict[str, Any]:
    """The open_clip_config.json of a model by its name and tag.

    Raises:
        BadValue: open_clip does not know it, or it is no CLIP of two transformers.
    """
    import open_clip

    model, pretrained_cfg = open_clip.get_model_config(name.partition("/")[0]), pretrained(name)
    if model is None or pretrained_cfg is None:
        remedy = 'see open_clip.list_pretrained(), or write base = "FILE"'
        raise BadValue("base", name, "is no model of open_clip's", remedy)
    vision = model["vision_cfg"]
    if type(vision.get("layers")) is not int or not vision.get("patch_size"):
        raise BadValue("base", name, "is no CLIP ViT", "choose one of the names ViT-*")
    # Weights go before names: ViT-B-32/openai was trained with QuickGELU, too.
    quick_gelu = bool(pretrained_cfg.get("quick_gelu", model.get("quick_gelu", False)))
    preprocess = {
        key: list(pretrained_cfg[key]) for key in ("mean", "std") if key in pretrained_cfg
    }
    return {"model_cfg": {**model, "quick_gelu": quick_gelu}, "preprocess_cfg": preprocess}
