"""The picture that a family ships, so that the first visit sees it at once. No torch, no library.

scripts/first_picture.py makes it by the very jobs of the page.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

FILE = "picture.json"


@functools.lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def shipped(folder: Path) -> dict[str, Any] | None:
    """The picture in a family's folder, with the names and settings that it is of; None where
    there is none."""
    path = folder / FILE
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError):
        return None  # it would only be faster: the page measures all of it by itself


def identity(family: Any, recipe: Any) -> dict[str, Any]:
    """What a picture is of: the recipe and the files."""
    fields = dataclasses.asdict(recipe) | {"sources": list(recipe.sources)}
    fields["blocks"] = None if recipe.blocks is None else list(recipe.blocks)
    return {"recipe": fields, "files": [family.source(name).sha256 for name in recipe.sources]}


def picture(family: Any, recipe: Any) -> dict[str, Any]:
    """The shipped picture where it is of this recipe and these files; else nothing."""
    first = shipped(family.folder)
    return first["picture"] if first and first["of"] == identity(family, recipe) else {}


def references(family: Any) -> dict[str, Any]:
    """What merges are compared with, where the shipped picture is of this family's files."""
    first = shipped(family.folder)
    same = first and first["of"]["files"] == [family.source(s).sha256 for s in family.sources]
    return {"references": first["picture"]["references"]} if first and same else {}


def grid_and_map(family: Any, recipe: Any) -> dict[str, Any]:
    """The shipped grid, and a map, which names its own k and e, where everything else is the same.

    Args:
        recipe: as `live.grid_of` makes it.
    """
    first = shipped(family.folder)
    if not first or first["grid_of"] != identity(family, recipe):
        return {}
    return {"grid": first["grid"], "scores": first["picture"]["scores"]}


def first_sight(folder: Path) -> dict[str, Any] | None:
    """What the view draws from before the library is loaded; None where nothing is shipped."""
    first = shipped(folder)
    if first is None:
        return None
    passing = {"epoch": 0, "visitor": "", "live": False, "follow": "", "said": "", "kept": None}
    passing |= {"isKept": False}
    shown = first["picture"] | {"grid": first["grid"]}
    return {**first["frame"], **passing, "problem": "", "picture": shown, "settled": False}
