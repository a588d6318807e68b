"""Detection of a family folder's layout: which file is the base, and which are sources.

Known are our own layout (docs/format.md), folders of Hugging Face models, loose state dicts, and
`zeroshot.pt` with `<Task>/finetuned.pt` (Ilharco et al.). What a folder does not tell, family.toml
does. Nothing is opened here but config files.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoints.read import ADAPTER, ADAPTER_WEIGHTS, WEIGHTS
from ..data.names import entry, visible
from ..errors import BadFile
from ..plain_text import read_text
from ..text import normal

ENDINGS = (".safetensors", ".pt", ".pth", ".bin")
SEPARATORS = "_-. "  # between a base's name and what a source adds to it
BASES = ("base", "zeroshot", "pretrained")  # names that say what they are
NOT_MODELS = ("heads", "text", "calibration")  # and head_<Task>, and hidden files
OWN, TOML = "family.json", "family.toml"
ESCAPED = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
FOLDERS = *WEIGHTS, ADAPTER, *ADAPTER_WEIGHTS  # any of these makes a folder a model


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

    def part(self, name: str) -> str:
        """Which of several models in the file of a source or base is meant; empty: not said."""
        return self.about.get("part", {}).get(name, "")


def is_family(folder: Path) -> bool:
    """Whether a folder looks like a family: a file of ours, or two models and more."""
    if (folder / OWN).is_file() or (folder / TOML).is_file():
        return True
    return folder.is_dir() and len(dict(_models(folder))) > 1


def layout(folder: Path) -> Layout:
    """Finds a family's parts; raises BadFile for a bad family.toml or paths out of the folder."""
    about = _normal(described(folder))
    text = _inside(folder, about["text"]) if "text" in about else None
    if (folder / OWN).is_file():  # everything has its place
        sources = dict(_own_sources(folder))
        return Layout(about=about, base=folder / "base.safetensors", sources=sources, text=text)
    about.setdefault("tasks", _tasks(folder))
    models = dict(_apart(_models(folder)))
    base = _inside(folder, about["base"]) if "base" in about else _base(models)
    if "sources" in about:
        sources = {name: _inside(folder, path) for name, path in about["sources"].items()}
    else:
        prefix = normal(base.stem if base.is_file() else base.name) if base else ""
        rest = ((name, path) for name, path in models.items() if path != base)
        sources = dict(_named(folder, rest, prefix))
    heads = {normal(path.stem[5:]): path for path in sorted(folder.glob("head_*.pt"))}
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
    about = read_text(path, json.loads if path == own else tomllib.loads)
    if not isinstance(about, dict) or not isinstance(about.get("sources", {}), dict):
        problem = "cannot be read (it is no table of keys, or its sources are none)"
        raise BadFile(path.name, path, problem, "see docs/format.md")
    return about


def _tasks(folder: Path) -> list[dict[str, str]]:
    """Tasks by the contents of tasks/: an .npz or a folder of pictures per task."""
    places = visible(folder / "tasks")
    names = (p.name if p.is_dir() else p.stem for p in places if p.is_dir() or p.suffix == ".npz")
    return [{"name": normal(name)} for name in names]


def _normal(about: dict[str, Any]) -> dict[str, Any]:
    """A description with the names of sources and tasks in the form that names are compared in.

    What is no name is left to whoever checks it.
    """
    for key in ("sources", "part"):
        if isinstance(about.get(key), dict):
            about[key] = {normal(name): value for name, value in about[key].items()}
    tasks = about.get("tasks")
    for task in tasks if isinstance(tasks, list) else ():
        if isinstance(task, dict) and isinstance(task.get("name"), str):
            task["name"] = normal(task["name"])
        if isinstance(task, dict) and isinstance(task.get("sources"), list):
            names = task["sources"]
            task["sources"] = [normal(name) if isinstance(name, str) else name for name in names]
    return about


def _apart(models: Iterator[tuple[str, Path]]) -> Iterator[tuple[str, Path]]:
    """Models by name; raises BadFile for one name in two Unicode forms."""
    spelt: dict[str, Path] = {}
    for name, path in models:
        former = spelt.setdefault(name, path)
        if normal(former.name) == normal(path.name) and former.name != path.name:
            problem = f"and {former.name} are one name in two Unicode forms"
            raise BadFile("source", path, problem, "rename one of them")
        yield name, path


def _models(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of every model in the folder and in its sources/."""
    for path in visible(folder):
        name = normal(path.name if path.is_dir() else path.stem)
        if path.stem in NOT_MODELS or path.name.startswith("head_"):
            continue
        if path.is_dir() and path.name == "sources":
            yield from _models(path)
        elif path.is_dir() and (path / "finetuned.pt").is_file():
            yield name, path / "finetuned.pt"
        elif _holds(path, FOLDERS) or (path.is_file() and path.suffix in ENDINGS):
            yield name, path


def _own_sources(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of each file and LoRA adapter in sources/; raises BadFile for two of a name."""
    paths = visible(folder / "sources")
    files = [path for path in paths if path.suffix == ".safetensors"]
    folders = [path for path in paths if _holds(path, (ADAPTER, *ADAPTER_WEIGHTS))]
    names: dict[str, Path] = {}
    for path in (*files, *(path for path in folders if path not in files)):
        name = normal(path.stem if path in files else path.name)
        if name in names:
            problem = f"and {names[name].name} would both be called {name}"
            raise BadFile("source", path, problem, "name one of them otherwise")
        names[name] = path
        yield name, path


def _holds(folder: Path, names: Collection[str]) -> bool:
    return any((folder / name).is_file() for name in names)


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


def _spelt(folder: Path, path: str | Path) -> Path:
    """The entry that a path of a description names, with slashes of either kind.

    What TOML reads in "models\\tiny" as the end of a word was meant as a letter behind a slash, if
    that names a file.
    """
    target = entry(folder, path)
    if os.path.lexists(target):
        return target
    plain = "".join(ESCAPED.get(letter, letter) for letter in str(path)).replace("\\", "/")
    meant = entry(folder, plain)
    return meant if os.path.lexists(meant) else target


def _inside(folder: Path, path: object) -> Path:
    """The path, if it stays in the folder of families, links followed; raises BadFile."""
    if not isinstance(path, str | Path):
        raise BadFile(TOML, folder / TOML, f"has {path!r} for a path", "give text")
    target = _spelt(folder, path)
    if not Path(os.path.realpath(target)).is_relative_to(os.path.realpath(folder.parent)):
        remedy = "put the file itself into the family's folder"
        raise BadFile(f"{TOML} or link", target, "leads out of the folder of families", remedy)
    return target
