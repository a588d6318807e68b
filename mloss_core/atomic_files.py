"""Atomic writing of output files and folders: whole or not at all.

They are written in a hidden folder beside their place, and renamed. A killed writer leaves that
folder; whoever writes beside it later removes it.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError

from .errors import BadFile

UNIQUE = "[0-9a-f]{32}"
ASIDE = re.compile(rf"\..+\.{UNIQUE}\.part")
DEAD = 3600.0  # seconds without a change after which what lies aside has no writer any more


def check_output(path: Path, argument: str = "out", remedy: str = "name another file") -> None:
    """Raises BadFile if the output exists or its folder doesn't."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise BadFile(
            argument, path, f"cannot be written ({error})", "name another file"
        ) from error
    else:
        raise BadFile(argument, path, "exists and is never overwritten", remedy)
    if not path.parent.is_dir():
        raise BadFile(
            argument, path, "is in a folder that does not exist", "create the folder first"
        )
    if not os.access(path.parent, os.W_OK):
        raise BadFile(argument, path, "is in a folder that cannot be written to", "name another")


@contextmanager
def written(path: Path, argument: str = "out") -> Iterator[Path]:
    """A path in a hidden folder; what is there is renamed to `path` on success, deleted on failure.

    Raises:
        BadFile: the path exists, its folder doesn't, or the disk is full.
    """
    check_output(path, argument)
    folder = aside(path)
    try:
        folder.mkdir()
        # safetensors writes beside the path that it is given, under a name of its own.
        yield folder / path.name
        (folder / path.name).chmod(0o644)  # which only its owner can read
        _give(folder / path.name, path, argument)
    except (OSError, SafetensorError) as error:
        raise BadFile(
            argument, path, f"cannot be written ({error})", "free space or go elsewhere"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def aside(path: Path) -> Path:
    """A new hidden path beside another; what killed writers left there is removed."""
    sweep(path.parent, ASIDE)
    return path.with_name(f".{path.stem[:80]}.{uuid4().hex}.part")


def sweep(folder: Path, names: re.Pattern[str], but: str = "") -> None:
    """Removes what lies aside under such names, unless somebody may still write it.

    Args:
        but: a file; folders that hold it stay.
    """
    with suppress(OSError):
        for left in [path for path in folder.iterdir() if names.fullmatch(path.name)]:
            if time.time() - _changed(left) > DEAD and not (but and (left / but).exists()):
                _remove(left)


def _remove(path: Path) -> None:
    """Removes a file or a folder, if it can be."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _changed(path: Path) -> float:
    """When a file, or anything in a folder, was changed last."""
    return max(os.lstat(each).st_mtime for each in (path, *path.rglob("*")))


def _give(aside: Path, path: Path, argument: str) -> None:
    """Gives the written file its name, never replacing one that came in between."""
    try:
        os.link(aside, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        check_output(path, argument)
        aside.rename(path)
