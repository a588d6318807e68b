"""Experiments: sets of recipes measured cell by cell, each of which redoes a table of the paper."""

from ..runs.cells import Cell, Lab
from .claims import claims
from .perform import CellDone, count, perform, start_recipe
from .plans import EXPERIMENTS, Experiment, own_tasks
from .tables import Row, rows
from .tried import Tried, same_but_blocks, tried

__all__ = [
    "EXPERIMENTS",
    "Cell",
    "CellDone",
    "Experiment",
    "Lab",
    "Row",
    "Tried",
    "claims",
    "count",
    "own_tasks",
    "perform",
    "rows",
    "same_but_blocks",
    "start_recipe",
    "tried",
]
