"""Checkpoint folders of Hugging Face, open_clip and mergekit: weights in one file or in shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import BadFile
from ..places import check_plain
from ..plain_text import read_text
from .files import FormatError
from .foreign import foreign_folder

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
ADAPTER = "adapter_config.json"  # of a LoRA adapter, which is no model of its own
ADAPTER_WEIGHTS = "adapter_model.safetensors", "adapter_model.bin"
OPEN_CLIP_CONFIG = "open_clip_config.json"
CONFIGS = ("config.json", OPEN_CLIP_CONFIG)


def weight_files(path: Path) -> tuple[Path, ...]:
    """The files that hold a checkpoint's weights: the path itself, or those of the folder.

    An adapter's config is the second of two, since its weights depend on it.

    Raises:
        FormatError: the folder has none, or an index that is no index.
        FileNotFoundError: the path does not exist.
    """
    if not path.is_dir():
        check_plain(path)
        beside = path.with_name(ADAPTER)
        return (path, beside) if path.name in ADAPTER_WEIGHTS and beside.is_file() else (path,)
    for name in WEIGHTS:
        if (path / name).is_file():
            return _shards(path, path / name) if name.endswith(".json") else (path / name,)
    for name in ADAPTER_WEIGHTS:
        if (path / name).is_file():
            return weight_files(path / name)
    if (path / ADAPTER).is_file():
        problem = f"has {ADAPTER}, but no {' or '.join(ADAPTER_WEIGHTS)}"
        raise FormatError(problem, "fetch that file too")
    raise foreign_folder(path)


def _shards(folder: Path, index: Path) -> tuple[Path, ...]:
    table = read_json(index)
    names = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(names, dict) or not names:
        raise FormatError(f"has an {index.name} without weight_map")
    for name in names.values():
        if (
            not isinstance(name, str)
            or Path(name).name != name
            or "\\" in name
            or "\0" in name
            or name == ".."
        ):
            raise FormatError(f"has an {index.name} that names files elsewhere", "list plain names")
    shards = sorted(set(names.values()))
    for name in shards:
        if not (folder / name).is_file():
            raise FormatError(
                f"lacks {name[:80]}, which its {index.name} names", "fetch that file too"
            )
    return tuple(folder / name for name in shards)


def read_config(path: Path) -> dict[str, Any] | None:
    """The config.json of a folder, or beside a file named as in such folders; None if none.

    Raises:
        FormatError: it is no JSON object.
    """
    configs = (json_beside(path, name) for name in CONFIGS)
    return next((config for config in configs if config is not None), None)


def config_file(path: Path) -> Path | None:
    """The file that `read_config` reads; None if there is none."""
    places = (_beside(path, name) for name in CONFIGS)
    return next((place for place in places if place and place.is_file()), None)


def json_beside(path: Path, name: str) -> dict[str, Any] | None:
    """The JSON object of that file name beside the weights, or None; raises FormatError.

    Beside a single file only where it is named as in such folders.
    """
    place = _beside(path, name)
    if place is None or not place.is_file():
        return None
    value = read_json(place)
    if not isinstance(value, dict):
        raise FormatError(f"has a {name} that is no JSON object")
    return value


def _beside(path: Path, name: str) -> Path | None:
    if path.is_dir():
        return path / name
    return path.parent / name if path.name in WEIGHTS else None


def read_json(path: Path) -> Any:
    """What a JSON file holds; raises FormatError."""
    try:
        return read_text(path, json.loads)
    except BadFile as error:
        raise FormatError(f"has a {path.name} that {error.problem}", error.remedy) from error
