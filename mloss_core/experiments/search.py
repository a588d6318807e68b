"""Search of a method's settings on validation images alone."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Generator, Iterator

from ..evaluation.evaluator import mean_accuracy
from ..methods import METHODS
from ..runs.cells import Cell
from ..runs.store import RunRecord
from ..types import MergeRecipe

KEEP = (0.1, 0.2, 0.4, 0.8)
SCALING_TRIMMED = (0.7, 1.0, 1.5)  # of methods that trim and elect
SCALING = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)  # of methods that do not
VARIATION = (0.25, 0.5)  # of k

Search = Generator[Cell, RunRecord, MergeRecipe]


def candidates(method: str, start: MergeRecipe) -> Iterator[MergeRecipe]:
    """Recipes to try for a method: every combination of the settings that it reads.

    Args:
        start: gives sources, weights, samples and seed.
    """
    reads = METHODS[method].reads
    keeps = KEEP if "keep" in reads else (start.keep,)
    scalings = (SCALING_TRIMMED if "keep" in reads else SCALING) if "scaling" in reads else (1.0,)
    shares = VARIATION if "variation" in reads else (0.0,)
    for keep, share, scaling in itertools.product(keeps, shares, scalings):
        yield dataclasses.replace(
            start, method=method, keep=keep, variation=share * keep, scaling=scaling, blocks=None
        )


def best(method: str, start: MergeRecipe, tasks: tuple[str, ...]) -> Search:
    """The candidate of the highest mean accuracy on validation images; the first of equals."""
    tried = list(candidates(method, start))
    if len(tried) == 1:
        return tried[0]
    reached = []
    for recipe in tried:
        label = f"{METHODS[method].title}, search"
        record = yield Cell(label=label, recipe=recipe, tasks=tasks, split="val")
        reached.append(mean_accuracy(record.hits["merged"])[0])
    return tried[max(range(len(tried)), key=reached.__getitem__)]
