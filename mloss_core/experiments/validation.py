"""How sure the choice of M-TIES' settings on validation images is, and what it decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ..evaluation.equivalence import paired_difference
from ..evaluation.paired_test import Comparison, compare
from ..types import MergeRecipe
from .perform import CellDone
from .search import PAPER, of_paper
from .tables import Row, settings

READS = ("keep", "variation", "scaling")


def within_an_error(cells: Sequence[CellDone], method: str) -> tuple[list[MergeRecipe], int]:
    """The settings whose validation accuracy is within a standard error of the best, best first.

    The error is that of the paired difference: all settings saw the same images.

    Returns:
        Them, and how many were tried.
    """
    tried = [d for d in cells if d.cell.split == "val" and d.cell.recipe.method == method]
    if not tried:
        return [], 0
    reached = [done.record.hits["merged"] for done in tried]
    means = [sum(h.mean() for h in hits.values()) for hits in reached]
    order = sorted(range(len(tried)), key=lambda i: -means[i])
    close = []
    for i in order:
        lost, error = paired_difference(reached[order[0]], reached[i])
        if lost <= error:
            close.append(tried[i].cell.recipe)
    return close, len(tried)


def on_validation(cells: Sequence[CellDone], rows: Sequence[Row]) -> Iterator[str]:
    """Sentences on settings as good as the best on validation, and their verdicts on test."""
    close, total = within_an_error(cells, "m-ties")
    if len(close) < 2:
        return
    measured = {row.recipe: row for row in rows if row.recipe}
    ties = next(row for row in rows if row.label == "TIES")
    tested = [measured[recipe] for recipe in close if recipe in measured]
    gaps = [compare(row.answers, ties.answers) for row in tested]
    yield (
        f"**On validation images {len(close)} of {total} settings of M-TIES are within a standard "
        f"error of the best** (of the paired difference): chance chooses among them. The paper's "
        f"own, {_paper()}, are {'' if any(map(of_paper, close)) else 'not '}among them."
    )
    yield _agreement(gaps)
    for row, gap in zip(tested, gaps, strict=True):
        yield (
            f"{settings(row.recipe, READS)}: {_word(gap)} TIES on test images "
            f"({gap.difference:+.2f} points, {gap.low:+.2f} to {gap.high:+.2f})."
        )


def _paper() -> str:
    """The paper's settings in words."""
    letters = {"keep": "k", "variation": "e", "scaling": "λ"}
    return ", ".join(f"{letters[field]} = {value:g}" for field, value in PAPER.items())


def _agreement(gaps: Sequence[Comparison]) -> str:
    """Whether the settings tested come to one verdict against TIES."""
    counts = Counter(map(_word, gaps))
    if len(counts) == 1:
        (word,) = counts
        return f"The {len(gaps)} of them that were tested come to one verdict: {word} TIES."
    parts = ", ".join(f"{count} {word} TIES" for word, count in counts.items())
    return (
        f"**The verdict depends on which of them is taken**: of {len(gaps)} that were tested, "
        f"{parts}."
    )


def _word(gap: Comparison) -> str:
    if not gap.distinguishable:
        return "not distinguishable from"
    return "ahead of" if gap.low > 0 else "behind"
