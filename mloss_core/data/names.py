"""Names of files and folders: which nobody means, when two are the same, and in which order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..text import normal

# What systems and tools put beside people's files, in small letters; and all that begins with ".".
SYSTEM = frozenset(
    (
        "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "__pycache__", "@eadir",
        "$recycle.bin", "system volume information", "lost+found",
    )
)  # fmt: skip
LISTED = 12  # names in a message


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden or a system's own, and so nobody's data."""
    return name.startswith(".") or name.lower() in SYSTEM


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, by name, but what is hidden; nothing where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name))


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, by name, but what is hidden or lies in what is; links that lead to
    nothing with them."""
    files = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        files += [Path(place, name) for name in names if not is_hidden(name)]
    # Not by Path, which raises where a link leads to what this user may not look at.
    return sorted(path for path in files if os.path.isfile(path) or os.path.islink(path))


def entry(folder: Path, name: str | Path) -> Path:
    """The path of that name in a folder, whichever Unicode form the disk has each part in."""
    place = folder
    for part in Path(name).parts:
        same = (path for path in visible(place) if normal(path.name) == normal(part))
        place = place / part if (place / part).exists() else next(same, place / part)
    return place


def in_order(names: Iterable[str]) -> list[str]:
    """Names as numbers where all are whole numbers, else as text."""
    names = list(names)
    if all(name.isascii() and name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def by_number(names: Iterable[str]) -> list[str]:
    """Names with the numbers in them compared as numbers: a2 before a10."""

    def parts(name: str) -> list[str | int]:
        pieces = re.split("([0-9]+)", name)
        return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)]

    return sorted(names, key=parts)


def listed(names: Sequence[str]) -> str:
    """The first names of a list, and how many there are."""
    more = f" ... ({len(names)})" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
