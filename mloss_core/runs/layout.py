"""The folder of runs: its path, file names, writing and error translation."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from ..atomic_files import sweep
from ..errors import BadFile
from ..places import check_plain, given

PART = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part")  # a folder that is still written, or was
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,150}")
MOST_BYTES = 1 << 28  # of a text in a run's folder
RECIPE, STATE, EVENTS, RECORD = "recipe.json", "state.json", "events.jsonl", "record.json"
CELL = "cell-"  # what the ids of cells begin with, and no others
HITS, SCORES, MODEL, TITLE = "hits.npz", "scores.safetensors", "model.safetensors", "title.txt"


def root() -> Path:
    """The folder of all runs."""
    return given(os.environ.get("MLOSS_RUNS", "runs"))


@contextlib.contextmanager
def as_bad_file(name: str) -> Iterator[None]:
    """Translates every error of reading a run's folder into BadFile."""
    try:
        yield
    except BadFile:
        raise
    except Exception as error:
        problem = f"cannot be read ({error})"
        raise BadFile("run", name, problem, "choose another, or delete its folder") from error


def text_of(path: Path) -> str:
    """What a run's text file holds; raises OSError where it is no file, or larger than any."""
    check_plain(path)
    if (size := path.stat().st_size) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"{path.name} has {size} bytes, far too many for text")
    return path.read_text(encoding="utf-8")


def folders() -> Iterator[tuple[str, Path]]:
    """Id and path of every run's folder, those of ended runs first."""
    with contextlib.suppress(OSError):
        names = sorted(entry.name for entry in os.scandir(root()) if entry.is_dir())
        yield from ((name, root() / name) for name in names if PLAIN.fullmatch(name))
        for name in names:
            if part := PART.fullmatch(name):
                yield part[1], root() / name


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Translates every error of writing into BadFile that names the folder of runs."""
    try:
        yield
    except BadFile as error:
        if error.field in ("run", "runs"):
            raise
        raise _unwritable(error) from error
    except OSError as error:
        raise _unwritable(error) from error


def _unwritable(error: Exception) -> BadFile:
    remedy = "free space, or set MLOSS_RUNS to another folder"
    return BadFile("runs", root(), f"cannot be written ({error})", remedy)


def put(path: Path, text: str) -> None:
    """Writes a small file whole or not at all; what killed writers left of it is removed."""
    sweep(path.parent, re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}"))
    aside = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
