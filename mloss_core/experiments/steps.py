"""Steps of a plan, as data: cells, and the cells that follow from their outcomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..methods import METHODS
from ..runs.cells import Cell
from ..runs.store import RunRecord
from ..types import MergeRecipe


@dataclass(frozen=True, kw_only=True)
class Step:
    """Cells that do not depend on each other, and those that their outcomes lead to.

    Args:
        cells: measured in this order.
        then: gives the cells that follow, from the records of `cells`; None where nothing does.
        following: how many follow, whatever the outcomes: so that a plan can be counted.
    """

    cells: tuple[Cell, ...]
    then: Callable[[Sequence[RunRecord]], Sequence[Cell]] | None = None
    following: int = 0

    @property
    def count(self) -> int:
        """The number of cells, those that follow included."""
        return len(self.cells) + self.following


Plan = tuple[Step, ...]


def cell_of(recipe: MergeRecipe, tasks: tuple[str, ...], label: str = "", **changes) -> Cell:
    """The cell of a changed recipe on test images, named as its method unless a label is given."""
    changed = dataclasses.replace(recipe, **changes)
    return Cell(label=label or METHODS[changed.method].title, recipe=changed, tasks=tasks)
