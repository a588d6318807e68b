"""What the grid of experts shows: its points, what correlates with merging, and where it falls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from ..evaluation.evaluator import mean_accuracy
from ..evaluation.paired_test import Answers, Comparison, compare
from ..evaluation.rank_correlation import Correlation, correlated
from ..training.along import Collapse, MergedAt, collapse
from ..types import Accuracy
from .experts import MERGES, ExpertCell
from .perform import CellDone


@dataclass(frozen=True, kw_only=True)
class Point:
    """One expert, its merges with the family's other sources, and what was measured of both.

    Args:
        own: the expert's answers on the test pictures of its task.
        merged: by method, the merge's answers on each task.
        norm: of its task vector, over the base's.
        apart: that norm over the mean of the other sources'.
        mloss: mean node M-Loss along M-TIES, over all blocks.
        conflict: share of opposite signs with each other source, mean over these.
        overlap: of leading directions, mean over blocks, matrices and all pairs of sources.
    """

    task: str
    rate: float
    steps: int
    batch: int
    own: Bool[np.ndarray, " n"]
    merged: Mapping[str, Answers]
    norm: float
    apart: float
    mloss: float
    conflict: float
    overlap: float

    @property
    def own_accuracy(self) -> Accuracy:
        """Correct and total of the expert alone on its task."""
        return Accuracy(correct=int(self.own.sum()), total=len(self.own))

    def mean(self, method: str) -> tuple[float, float, float]:
        """Mean accuracy of its merge over the tasks, with its 95 % interval."""
        return mean_accuracy(self.merged[method])


AXES = ("rate", "batch", "steps")  # of the grid, as fields of a point
# What may predict how an expert merges: name -> heading and value.
PREDICTORS: dict[str, tuple[str, Callable[[Point], float]]] = {
    "rate": ("learning rate", lambda point: point.rate),
    "batch": ("batch size", lambda point: point.batch),
    "steps": ("steps", lambda point: point.steps),
    "own": ("own accuracy", lambda point: point.own_accuracy.rate),
    "norm": ("norm", lambda point: point.norm),
    "mloss": ("M-Loss", lambda point: point.mloss),
    "conflict": ("sign conflict", lambda point: point.conflict),
    "overlap": ("alignment", lambda point: point.overlap),
}


def points(cells: Sequence[CellDone]) -> list[Point]:
    """The experts whose cells are all measured, in the order of the plan."""
    of_expert: dict[tuple, list[CellDone]] = {}
    for done in cells:
        if isinstance(done.cell, ExpertCell):
            of_expert.setdefault((done.cell.task, done.cell.settings), []).append(done)
    return [_point(own) for own in of_expert.values() if len(own) == len(MERGES) + 1]


def _point(cells: Sequence[CellDone]) -> Point:
    last = next(done for done in cells if done.vectors)
    cell = last.cell
    assert isinstance(cell, ExpertCell), "of an expert"
    place = cell.recipe.sources.index(cell.source)
    others = [i for i in range(len(cell.recipe.sources)) if i != place]
    merges = {done.cell.recipe.method: done.record.hits for done in cells if done is not last}
    norms = last.vectors["norms"]
    own = next(hits[cell.source] for hits in merges.values() if cell.source in hits)
    return Point(
        task=cell.task, rate=cell.settings.rate, steps=cell.settings.steps,
        batch=cell.settings.batch, own=own[cell.task],
        merged={method: hits["merged"] for method, hits in merges.items()},
        norm=float(norms[place]), apart=float(norms[place] / norms[others].mean()),
        mloss=float(np.mean([nodes.mean() for nodes in last.record.scores().values()])),
        conflict=float(last.vectors["conflict"][place, others].mean()),
        overlap=float(np.nanmean(last.vectors["overlap"])),
    )  # fmt: skip


def by_task(grid: Sequence[Point]) -> dict[str, list[Point]]:
    """The points of each task."""
    tasks = dict.fromkeys(point.task for point in grid)
    return {task: [point for point in grid if point.task == task] for task in tasks}


def correlations(grid: Sequence[Point], method: str) -> dict[str, Correlation]:
    """The rank correlation with the merged accuracy of every predictor that varies, over the points
    of one task.

    Points of one rate, or of one number of steps, are alike. So what an interval draws anew are the
    rates, the batch sizes and the steps: a point counts as often as the product of its own.
    """
    levels = [(axis, value) for axis in AXES for value in sorted({getattr(p, axis) for p in grid})]
    varied = [axis for axis in AXES if sum(axis == of for of, _ in levels) > 1]
    numbers = {level: i for i, level in enumerate(x for x in levels if x[0] in varied)}
    sets = [tuple(numbers[axis, getattr(point, axis)] for axis in varied) for point in grid]
    reached = np.array([point.mean(method)[0] for point in grid])
    columns = {n: np.array([value(p) for p in grid]) for n, (_, value) in PREDICTORS.items()}
    return {
        name: correlated(column.astype(float), reached, sets, len(numbers))
        for name, column in columns.items()
        if np.ptp(column) > 0
    }


@dataclass(frozen=True, kw_only=True)
class Fall:
    """A row of the grid: merges along one of its axes, the others held, from little to much.

    Args:
        best: the point that merges best on half of the test pictures.
        last: the one of the most steps, or of the highest rate.
        collapse: `last` against `best` on the other half.
        own: the expert of `last` alone against that of `best`.
    """

    method: str
    axis: str
    best: Point
    last: Point
    collapse: Collapse
    own: Comparison


def falls(grid: Sequence[Point], method: str, axis: str) -> Iterator[Fall]:
    """Every row of the grid along an axis, and whether its last point merges worse than its best,
    as `collapse` judges the checkpoints of one training."""
    rows: dict[tuple, list[Point]] = {}
    for point in sorted(grid, key=lambda p: getattr(p, axis)):
        held = tuple(getattr(point, other) for other in AXES if other != axis)
        rows.setdefault((point.task, *held), []).append(point)
    for row in rows.values():
        if len(row) > 1:
            verdict = collapse([_merged_at(i, point, method) for i, point in enumerate(row)])
            best, last = row[verdict.best], row[verdict.last]
            own = compare({last.task: last.own}, {best.task: best.own})
            yield Fall(
                method=method, axis=axis, best=best, last=last, collapse=verdict, own=own
            )  # fmt: skip


def _merged_at(place: int, point: Point, method: str) -> MergedAt:
    """A point as a checkpoint at that place of its row."""
    return MergedAt(
        step=place, mloss=np.full((3, 1), point.mloss), own=point.own,
        merged=point.merged[method], seconds=0.0,
    )  # fmt: skip
