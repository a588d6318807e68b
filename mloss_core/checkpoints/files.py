"""Files of checkpoints: what identifies one, and what may be wrong with one. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class FormatError(Exception):
    """A file's format problem and its remedy, without the file's name, which the caller adds."""

    def __init__(self, problem: str, remedy: str = "fetch or write it again"):
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


class FileId(NamedTuple):
    """A file as it was, and what is read of it.

    Args:
        changed: time of its last change, in nanoseconds.
        part: the model in it that is meant, by a name or a word of it; empty: nothing is said.
    """

    path: Path
    size: int
    changed: int
    part: str = ""


def file_id(path: Path, part: str = "") -> FileId:
    """The identity of a file as it is now; raises OSError."""
    stat = path.stat()
    return FileId(path, stat.st_size, stat.st_mtime_ns, part)


def check_unchanged(at: FileId) -> None:
    """Raises FormatError where a file is no longer what it was when it was opened."""
    if file_id(at.path, at.part) != at:
        raise FormatError("has changed since it was opened", "try again")
