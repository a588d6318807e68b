"""Sentences on whether an experiment's outcomes support the paper's claim."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from ..evaluation.paired_test import Comparison, compare, points, spread, verdict
from ..evaluation.rank_correlation import spearman
from ..runs.store import RunRecord
from .perform import CellDone
from .tables import Row


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
        ahead = compare(by_label["M-TIES"].answers, by_label["TIES"].answers)
        yield _paper("M-TIES is ahead of TIES", ahead)
    best = max((r for r in rows if r.recipe and r.towers == 1), key=lambda row: row.mean[0])
    yield f"The highest mean of a merged model is that of {best.label}: {100 * best.mean[0]:.2f} %."
    yield from _against(
        "M-TIES", by_label, [n for n in by_label if n not in ("Base", "Own sources")]
    )
    base, own = by_label.get("Base"), by_label.get("Own sources")
    if base and own and own.mean[0] > base.mean[0]:
        gain = own.mean[0] - base.mean[0]
        shares = {
            row.label: 100 * (row.mean[0] - base.mean[0]) / gain for row in rows if row.recipe
        }
        listing = ", ".join(f"{name} {share:.0f} %" for name, share in shares.items())
        yield f"Share of the gain from base to own sources that is recovered: {listing}."


def _against(name: str, by_label: Mapping[str, Row], rivals: Sequence[str]) -> Iterator[str]:
    if name not in by_label:
        return
    for rival in rivals:
        ours, other = by_label[name].answers, by_label[rival].answers
        if rival != name and ours.keys() == other.keys():
            yield verdict(name, rival, ours, other)


def _grid(cells: Sequence[CellDone], rows: Sequence[Row]) -> Iterator[str]:
    ties = {r.recipe.keep: r for r in rows if r.recipe and r.recipe.method == "ties"}
    ours = [r for r in rows if r.recipe and r.recipe.method == "m-ties" and r.recipe.keep in ties]
    if not ours:
        return
    against = [compare(r.answers, ties[r.recipe.keep].answers) for r in ours if r.recipe]
    ahead, behind = sum(c.low > 0 for c in against), sum(c.high < 0 for c in against)
    yield (
        f"**The paper claims that M-TIES is ahead of TIES. That holds here at {ahead} of "
        f"{len(ours)} settings**, against TIES at the same k; at {behind} it is the other way "
        "round, at the others it cannot be told (95 % intervals, not corrected: one in twenty "
        "leaves out zero by chance)."
    )
    gaps = [c.difference for c in against]
    yield f"The differences to TIES reach from {min(gaps):+.2f} to {max(gaps):+.2f} points."
    best = max(rows, key=lambda row: row.mean[0])
    yield f"The highest mean, {100 * best.mean[0]:.2f} %, is that of {best.label}."


def _samples(cells: Sequence[CellDone], rows: Sequence[Row]) -> Iterator[str]:
    tested = _tested(cells)
    means = [100 * row.mean[0] for row in rows]
    half = 50 * max(row.mean[2] - row.mean[1] for row in rows)
    sizes = sorted({done.cell.recipe.samples for done in tested})
    spread = max(means) - min(means)
    outcome = "holds" if spread < half else "does not hold"
    yield (
        "**The paper claims that a few images are enough, and that their draw hardly matters. That "
        f"{outcome} here**: over {len(rows)} draws of {' to '.join(map(str, _ends(sizes)))} images "
        f"the mean accuracy reaches from {min(means):.2f} to {max(means):.2f} %, a spread of "
        f"{spread:.2f} points where each mean is known to {half:.1f}."
    )
    largest = max(tested, key=lambda done: done.cell.recipe.samples)
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
        ahead = compare(by_label["M-TIES"].answers, by_label["TIES"].answers)
        yield _paper("M-TIES is ahead of TIES on tasks that no source was trained on", ahead)
    yield from _against("M-TIES", by_label, [row.label for row in rows])


def _few_blocks(cells: Sequence[CellDone], rows: Sequence[Row]) -> Iterator[str]:
    whole, others = rows[0], rows[1:]
    for row in (row for row in others if row.label.startswith("as the paper")):
        lost = compare(row.answers, whole.answers)
        outcome = "does not hold" if lost.high < 0 else "holds"
        yield (
            "**The paper claims that few blocks do as well as all. "
            f"For {row.label.removeprefix('as the paper: ')} that {outcome} here**: "
            f"{lost.difference:+.2f} points against all blocks, and a loss of more than "
            f"{max(0.0, -lost.low):.2f} is outside the 95 % interval."
        )
    yield from _against(
        "all blocks",
        {row.label: row for row in rows},
        [row.label for row in others if row.label.startswith(("no block", "as the paper"))],
    )
    against = [compare(row.answers, whole.answers) for row in others]
    apart = sum(c.distinguishable for c in against)
    yield (
        f"Of {len(others)} other choices of blocks, {apart} can be told from all blocks (95 % "
        "intervals, not corrected: one in twenty leaves out zero by chance)."
    )


def _controls(cells: Sequence[CellDone], rows: Sequence[Row]) -> Iterator[str]:
    by_label = {row.label: row for row in rows}
    random = [row for row in rows if row.recipe and row.recipe.ranks == "random"]
    others = [row.label for row in rows if row not in random and row.label != "M-TIES"]
    yield "The paper has no such control; its authors' released logs do (below)."
    yield from _against("M-TIES", by_label, others)
    if not random or "M-TIES" not in by_label:
        return
    ours, drawn = 100 * by_label["M-TIES"].mean[0], [100 * row.mean[0] for row in random]
    below = sum(mean < ours for mean in drawn)
    yield (
        f"M-TIES reaches {ours:.2f} %; {len(drawn)} draws of random ranks reach "
        f"{min(drawn):.2f} to {max(drawn):.2f} % (mean {np.mean(drawn):.2f}). It is above {below} "
        f"of them: if M-Loss were no better than chance, it would be above at least so many "
        f"with probability {(len(drawn) - below + 1) / (len(drawn) + 1):.2f}."
    )


CLAIMS: dict[str, Callable[[Sequence[CellDone], Sequence[Row]], Iterator[str]]] = {
    "methods": _methods,
    "keep-and-variation": _grid,
    "samples": _samples,
    "out-of-domain": _out_of_domain,
    "few-blocks": _few_blocks,
    "controls": _controls,
}


def claims(name: str, cells: Sequence[CellDone], rows: Sequence[Row]) -> list[str]:
    """Sentences on an experiment's claim from the cells measured so far, with intervals."""
    return list(CLAIMS[name](cells, rows)) if rows else []
