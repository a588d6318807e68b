"""Writing into the folder of runs: small files whole or not at all, one error for a full disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from .errors import BadFile
from .records import root


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Raises BadFile that names the folder of runs for whatever goes wrong while writing."""
    try:
        yield
    except BadFile as error:
        if error.argument in ("run", "runs"):
            raise
        raise _unwritable(error) from error
    except OSError as error:
        raise _unwritable(error) from error


def _unwritable(error: Exception) -> BadFile:
    remedy = "free space, or set MLOSS_RUNS to another folder"
    return BadFile("runs", root(), f"cannot be written ({error})", remedy)


def put(path: Path, text: str) -> None:
    """Writes a small file whole or not at all."""
    aside = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
