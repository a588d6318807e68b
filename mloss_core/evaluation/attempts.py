"""Tasks that are evaluated one after the other: one that fails must not lose the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import Incomplete, InputError


class Attempts:
    """What became of each task: one that fails is passed over, and told at the end."""

    def __init__(self) -> None:
        self.done: set[str] = set()
        self.failed: dict[str, InputError] = {}

    @contextmanager
    def of(self, task: str) -> Iterator[None]:
        """Keeps what is wrong with a task's files for the end."""
        try:
            yield
            self.done.add(task)
        except InputError as error:
            self.failed[task] = error

    def finish(self) -> None:
        """Raises what was kept: Incomplete, or the error itself where nothing else was done."""
        total = len(self.done | self.failed.keys())
        if self.failed:
            first = next(iter(self.failed.values()))
            raise first if len(self.failed) == total else Incomplete(self.failed, total)
