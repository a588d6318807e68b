"""Study of whether M-Loss predicts accuracy drops, on many small merges of one family.

Every pair of sources and some random triples are merged and evaluated on their members' own tasks;
what is lost against the own sources stands beside what was known before merging.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ...errors import BadValue
from ...evaluation.evaluator import Evaluator
from ...evaluation.paired_test import compare
from ...evaluation.rank_correlation import Correlation, correlated, difference
from ...families.family import Family
from ...mloss import MEASURES, SetLosses
from ...runs.cells import Cell, Lab
from ...runs.engines import Elsewhere, Engine
from ...runs.store import RunRecord
from ...types import Event, MergeRecipe
from ..task_vectors import Geometry
from .sets import Members, alphas_of, losses_of_sets, pairs
from .sign_conflict import SignsCounted, conflict, count_signs

LEAST = 3  # sources from which anything can be correlated over pairs
TRIPLES = 28  # as many as there are pairs of eight sources
MAIN = "layer"  # the definition of M-Loss; sums over blocks as Section 4 of the paper has it
# Predictors besides MEASURES, and which way each is expected to point: 1 where more of it should
# mean a larger drop.
RIVALS = {"cosine": -1, "distance": 1, "norm": 1, "signs": 1}


@dataclass(frozen=True, kw_only=True)
class DropMeasured:
    """The accuracy drop of a merged set of sources.

    Args:
        members: places among the recipe's sources.
        drop: mean over the members' tasks of own accuracy (of members that share a task, the
            first one's) minus merged accuracy, with its 95 % interval, paired on the same test
            images; shares, not points.
        cached: whether it was found on disk.
        seconds: wall time.
    """

    members: Members
    drop: tuple[float, float, float]
    cached: bool
    seconds: float


StudyEvent = SetLosses | SignsCounted | DropMeasured | Event


def sets_of(sources: int, triples: int, seed: int) -> list[Members]:
    """All pairs of sources, and the given number of random triples (all where there are fewer)."""
    every = list(itertools.combinations(range(sources), 3))
    few = min(triples, len(every))
    chosen = np.random.default_rng(seed).choice(len(every), few, replace=False) if few else []
    return pairs(sources) + [every[i] for i in sorted(chosen)]


def study(
    recipe: MergeRecipe, evaluator: Evaluator, triples: int, engine: Engine | None = None
) -> Iterator[StudyEvent]:
    """Runs the study: measures the predictors, then merges and evaluates every set in turn.

    Args:
        recipe: how sets are merged, in equal parts; its sources are what sets are drawn from,
            its samples, tokens and seed what M-Loss is measured on.
        triples: how many, drawn with the recipe's seed.
        engine: where sets are merged and evaluated; None for this process.

    Raises:
        BadValue: fewer than three sources, or one without test images of its own task.
    """
    check_studied(recipe, evaluator.family, triples)
    family, device = evaluator.family, evaluator.device.type
    lab = Lab(family, evaluator.device, evaluator)
    equal = dataclasses.replace(recipe, weights=None)
    images = dataclasses.replace(equal, method="m-ties", variation=0.0, blocks=None)
    sets = sets_of(len(recipe.sources), triples, recipe.seed)
    alphas = alphas_of(sets, equal.alpha)
    yield from losses_of_sets(images, family, alphas, device=device)
    yield from count_signs(equal, family, device=device)
    cells = {members: _cell(equal, lab, members) for members in sets}
    elsewhere = None
    if engine:
        elsewhere = Elsewhere(engine, lab, list(cells.values()), in_turn, lab.cached_run)
    for members, cell in cells.items():
        record, took = elsewhere.outcome(cell) if elsewhere else (lab.cached_run(cell), None)
        yield from _drop(lab, members, cell, record, took)


def check_studied(recipe: MergeRecipe, family: Family, triples: int) -> None:
    """Raises BadValue where the sources or triples allow no study."""
    shown = ",".join(recipe.sources)
    if len(recipe.sources) < LEAST:
        remedy = "give three sources or more, better eight"
        raise BadValue("sources", shown, "is too few to correlate anything over pairs", remedy)
    if lacking := [n for n in recipe.sources if family.own_task(n) not in family.tasks]:
        problem = f"has no test images for {', '.join(lacking)}"
        raise BadValue("sources", shown, problem, "leave those out, or add their tasks")
    if triples < 0:
        raise BadValue("triples", triples, "is below 0", "give 0 or more")


def _cell(recipe: MergeRecipe, lab: Lab, members: Members) -> Cell:
    """The merge of a set, evaluated beside its own sources on their tasks."""
    names = tuple(recipe.sources[i] for i in members)
    ours = dataclasses.replace(recipe, sources=names)
    tasks = lab.family.own_tasks(names)
    return Cell(label=", ".join(names), recipe=ours, tasks=tasks, beside=("own",))


def in_turn(lab: Lab, cells: Sequence[Cell]) -> list[float]:
    """Measures a worker's sets; returns the seconds of each."""
    drops = [event for c in cells for event in _drop(lab, (), c, lab.cached_run(c), None)]
    return [event.seconds for event in drops if isinstance(event, DropMeasured)]


def _drop(
    lab: Lab, members: Members, cell: Cell, record: RunRecord | None, took: float | None
) -> Iterator[StudyEvent]:
    """Measures one set's drop.

    Args:
        record: its merge where it is on disk.
        took: seconds that a worker needed for that just now; None where it was there before.
    """
    start = time.perf_counter()
    cached = record is not None and took is None
    if record is None:
        record = yield from lab.compute(cell)
    comparison = compare(record.hits["own"], record.hits["merged"])
    drop = (comparison.difference / 100, comparison.low / 100, comparison.high / 100)
    seconds = time.perf_counter() - start if took is None else took
    yield DropMeasured(members=members, drop=drop, cached=cached, seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class Study:
    """Sets of sources with their accuracy drops and the predictors measured before merging.

    Args:
        drops: mean, low and high of every set's drop, in points.
        predictors: value of every set by name: MEASURES, each summed over the blocks (the nodes'
            averaged), and RIVALS.
    """

    sources: tuple[str, ...]
    sets: tuple[Members, ...]
    drops: Float[np.ndarray, "3 n"]
    predictors: dict[str, Float[np.ndarray, " n"]]

    def of_size(self, size: int | None) -> Study:
        """The study restricted to sets of the given number of sources; None means all."""
        chosen = [i for i, s in enumerate(self.sets) if size is None or len(s) == size]
        values = {name: column[chosen] for name, column in self.predictors.items()}
        sets = tuple(self.sets[i] for i in chosen)
        return Study(
            sources=self.sources, sets=sets, drops=self.drops[:, chosen], predictors=values
        )

    def expected(self, name: str) -> Float[np.ndarray, " n"]:
        """A predictor, turned so that more of it should mean a larger drop."""
        return RIVALS.get(name, 1) * self.predictors[name]

    def correlations(self) -> dict[str, Correlation]:
        """Every predictor's rank correlation with the drop; above 0 where it points as expected."""
        many, drop = len(self.sources), self.drops[0]
        names = self.predictors
        return {n: correlated(self.expected(n), drop, self.sets, many) for n in names}

    def ahead_of(self, rival: str) -> tuple[float, float, float]:
        """M-Loss' correlation minus the rival's, with its 95 % interval over models."""
        ours, other = self.expected(MAIN), self.expected(rival)
        return difference(ours, other, self.drops[0], self.sets, len(self.sources))


def gathered(recipe: MergeRecipe, triples: int, moved: Geometry, events: Sequence[Any]) -> Study:
    """The study assembled from its events; sets not measured yet are left out."""
    sets = sets_of(len(recipe.sources), triples, recipe.seed)
    by_set = {e.members: e.drop for e in events if isinstance(e, DropMeasured)}
    rows = [i for i, members in enumerate(sets) if members in by_set]
    chosen = tuple(sets[i] for i in rows)
    drops = 100 * np.array([by_set[s] for s in chosen], dtype=float).reshape(-1, 3).T
    losses = [e for e in events if isinstance(e, SetLosses)]
    counted = [e for e in events if isinstance(e, SignsCounted)]
    values: dict[str, np.ndarray] = {}
    for measure in MEASURES if losses else ():
        by_block = np.stack([e.of(measure).mean(1) for e in losses])
        values[measure] = (by_block.mean(0) if measure == "node" else by_block.sum(0))[rows]
    signs = conflict(counted)
    values |= _of_vectors(chosen, moved, np.zeros_like(moved.cosines) if signs is None else signs)
    return Study(sources=recipe.sources, sets=chosen, drops=drops, predictors=values)


def _of_vectors(
    sets: Sequence[Members], moved: Geometry, signs: Float[np.ndarray, "q q"]
) -> dict[str, np.ndarray]:
    """The rival predictors from task vectors: of a set, means over its pairs or members."""
    norms, cosines = moved.relative_norms, moved.cosines
    square = norms[:, None] ** 2 + norms**2 - 2 * cosines * np.outer(norms, norms)
    matrices = {"cosine": cosines, "distance": np.sqrt(np.maximum(square, 0)), "signs": signs}

    def mean(matrix: np.ndarray, members: Members) -> float:
        values = [float(matrix[pair]) for pair in itertools.combinations(members, 2)]
        return math.fsum(values) / len(values)

    predictors = {n: np.array([mean(m, s) for s in sets], dtype=float) for n, m in matrices.items()}
    predictors["norm"] = np.array([norms[list(s)].mean() for s in sets], dtype=float)
    return {name: predictors[name] for name in RIVALS}
