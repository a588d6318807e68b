"""Search of a method's settings on validation images alone."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..evaluation.evaluator import mean_accuracy
from ..methods import METHODS
from ..runs.cells import Cell
from ..runs.store import RunRecord
from ..types import MergeRecipe
from .steps import Step

KEEP = (0.1, 0.2, 0.4, 0.8)
SCALING_TRIMMED = (0.7, 1.0, 1.5)  # of methods that trim and elect
SCALING = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)  # of methods that do not
SPECTRAL = (0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0)  # of rules of matrices
# Of a method, where it differs from the above; each tries every combination.
TRIED: dict[str, Mapping[str, Sequence[Any]]] = {
    **{name: {"scaling": SPECTRAL} for name in ("tsv-m", "iso-c", "iso-cts", "ace", "opcm")},
    "wudi": {"scaling": (0.3, 0.5, 0.7, 1.0), "rate": (None, 1e-4, 1e-3)},
    "wudi-closed": {"scaling": SPECTRAL},
    "knots": {"scaling": SCALING_TRIMMED, "keep": KEEP},
    "consensus": {"scaling": (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)},
    "pcb": {"scaling": (0.8, 1.2, 1.6, 2.0), "keep": (0.05, 0.1, 0.2, 0.4)},
    "regmean": {"off_diagonal": (0.9, 0.95, 1.0)},
    "regmean-plus-plus": {"off_diagonal": (0.9, 0.95, 1.0)},
    "fisher": {"scaling": (1.0, 1.5, 2.0, 2.5)},
    "esm": {"scaling": (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)},
    "fit": {
        "scaling": (0.85, 1.0, 1.5),  # of the start
        "start": ("iso-c", "tsv-m", "wudi-closed"),
        "ridge": (10.0, 30.0),
    },
    "adamerging": {"steps": (50, None), "vectors": ("plain", "trimmed")},
    "samerging": {"steps": (100, 200), "rate": (1e-2,)},
}
VARIATION = (0.05, 0.1, 0.2)  # the range that the paper's authors recommend, as far as it fits k
WIDEST = 0.5  # of k, beyond that range
# Table 1's M-TIES; always on the grid above.
PAPER = {"keep": 0.8, "variation": 0.1, "scaling": 1.0}


def candidates(
    method: str, start: MergeRecipe, usual: Mapping[str, Any] | None = None
) -> Iterator[MergeRecipe]:
    """Recipes to try for a method: every combination of the settings that it reads.

    Args:
        start: gives sources, weights, samples and seed.
        usual: what else the method is published with, see `recipe.published`.
    """
    usual = usual or {}
    reads = METHODS[method].reads
    if method in TRIED:
        names, values = zip(*TRIED[method].items(), strict=True)
        for chosen in itertools.product(*values):
            changes = dict(zip(names, chosen, strict=True))
            yield replaced(start, method, usual, **changes)
        return
    keeps = KEEP if "keep" in reads else (start.keep,)
    scalings = (SCALING_TRIMMED if "keep" in reads else SCALING) if "scaling" in reads else (1.0,)
    for keep in keeps:
        variations = _variations(keep) if "variation" in reads else (0.0,)
        for variation, scaling in itertools.product(variations, scalings):
            changes = {"keep": keep, "variation": variation, "scaling": scaling}
            yield replaced(start, method, usual, **changes)


def replaced(
    recipe: MergeRecipe, method: str, usual: Mapping[str, Any], **changes: Any
) -> MergeRecipe:
    """A method's recipe on all blocks, as usual but for the changes."""
    settings = {"variation": 0.0, "scaling": 1.0, "blocks": None, **usual}
    return dataclasses.replace(recipe, method=method, **settings | changes)


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
    usual: Mapping[str, Any] | None = None,
) -> Step:
    """A step that tries a method's candidates on validation images.

    Args:
        then: gives the cells that follow, from the candidates in the order of `best_first`.
        following: how many those are.
        usual: what the method is published with, see `candidates`.
    """
    recipes = list(candidates(method, start, usual))
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
