"""The grid of experts in words: tables, sentences on what follows, and advice before training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ..errors import InputError
from ..evaluation.evaluator import mean_accuracy
from ..evaluation.paired_test import points as signed
from ..evaluation.paired_test import spread
from ..evaluation.rank_correlation import Correlation
from ..families.family import Family
from ..hardware import device as devices
from ..methods import METHODS
from ..runs.cells import Lab
from ..text import markdown_table, three_digits_alike
from ..types import MergeRecipe
from .expert_grid import AXES, PREDICTORS, Fall, Point, by_task, correlations, falls, points
from .experts import MERGES, ExpertCell, named
from .perform import CellDone, experts_on_disk, start_recipe
from .tables import percent

THEORY = (
    "The theory (arXiv 2601.21690) sets optimisation against generalisation: more steps and a "
    "higher rate fit an expert better to its own task, and beyond a point its merge gets worse"
)
CAUTION = (
    "The experts of a grid share the base, the other sources and the test pictures, and rate and "
    "steps move all measures together. So a correlation tells what goes with merging on this grid, "
    "not what causes it, and nothing of other tasks. Its interval draws rates, batch sizes and "
    "steps anew, since experts of one row are alike."
)
MEASURES = ("norm", "mloss", "conflict", "overlap")
MORE = {"rate": "higher rates", "batch": "larger batches", "steps": "more steps"}


def tables(family: Family, cells: Sequence[CellDone]) -> Iterator[str]:
    """Markdown tables: the grid of each task, and what goes with merged accuracy."""
    grid = points(cells)
    yield from _references(cells)
    for task, own in by_task(grid).items():
        yield f"**Experts of {family.title(task)}**, each in place of the family's own source:"
        yield _of_task(own)
    if grid:
        yield (
            "*Norm*: of the expert's task vector, over the base's. *M-Loss*: mean of all nodes "
            "along M-TIES. *Sign conflict*: with each other source, mean. *Alignment*: overlap of "
            "leading directions, mean over all pairs of sources."
        )
        yield "**Rank correlation with the merged accuracy**, with 95 % intervals:"
        yield _of_correlations(family, grid)


def _references(cells: Sequence[CellDone]) -> Iterator[str]:
    """A line on what the family's own sources reach, alone and merged."""
    reached = {}
    for done in (done for done in cells if not isinstance(done.cell, ExpertCell)):
        titles = {"base": "the base", "own": "each alone on its task"}
        titles["merged"] = f"merged by {METHODS[done.cell.recipe.method].title}"
        reached |= {titles[name]: hits for name, hits in done.record.hits.items()}
    if reached:
        parts = [f"{title} {percent(*mean_accuracy(hits))}" for title, hits in reached.items()]
        yield f"The family's own sources, mean over the tasks: {'; '.join(parts)}."


def _of_task(grid: Sequence[Point]) -> str:
    """A row per expert of one task."""
    sized = len({point.batch for point in grid}) > 1
    heads = ["rate", "steps", *["batch"] * sized, "alone"]
    for method in MERGES:
        heads += [f"{METHODS[method].title}, mean", "on its task"]
    heads += [PREDICTORS[name][0] for name in MEASURES]
    columns = [three_digits_alike(PREDICTORS[name][1](p) for p in grid) for name in MEASURES]
    lines = []
    for point, *measures in zip(grid, *columns, strict=True):
        line = [f"{point.rate:g}", str(point.steps), *[str(point.batch)] * sized]
        line.append(percent(point.own_accuracy.rate, *point.own_accuracy.interval()))
        for method in MERGES:
            on_task = mean_accuracy({point.task: point.merged[method][point.task]})
            line += [percent(*point.mean(method)), percent(*on_task)]
        lines.append([*line, *measures])
    return markdown_table(heads, lines)


def _of_correlations(family: Family, grid: Sequence[Point]) -> str:
    """A row per predictor, a column per task and method."""
    columns = {
        f"{family.title(task)}, {METHODS[method].title}": correlations(own, method)
        for task, own in by_task(grid).items()
        for method in MERGES
    }
    names = [n for n in PREDICTORS if any(n in column for column in columns.values())]
    lines = []
    for name in names:
        values = [_value(column[name]) if name in column else "" for column in columns.values()]
        lines.append([PREDICTORS[name][0], *values])
    return markdown_table(["", *columns], lines)


def _value(correlation: Correlation) -> str:
    """A correlation with its interval."""
    if math.isnan(correlation.rho):
        return "unknown"
    low, high = correlation.by_models
    ends = "unknown" if math.isnan(low) else f"{low:+.2f} to {high:+.2f}"
    return f"{correlation.rho:+.2f} ({ends})"


def words(grid: Sequence[Point]) -> Iterator[str]:
    """Sentences on what the grid shows of the theory, and of what goes with merging."""
    if not grid:
        return
    rows = {axis: [f for m in MERGES for f in falls(grid, m, axis)] for axis in AXES}
    yield from _theory(rows["steps"])
    for axis in ("rate", "batch"):
        if rows[axis]:
            yield f"Along the grid's rows of {MORE[axis]}: {_count(rows[axis])}"
    for task, own in by_task(grid).items():
        for method in MERGES:
            yield _best(own, method)
            yield _going_with(task, method, correlations(own, method))
    yield CAUTION


def _theory(rows: Sequence[Fall]) -> Iterator[str]:
    """What the theory predicts beside what was measured along the steps."""
    if not rows:
        return
    there = [fall for fall in rows if fall.collapse.there]
    outcome = "is not shown here"
    if there:
        outcome = "holds here in every row" if len(there) == len(rows) else "holds here in part"
    yield f"**{THEORY}. That {outcome}**: along the steps at each rate, {_count(rows)}"
    paid = [fall for fall in there if fall.own.low > 0]
    if there:
        yield (
            f"In {len(paid)} of these {len(there)} the expert alone gained from the same steps "
            "(its interval lies above zero): the two pull apart there."
        )


def _count(rows: Sequence[Fall]) -> str:
    """How many rows fall, each that does, and how that was judged."""
    there = [fall for fall in rows if fall.collapse.there]
    last = sum(fall.best is fall.last for fall in rows)
    listed = "".join(f"; {_fall(fall)}" for fall in there)
    return (
        f"the last merge is worse than the best one in {len(there)} of {len(rows)} rows, not shown "
        f"to be in {len(rows) - len(there) - last}, and the best itself in {last} (the best is "
        "chosen on half of the test pictures and compared on the other half; without any fall 1 "
        f"row in 40 would show one by chance){listed}."
    )


def _fall(fall: Fall) -> str:
    """One row that falls."""
    title, gap = METHODS[fall.method].title, fall.collapse.comparison
    assert gap is not None, "it is there"
    return (
        f"by {title} {_named(fall.last)} loses {gap.difference:.1f} points against "
        f"{_named(fall.best)} ({spread(gap)}), while the expert alone changes by "
        f"{signed(fall.own.difference)} ({spread(fall.own)})"
    )


def _named(point: Point) -> str:
    return f"{point.task} at {named(point.rate, point.steps, point.batch)}"


def _best(grid: Sequence[Point], method: str) -> str:
    best = max(grid, key=lambda point: point.mean(method)[0])
    fittest = max(grid, key=lambda point: point.own_accuracy.rate)
    alone = "it is also the most accurate alone"
    if best is not fittest:
        merged = percent(*fittest.mean(method))
        alone = f"the most accurate alone is {_named(fittest)}, which merges to {merged} %"
    return (
        f"By {METHODS[method].title} the best merge is that with {_named(best)}: "
        f"{percent(*best.mean(method))} %, the best of {len(grid)} on these very pictures; {alone}."
    )


def _going_with(task: str, method: str, values: dict[str, Correlation]) -> str:
    """Which predictors go with merged accuracy beyond their interval."""
    ends = {name: value.by_models for name, value in values.items()}
    clear = [name for name, (low, high) in ends.items() if low > 0 or high < 0]
    where = f"On {task}, merged by {METHODS[method].title}"
    if not clear:
        return f"{where}, no measure is shown to go with merged accuracy."
    clear.sort(key=lambda name: -abs(values[name].rho))
    listed = ", ".join(f"{PREDICTORS[name][0]} {_value(values[name])}" for name in clear)
    return f"{where}, these go with merged accuracy: {listed}."


def advice(family: Family, start: MergeRecipe | None = None, device: str = "auto") -> str | None:
    """Advice before a fine-tune of this family's base: two sentences with the numbers of the
    experts that were measured of it, as they are on disk; None where there are none.

    It takes a second or more for a whole grid: it hashes each expert's file.

    Args:
        start: what the experiment varied; None for the family's recommended M-TIES.
    """
    try:
        lab = Lab(family, devices.choose(device))
        cells = experts_on_disk(start or start_recipe(family), lab)
    except InputError:  # nothing can have been measured of such a family
        return None
    return advice_of(points(cells))


def advice_of(grid: Sequence[Point]) -> str | None:
    """The same from given points."""
    if not grid:
        return None
    rows = [fall for axis in AXES for m in MERGES for fall in falls(grid, m, axis)]
    there = [(f.collapse.comparison, f) for f in rows if f.collapse.comparison and f.collapse.there]
    merges = [(point.mean(method), point, method) for point in grid for method in MERGES]
    reached, best, method = max(merges, key=lambda merge: merge[0][0])
    highest = (
        f"The best of {len(grid)} is {_named(best)}: {percent(*reached)} % merged by "
        f"{METHODS[method].title}."
    )
    if not there:
        rates, steps = ({getattr(point, axis) for point in grid} for axis in ("rate", "steps"))
        return (
            f"Of the fine-tunes measured on this family, at rates from {min(rates):g} to "
            f"{max(rates):g} and {min(steps)} to {max(steps)} steps, none is shown to merge worse "
            f"than one of fewer steps or a lower rate. {highest}"
        )
    gap, worst = max(there, key=lambda pair: pair[0].difference)
    return (
        f"On this family {_named(worst.last)}, moved norms apart by {worst.last.apart:.1f} (its "
        f"task vector against the other sources') and lost {gap.difference:.1f} "
        f"({gap.low:.1f} to {gap.high:.1f}) points of accuracy merged by "
        f"{METHODS[worst.method].title}, against {_named(worst.best)}. {highest}"
    )
