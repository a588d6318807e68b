"""Search of a method's settings on validation images alone."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

from ..evaluation.evaluator import mean_accuracy
from ..methods import METHODS
from ..runs.cells import Cell
from ..runs.store import RunRecord
from ..types import MergeRecipe
from .steps import Step

KEEP = (0.1, 0.2, 0.4, 0.8)
SCALING_TRIMMED = (0.7, 1.0, 1.5)  # of methods that trim and elect
SCALING = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)  # of methods that do not
VARIATION = (0.05, 0.1, 0.2)  # the range that the paper's authors recommend, as far as it fits k
WIDEST = 0.5  # of k, beyond that range
# Table 1's M-TIES; always on the grid above.
PAPER = {"keep": 0.8, "variation": 0.1, "scaling": 1.0}


def candidates(method: str, start: MergeRecipe) -> Iterator[MergeRecipe]:
    """Recipes to try for a method: every combination of the settings that it reads.

    Args:
        start: gives sources, weights, samples and seed.
    """
    reads = METHODS[method].reads
    keeps = KEEP if "keep" in reads else (start.keep,)
    scalings = (SCALING_TRIMMED if "keep" in reads else SCALING) if "scaling" in reads else (1.0,)
    for keep in keeps:
        variations = _variations(keep) if "variation" in reads else (0.0,)
        for variation, scaling in itertools.product(variations, scalings):
            changes = {"keep": keep, "variation": variation, "scaling": scaling, "blocks": None}
            yield dataclasses.replace(start, method=method, **changes)


def _variations(keep: float) -> list[float]:
    """Pruning variations to try at a keep rate."""
    return sorted({e for e in VARIATION if e <= keep} | {WIDEST * keep})


def of_paper(recipe: MergeRecipe) -> bool:
    """Whether the recipe has the settings of the paper's own Table 1."""
    return all(getattr(recipe, field) == value for field, value in PAPER.items())


def searched(
    method: str,
    start: MergeRecipe,
    tasks: tuple[str, ...],
    then: Callable[[Sequence[MergeRecipe]], Sequence[Cell]],
    following: int = 1,
) -> Step:
    """A step that tries a method's candidates on validation images.

    Args:
        then: gives the cells that follow, from the candidates in the order of `best_first`.
        following: how many those are.
    """
    recipes = list(candidates(method, start))
    label = f"{METHODS[method].title}, search"
    cells = tuple(Cell(label=label, recipe=r, tasks=tasks, split="val") for r in recipes)
    if len(recipes) == 1:  # nothing to choose
        return Step(cells=(), then=lambda records: then(recipes), following=following)
    return Step(
        cells=cells, then=lambda records: then(best_first(recipes, records)), following=following
    )


def best_first(
    recipes: Sequence[MergeRecipe], records: Sequence[RunRecord]
) -> tuple[MergeRecipe, ...]:
    """The recipes by mean accuracy on validation images; equals stay in their order."""
    reached = [mean_accuracy(record.hits["merged"])[0] for record in records]
    order = sorted(range(len(recipes)), key=lambda i: -reached[i])
    return tuple(recipes[i] for i in order)
