"""The folders of model families: which there are, and where."""

from __future__ import annotations

import os
from pathlib import Path

from ..data.names import is_hidden, visible
from ..errors import BadValue, UnknownName
from ..places import assets, given
from ..text import normal
from .layouts import is_family

ZOO = assets() / "zoo"


def roots() -> tuple[Path, ...]:
    """Folders that hold families: the embedded zoo, and $MLOSS_MODELS."""
    return ZOO, given(os.environ.get("MLOSS_MODELS", "models"))


def families() -> tuple[str, ...]:
    """Names of all families found."""
    folders = (path for root in roots() for path in visible(root))
    return tuple(dict.fromkeys(normal(folder.name) for folder in folders if is_family(folder)))


def find(name: str) -> Path:
    """The folder of the family of that name; raises BadValue, UnknownName."""
    if not name.strip() or is_hidden(name) or set(name) & set("/\\\0"):
        remedy = f"choose from {', '.join(families())}"
        raise BadValue("family", name, "is not a plain name but a path or empty", remedy)
    for root in roots():
        for folder in visible(root):
            if normal(folder.name) == normal(name) and is_family(folder):
                return folder
    raise UnknownName("family", name, families())
