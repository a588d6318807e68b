"""Atomic writing of output files: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError

from .errors import BadFile


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
    """A temporary path that is renamed to `path` on success and deleted on failure.

    Raises:
        BadFile: the path exists, its folder doesn't, or the disk is full.
    """
    check_output(path, argument)
    aside = path.with_name(f".{path.stem[:80]}.{uuid4().hex}.part{path.suffix}")
    try:
        yield aside
        aside.chmod(0o644)  # safetensors leaves files that only their owner can read
        _give(aside, path, argument)
    except (OSError, SafetensorError) as error:
        raise BadFile(
            argument, path, f"cannot be written ({error})", "free space or go elsewhere"
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def _give(aside: Path, path: Path, argument: str) -> None:
    """Gives the written file its name, never replacing one that came in between."""
    try:
        os.link(aside, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        check_output(path, argument)
        aside.rename(path)
