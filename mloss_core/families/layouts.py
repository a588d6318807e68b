"""Detection of a family folder's layout: which file is the base, and which are sources.

Known are our own layout (docs/format.md), folders of Hugging Face models, loose state dicts, and
`zeroshot.pt` with `<Task>/finetuned.pt` (Ilharco et al.). What a folder does not tell, family.toml
does. Nothing is opened here but config files.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoints.read import ADAPTER, WEIGHTS
from ..errors import BadFile

ENDINGS = (".safetensors", ".pt", ".pth", ".bin")
SEPARATORS = "_-. "  # between a base's name and what a source adds to it
BASES = ("base", "zeroshot", "pretrained")  # names that say what they are
NOT_MODELS = ("heads", "text", "calibration")  # and head_<Task>, and hidden files
OWN, TOML = "family.json", "family.toml"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The paths of a family's parts.

    Args:
        about: family.json or family.toml as it is, empty where there is neither.
        base: None where the folder does not tell.
        sources, heads: files or folders by source and by task.
        text: what holds the text tower, where it is not the base.
    """

    about: Mapping[str, Any]
    base: Path | None
    sources: Mapping[str, Path]
    heads: Mapping[str, Path] = field(default_factory=dict)
    text: Path | None = None


def is_family(folder: Path) -> bool:
    """Whether a folder looks like a family: a file of ours, or two models and more."""
    if (folder / OWN).is_file() or (folder / TOML).is_file():
        return True
    return folder.is_dir() and len(dict(_models(folder))) > 1


def layout(folder: Path) -> Layout:
    """Finds a family's parts; raises BadFile for a bad family.toml or paths out of the folder."""
    about = described(folder)
    text = _inside(folder, about["text"]) if "text" in about else None
    if (folder / OWN).is_file():  # everything has its place
        sources = {path.stem: path for path in sorted((folder / "sources").glob("*.safetensors"))}
        return Layout(about=about, base=folder / "base.safetensors", sources=sources, text=text)
    about.setdefault("tasks", _tasks(folder))
    models = dict(_models(folder))
    base = _inside(folder, about["base"]) if "base" in about else _base(models)
    if "sources" in about:
        sources = {name: _inside(folder, path) for name, path in about["sources"].items()}
    else:
        prefix = base.stem if base and base.is_file() else base.name if base else ""
        rest = ((name, path) for name, path in models.items() if path != base)
        sources = dict(_named(folder, rest, prefix))
    heads = {path.stem[5:]: path for path in sorted(folder.glob("head_*.pt"))}
    for path in (base, *sources.values(), *heads.values()):
        if path is not None:
            _inside(folder, path)
    return Layout(about=about, base=base, sources=sources, heads=heads, text=text)


def described(folder: Path) -> dict[str, Any]:
    """The content of family.json or family.toml; raises BadFile if it cannot be read."""
    own, toml = folder / OWN, folder / TOML
    path = own if own.is_file() else toml
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        about = json.loads(text) if path == own else tomllib.loads(text)
        if not isinstance(about, dict) or not isinstance(about.get("sources", {}), dict):
            raise ValueError("it is no table of keys, or its sources are none")
        return about
    except (OSError, ValueError, RecursionError) as error:
        problem = f"cannot be read ({error!r})"
        raise BadFile(path.name, path, problem, "see docs/format.md") from error


def _tasks(folder: Path) -> list[dict[str, str]]:
    """Tasks by the contents of tasks/: an .npz or a folder of pictures per task."""
    places = sorted((folder / "tasks").glob("*"))
    names = (p.name if p.is_dir() else p.stem for p in places if p.is_dir() or p.suffix == ".npz")
    return [{"name": name} for name in names]


def _models(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of every model in the folder and in its sources/."""
    for path in sorted(folder.iterdir()):
        if path.stem in NOT_MODELS or path.name.startswith(("head_", ".")):
            continue
        if path.is_dir() and path.name == "sources":
            yield from _models(path)
        elif path.is_dir() and (path / "finetuned.pt").is_file():
            yield path.name, path / "finetuned.pt"
        elif path.is_dir() and any((path / name).is_file() for name in (*WEIGHTS, ADAPTER)):
            yield path.name, path
        elif path.is_file() and path.suffix in ENDINGS:
            yield path.stem, path


def _base(models: Mapping[str, Path]) -> Path | None:
    """The path of the base, by its name or as the common prefix of all names."""
    for name in BASES:
        if name in models:
            return models[name]
    shortest = min(models, key=len, default="")
    if len(models) > 1 and all(name.startswith(shortest) for name in models):
        return models[shortest]
    return None


def _named(
    folder: Path, models: Iterator[tuple[str, Path]], prefix: str
) -> Iterator[tuple[str, Path]]:
    """Sources named without the base's prefix; raises BadFile if two get one name."""
    paths: dict[str, Path] = {}
    for name, path in models:
        rest = name.removeprefix(prefix)
        short = rest.strip(SEPARATORS) if rest != name and rest[:1] in SEPARATORS else name
        if short in paths:
            problem = f"and {path.name} would both be called {short}"
            raise BadFile("source", paths[short], problem, f"name them in {TOML}")
        paths[short] = path
        yield short, path


def _inside(folder: Path, path: object) -> Path:
    """The path, if it stays in the folder of families, links followed; raises BadFile."""
    if not isinstance(path, str | Path):
        raise BadFile(TOML, folder / TOML, f"has {path!r} for a path", "give text")
    target = folder / path
    if not Path(os.path.realpath(target)).is_relative_to(os.path.realpath(folder.parent)):
        remedy = "put the file itself into the family's folder"
        raise BadFile(f"{TOML} or link", target, "leads out of the folder of families", remedy)
    return target
