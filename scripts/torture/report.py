"""The table that the stories fill: what was done, what had to hold, what was measured."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
HEADS = ("part", "what was done", "how many", "what had to hold", "measured", "verdict")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table.

    Args:
        count: how often it was done.
        must: what had to hold.
        measured: numbers of this very run.
        holds: whether it did; None where it could not be tried here.
    """

    part: str
    done: str
    count: int
    must: str
    measured: str
    holds: bool | None

    def cells(self) -> tuple[str, ...]:
        verdict = {True: "holds", False: "**does not hold**", None: "not tried"}[self.holds]
        return (self.part, self.done, f"{self.count:,}", self.must, self.measured, verdict)


def line(cells: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def environment(**more: str) -> dict[str, str]:
    """What child processes see: this repository and its tests to import, one thread each."""
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "GOMP_SPINCOUNT": "20000"}
    return os.environ | one | {"PYTHONPATH": paths} | more
