"""Sentences on whether an experiment's outcomes support the paper's claim."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from ..evaluation.equivalence import Equivalence, equivalence
from ..evaluation.paired_test import Comparison, compare, points, spread, verdict
from ..evaluation.rank_correlation import spearman
from ..runs.store import RunRecord
from .controlled import at_each_keep, controlled, on_grid
from .expert_grid import points as expert_points
from .expert_words import words
from .perform import CellDone
from .plans import ALIKE
from .tables import Row
from .validation import on_validation


def _tested(cells: Sequence[CellDone]) -> list[CellDone]:
    return [done for done in cells if done.cell.split == "test"]


def _paper(claim: str, comparison: Comparison) -> str:
    """A sentence on whether a paired difference supports the paper's claim."""
    outcome = "cannot be told here"
    if comparison.distinguishable:
        outcome = "holds here" if comparison.low > 0 else "is the other way round here"
    return (
        f"**The paper claims that {claim}. That {outcome}** "
        f"(difference {points(comparison.difference)} points, {spread(comparison)})."
    )


def _methods(cells: Sequence[CellDone], rows: Sequence[Row]) -> Iterator[str]:
    by_label = {row.label: row for row in rows}
    if {"M-TIES", "TIES"} <= by_label.keys():
        yield from _ahead_of_ties("M-TIES is ahead of TIES", by_label)
        yield from on_validation(cells, rows)
    best = max((r for r in rows if r.one_model), key=lambda row: row.mean[0])
    yield f"The highest mean of a merged model is that of {best.label}: {100 * best.mean[0]:.2f} %."
    yield from _ours(rows)
    others = [n for n in by_label if n not in ("Base", "Own sources") and ", place " not in n]
    yield from _against("M-TIES", by_label, others)
    if "M-TIES, as released" in by_label:
        yield (
            "*As released* takes inputs from the base and ranks by squared losses. The released "
            "code also scores with GELU's tanh approximation, whatever the model's own "
            "activation, and zeroes rows whose share is less than one entry. Neither is done here."
        )
    base, own = by_label.get("Base"), by_label.get("Own sources")
    if base and own and own.mean[0] > base.mean[0]:
        gain = own.mean[0] - base.mean[0]
        shares = {
            row.label: 100 * (row.mean[0] - base.mean[0]) / gain for row in rows if row.recipe
        }
        listing = ", ".join(f"{name} {share:.0f} %" for name, share in shares.items())
        yield f"Share of the gain from base to own sources that is recovered: {listing}."


def _ahead_of_ties(claim: str, by_label: Mapping[str, Row]) -> Iterator[str]:
    """Whether M-TIES is ahead of TIES, and what trimming by rows alone does there."""
    ours, ties = by_label["M-TIES"].answers, by_label["TIES"].answers
    ahead = compare(ours, ties)
    yield _paper(claim, ahead)
    alike = by_label.get(f"M-TIES, {ALIKE}")
    if alike is None:
        return
    rows = compare(alike.answers, ties).difference
    share = f", {rows / ahead.difference:.0%} of M-TIES' gain" if ahead.low > 0 else ""
    yield (
        f"With rows trimmed alike, at the same settings but without M-Loss, the difference to "
        f"TIES is {rows:+.2f} points{share}."
    )


def _ours(rows: Sequence[Row]) -> Iterator[str]:
    """Our fit against the best other method that leaves one model, and against the ensemble."""
    by_label = {row.label: row for row in rows}
    if "Fit" not in by_label:
        return
    ours, others = by_label["Fit"], [r for r in rows if r.one_model and r.label != "Fit"]
    if others:
        best = max(others, key=lambda row: row.mean[0])
        yield (
            f"**Our fit against the best other method that leaves one model, {best.label}**: "
            f"{verdict('Fit', best.label, ours.answers, best.answers)} The best is chosen on these "
            "very images, which speaks for it."
        )
    if "Ensembling" in by_label:
        yield verdict("Fit", "Ensembling", ours.answers, by_label["Ensembling"].answers)


def _fit(cells: Sequence[CellDone], rows: Sequence[Row]) -> Iterator[str]:
    by_label = {row.label: row for row in rows}
    if "Fit" not in by_label:
        return
    ours = by_label["Fit"]
    for label, row in by_label.items():
        if label.startswith(("start alone", "control", "Ensembling")):
            yield verdict("Fit", label, ours.answers, row.answers)
    starts = [row for label, row in by_label.items() if label.startswith("start alone")]
    few = [row for label, row in by_label.items() if "images per task" in label]
    start = ours.recipe.start if ours.recipe else ""
    for alone in (row for row in starts if row.recipe and row.recipe.method == start):
        for row in few:
            yield verdict(row.label, alone.label, row.answers, alone.answers)


def _against(name: str, by_label: Mapping[str, Row], rivals: Sequence[str]) -> Iterator[str]:
    if name not in by_label:
        return
    for rival in rivals:
        ours, other = by_label[name].answers, by_label[rival].answers
        if rival != name and ours.keys() == other.keys():
            yield verdict(name, rival, ours, other)


def _grid(cells: Sequence[CellDone], rows: Sequence[Row]) -> Iterator[str]:
    outcomes = controlled(rows)
    if outcomes:
        yield from on_grid(outcomes)
        best = max(rows, key=lambda row: row.mean[0])
        yield f"The highest mean, {100 * best.mean[0]:.2f} %, is that of {best.label}."


def _samples(cells: Sequence[CellDone], rows: Sequence[Row]) -> Iterator[str]:
    tested = _tested(cells)
    largest = max(tested, key=lambda done: done.cell.recipe.samples)
    sizes = sorted({done.cell.recipe.samples for done in tested})
    yield from _draws_are_equivalent(largest.cell.label, sizes, rows)
    for size in sizes:
        same = [d for d in tested if d.cell.recipe.samples == size and d is not largest]
        if not same:
            continue
        lowest = [min(rank_correlations(d.record, largest.record)) for d in same]
        spread = np.std([100 * _mean(d, rows) for d in same], ddof=1) if len(same) > 1 else None
        deviation = f"; standard deviation of the means over seeds {spread:.3f}" if spread else ""
        yield (
            f"{size} images: rank correlation of node scores with those of {largest.cell.label} at "
            f"least {min(lowest):.3f} in every block{deviation}."
        )


def _draws_are_equivalent(
    reference: str, sizes: Sequence[int], rows: Sequence[Row]
) -> Iterator[str]:
    """Whether every draw is equivalent to the reference, the largest one."""
    by_label = {row.label: row for row in rows}
    base = by_label.pop(reference).answers
    tests = [equivalence(row.answers, base) for row in by_label.values()]
    if not tests:
        return
    same, means = sum(t.equivalent for t in tests), [100 * row.mean[0] for row in rows]
    outcome = "cannot be told here"
    if same == len(tests):
        outcome = "holds here"
    elif any(t.different for t in tests):
        outcome = "does not hold here"
    yield (
        "**The paper claims that a few images are enough, and that their draw hardly matters. That "
        f"{outcome}**: {same} of {len(tests)} other draws of {' to '.join(map(str, _ends(sizes)))} "
        f"images are equivalent to {reference}, within {tests[0].margin:g} points of mean "
        f"accuracy (two one-sided tests, largest {_p(max(t.p for t in tests))}; 90 % intervals "
        f"from {min(t.low for t in tests):+.2f} to {max(t.high for t in tests):+.2f}). The means "
        f"reach from {min(means):.2f} to {max(means):.2f} %."
    )


def _p(value: float) -> str:
    """Text of a p-value."""
    return f"p = {value:.2g}" if value >= 0.001 else "p < 0.001"


def _ends(sizes: Sequence[int]) -> list[int]:
    """The smallest and the largest size, or the only one."""
    return [sizes[0], sizes[-1]][: len(sizes)]


def _mean(done: CellDone, rows: Sequence[Row]) -> float:
    return next(row.mean[0] for row in rows if row.recipe is done.cell.recipe)


def rank_correlations(ours: RunRecord, other: RunRecord) -> Float[np.ndarray, " blocks"]:
    """Spearman's rank correlation of two runs' node scores, block by block."""
    first, second = ours.scores(), other.scores()
    return np.array([spearman(first[block], second[block]) for block in sorted(first)])


def _out_of_domain(cells: Sequence[CellDone], rows: Sequence[Row]) -> Iterator[str]:
    by_label = {row.label: row for row in rows}
    if {"M-TIES", "TIES"} <= by_label.keys():
        yield from _ahead_of_ties(
            "M-TIES is ahead of TIES on tasks that no source was trained on", by_label
        )
    yield from _against("M-TIES", by_label, [row.label for row in rows])


def _few_blocks(cells: Sequence[CellDone], rows: Sequence[Row]) -> Iterator[str]:
    whole, *others = rows
    by_label = {row.label: row for row in rows}
    for row in (row for row in others if row.label.startswith("as the paper")):
        test = equivalence(row.answers, whole.answers)
        outcome = "cannot be told" if not test.different else "does not hold"
        outcome = "holds" if test.equivalent else outcome
        yield (
            "**The paper claims that few blocks do as well as all. "
            f"For {row.label.removeprefix('as the paper: ')} that {outcome} here**: "
            f"{_shown(test)} against all blocks."
        )
    if none := by_label.get("no block (TIES)"):
        test = equivalence(none.answers, whole.answers)
        said = "does as well too" if test.equivalent else "is not shown to do as well"
        yield f"No block at all, which is TIES, {said}: {_shown(test)} against all blocks."
    fixed = [row.label for row in others if row.label.startswith(("no block", ALIKE))]
    yield from _against("all blocks", by_label, fixed)
    choices = [row for row in others if row.label != ALIKE]
    apart = sum(compare(row.answers, whole.answers).distinguishable for row in choices)
    yield (
        f"Of {len(choices)} other choices of blocks, {apart} can be told from all blocks (95 % "
        "intervals, not corrected: one in twenty leaves out zero by chance)."
    )


def _shown(test: Equivalence) -> str:
    """A test of equivalence in words, with its margin."""
    what = "different by more than" if test.different else "not shown to be equivalent within"
    what = "equivalent within" if test.equivalent else what
    return (
        f"{test.difference:+.2f} points (90 % interval {test.low:+.2f} to {test.high:+.2f}), "
        f"{what} {test.margin:g} points "
        f"(two one-sided tests, {_p(test.p)})"
    )


def _controls(cells: Sequence[CellDone], rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "The paper has no such control. Its authors' released logs have random ranks (below), not "
        "rows trimmed alike. Below, differences are points with 95 % intervals."
    )
    yield from at_each_keep(controlled(rows))


def _experts(cells: Sequence[CellDone], rows: Sequence[Row]) -> Iterator[str]:
    yield from words(expert_points(cells))


CLAIMS: dict[str, Callable[[Sequence[CellDone], Sequence[Row]], Iterator[str]]] = {
    "methods": _methods,
    "keep-and-variation": _grid,
    "samples": _samples,
    "out-of-domain": _out_of_domain,
    "few-blocks": _few_blocks,
    "controls": _controls,
    "fit": _fit,
    "experts": _experts,
}


def claims(name: str, cells: Sequence[CellDone], rows: Sequence[Row]) -> list[str]:
    """Sentences on an experiment's claim from the cells measured so far, with intervals."""
    return list(CLAIMS[name](cells, rows)) if rows else []
