"""Detection of a family folder's layout: which file is the base, and which are sources.

Known are our own layout (docs/format.md), folders of Hugging Face models, loose state dicts, and
`zeroshot.pt` with `<Task>/finetuned.pt` (Ilharco et al.). What a folder does not tell, family.toml
does. Nothing is opened here but config files.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.folders import ADAPTER, ADAPTER_WEIGHTS, WEIGHTS
from ..checkpoints.foreign import ENDINGS
from ..data.names import entry, visible
from ..errors import BadFile, LostLink
from ..places import REPOSITORY, allowing, given, links_in, lost_link, roots, snapshot, within
from ..plain_text import read_text
from ..text import normal

# What a trainer leaves beside a model, by the names of transformers, accelerate and deepspeed.
LEFTOVERS = re.compile(
    r"(lr_)?scheduler|(optimi[sz]er|optim)(_\d+)?|scaler|training_args|trainer_state|rng_state(_\d+)?|"
    r"random_states_\d+|.*_optim_states"
)
SEPARATORS = "_-. "  # between a base's name and what a source adds to it
BASES = ("base", "zeroshot", "pretrained")  # names that say what they are
NOT_MODELS = ("heads", "text", "calibration")  # and head_<Task>, and hidden files
OWN, TOML = "family.json", "family.toml"
CALIBRATION = "calibration.npz"
ESCAPED = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
FOLDERS = *WEIGHTS, ADAPTER, *ADAPTER_WEIGHTS  # any of these makes a folder a model


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The paths of a family's parts.

    Args:
        about: family.json or family.toml as it is, empty where there is neither.
        describes_all: whether it is family.json, which nothing beside the base adds to.
        base: None where the folder does not tell.
        sources, heads: files or folders by source and by task.
        text: what holds the text tower, where it is not the base.
        calibration: the file, or folder of pictures, of unlabeled images; it need not exist.
    """

    about: Mapping[str, Any]
    describes_all: bool
    base: Path | None
    sources: Mapping[str, Path]
    heads: Mapping[str, Path]
    text: Path | None
    calibration: Path

    def part(self, name: str) -> str:
        """Which of several models in the file of a source or base is meant; empty: not said."""
        return self.about.get("part", {}).get(name, "")


def is_family(folder: Path) -> bool:
    """Whether a folder looks like a family: a file of ours, or two models and more."""
    if os.path.lexists(folder / OWN) or os.path.lexists(folder / TOML):
        return True
    return folder.is_dir() and len(dict(_models(folder))) > 1


def layout(folder: Path) -> Layout:
    """Finds a family's parts; raises BadFile for a bad family.toml or paths out of the folder."""
    about, own = _normal(described(folder)), os.path.lexists(folder / OWN)
    if own:  # everything has its place
        base, sources, heads = folder / "base.safetensors", dict(_own_sources(folder)), {}
    else:
        about.setdefault("tasks", _tasks(folder))
        base, sources = _base_and_sources(folder, about)
        heads = {normal(path.stem[5:]): path for path in sorted(folder.glob("head_*.pt"))}
    return Layout(
        about=about,
        describes_all=own,
        base=None if base is None else unbroken(folder, base),
        sources={name: unbroken(folder, path) for name, path in sources.items()},
        heads={name: unbroken(folder, path) for name, path in heads.items()},
        text=unbroken(folder, about["text"]) if "text" in about else None,
        calibration=inside(folder, about.get("calibration", CALIBRATION)),
    )


def _base_and_sources(
    folder: Path, about: Mapping[str, Any]
) -> tuple[Path | None, Mapping[str, Path]]:
    """The base and the sources that family.toml names, or else all models that lie there."""
    told = "base" in about and "sources" in about
    models = {} if told else dict(_apart(_models(folder), f", or name one in {TOML}"))
    base = unbroken(folder, about["base"]) if "base" in about else _base(models)
    if "sources" in about:
        return base, {name: unbroken(folder, path) for name, path in about["sources"].items()}
    prefix = ""
    if base is not None:
        named = normal(_stem(base) if base.is_file() else base.name)
        prefix = next((name for name, path in models.items() if path == base), named)
    rest = ((name, path) for name, path in models.items() if path != base)
    return base, dict(_named(folder, rest, prefix))


def described(folder: Path) -> dict[str, Any]:
    """The content of family.json or family.toml; raises BadFile if it cannot be read."""
    own, toml = folder / OWN, folder / TOML
    path = own if os.path.lexists(own) else toml
    if not os.path.lexists(path):
        return {}
    unbroken(folder, path, path.name)
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


def _apart(models: Iterator[tuple[str, Path]], remedy: str = "") -> Iterator[tuple[str, Path]]:
    """Models by name; raises BadFile for two of one name, in whatever files and Unicode forms."""
    former: dict[str, Path] = {}
    for name, path in models:
        if name in former:
            other = former[name]
            place = other.name if other.name != path.name else f"{other.parent.name}/{other.name}"
            problem = f"and {place} would both be called {name}"
            if other.name != path.name and normal(other.name) == normal(path.name):
                problem += ", one name in two Unicode forms"
            raise BadFile("source", path, problem, f"rename one of them, or move it away{remedy}")
        former[name] = path
        yield name, path


def _models(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of every model in the folder and in its sources/."""
    for path in visible(folder):
        if _stem(path) in NOT_MODELS or path.name.startswith("head_"):
            continue
        if path.is_dir() and path.name == "sources":
            yield from _models(path)
        else:
            yield from _model(path)


def _own_sources(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of each model in the sources/ of a folder that has a family.json."""
    return _apart(model for path in visible(folder / "sources") for model in _model(path))


def _model(path: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of a model; nothing where there is none."""
    is_named = path.name.endswith(ENDINGS) or not path.is_dir()
    name = normal(_stem(path) if is_named else path.name)
    if (newest := snapshot(path)) != path:
        owner_and_name = name.removeprefix(REPOSITORY).split("--")
        name, path = owner_and_name[-1], newest
    if path.is_dir() and os.path.lexists(path / "finetuned.pt"):
        yield name, path / "finetuned.pt"
    elif _holds(path, FOLDERS) or _is_model(path):
        yield name, path


def _is_model(path: Path) -> bool:
    """Whether it is a model's file by its name; or was one, or a folder, as a link that is lost."""
    named = path.name.endswith(ENDINGS) and not LEFTOVERS.fullmatch(_stem(path))
    if os.path.islink(path) and not os.path.exists(path):
        return named or not path.suffix
    return named and path.exists()  # a folder called so is refused when it is opened


def _stem(path: Path) -> str:
    """A file's name without the ending of a checkpoint, else without its last."""
    ending = next((ending for ending in ENDINGS if path.name.endswith(ending)), path.suffix)
    return path.name.removesuffix(ending)


def _holds(folder: Path, names: Collection[str]) -> bool:
    return any(os.path.lexists(folder / name) for name in names)


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


def _spelt(folder: Path, path: Path) -> Path:
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


def inside(folder: Path, path: object) -> Path:
    """The path of a family's part, if it stays in the folder of families or in what the user allows
    by $MLOSS_ROOTS, links followed; raises BadFile.

    A family may be somebody else's: what it names or links to must not be the user's own unasked.

    Args:
        path: as text where a description names it, from the family's folder.
    """
    if not isinstance(path, str | Path):
        raise BadFile(TOML, folder / TOML, f"has {path!r} for a path", "give text")
    argument = f"{TOML} or link"
    try:
        target = snapshot(path if isinstance(path, Path) else _spelt(folder, given(path)))
        astray = (at for at in (target, *links_in(target)) if not within(at, reach(folder)))
        out = next(astray, None)
    except (OSError, ValueError) as error:
        raise BadFile(argument, path, "is nothing that a file can be", "name a file") from error
    if out is not None:
        problem = f"leads out of the folder of families, to {os.path.realpath(out)}"
        remedy = f"put the file itself there, or allow its folder: {allowing(out)}"
        raise BadFile(argument, out, problem, remedy)
    return target


def reach(folder: Path) -> tuple[str, ...]:
    """The folders that a family's parts may lie in."""
    return str(folder.parent), *roots()


def unbroken(folder: Path, path: object, argument: str = "model") -> Path:
    """The same; raises LostLink where it is a link to nothing, too.

    Args:
        argument: what errors call it.
    """
    target = inside(folder, path)
    if lost := lost_link(target):
        raise LostLink(argument, lost)
    return target
