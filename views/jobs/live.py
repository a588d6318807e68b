"""Live merges, the newest of each visitor, and the idle work on what a merge leaves open."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools

from mloss_core import (
    METHODS,
    BlockMerged,
    BlockScored,
    Family,
    Finished,
    Merge,
    MergeRecipe,
    TaskEvaluated,
    run,
)
from mloss_core import live as live_stages
from mloss_core.analysis.left import left_after
from mloss_core.fields import FIELDS
from mloss_core.run import Evaluate
from mloss_core.types import Planned
from views.jobs.kinds import Events, own_tasks, without_weights
from views.state import session
from views.state.job_board import GAVE_WAY, GIVES_WAY, Job

PARTIAL = 50  # images per task on which a partly merged model is evaluated
KEEPS = tuple(round(0.1 * step, 1) for step in range(1, 11))  # of the coarse grid
SHARES = (0.0, 0.5, 1.0)  # of k that is e there


def why_not(recipe: MergeRecipe) -> str:
    """Why a merge cannot be live; empty where it can."""
    method = METHODS[recipe.method]
    if not method.one_model:
        return "this method leaves no single model"
    if method.trains:
        return "this method trains for minutes"
    return "this method takes a gradient of every image" if method.steps(recipe) else ""


def map_recipe(recipe: MergeRecipe) -> MergeRecipe:
    """The merge along which the map of all blocks is measured: M-TIES at the same setting."""
    plain = {"scores": "absolute", "ranks": "m-loss", "scope": "tensor"}
    plain |= {name: FIELDS[name].default for name in session.WAITING}  # M-TIES refuses them
    return dataclasses.replace(recipe, method="m-ties", blocks=None, **plain)


def ask(visitor: str, family: Family, recipe: MergeRecipe) -> Job:
    """A merge to look at, in place of the one this visitor asked for before; equal wishes of
    several visitors are done once, and nothing is recorded."""
    tasks, cache = own_tasks(family), session.tensor_cache()

    def events() -> Events:
        quick, evaluator = 0, session.evaluator(family.name)
        options = {"evaluator": evaluator, "tasks": tasks, "cache": cache}
        for event in run(recipe, family, stages=live_stages(), **options):
            yield without_weights(event)
            quick += isinstance(event, TaskEvaluated) and event.stage == "quick"
            if isinstance(event, TaskEvaluated) and quick == len(tasks):
                yield GIVES_WAY  # to whoever waits for readouts of a first few images

    board = session.board()
    return board.ask(visitor, "live", "Live merge", events, spec=recipe, shown=False)


def details(visitor: str, family: Family, recipe: MergeRecipe) -> Job:
    """In idle time: the map of all blocks where the merge has not measured it, accuracy after each
    block, and the gap that is left."""
    tasks, cache, whole = own_tasks(family), session.tensor_cache(), map_recipe(recipe)

    def events() -> Events:
        evaluator = session.evaluator(family.name)
        yield Planned(steps=1)  # shown nowhere
        if whole != recipe:
            for event in run(whole, family, stages=(Merge(),), cache=cache):
                yield event if isinstance(event, BlockScored) else None
        finished = None
        stages = (Merge(partial=PARTIAL),)
        options = {"evaluator": evaluator, "tasks": tasks, "cache": cache}
        for event in run(recipe, family, stages=stages, **options):
            yield event if isinstance(event, TaskEvaluated | BlockMerged) else None
            finished = event if isinstance(event, Finished) else None
        assert finished is not None and finished.weights is not None
        yield from left_after(recipe, family, finished.weights, own=False)

    board = session.board()
    options = {"spec": recipe, "shown": False, "idle": True}
    job = board.ask(visitor, "details", "What a merge leaves", events, **options)
    board.move(job, GAVE_WAY)  # somebody looks at what it fills in
    return job


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridCell:
    """Accuracies of M-TIES at one k and e, on the first images of every task."""

    keep: float
    share: float
    rates: dict[str, float]
    images: int


def grid_of(recipe: MergeRecipe) -> MergeRecipe:
    """What the grid depends on: everything but k, e and the chosen blocks."""
    return dataclasses.replace(map_recipe(recipe), keep=1.0, variation=0.0)


def grid(family: Family, recipe: MergeRecipe) -> Job:
    """In idle time: M-TIES on a coarse grid of k and e, for the first glance at any setting."""
    wanted = grid_of(recipe)
    board = session.board()
    return board.find("grid", wanted) or board.submit(
        "grid", "A coarse grid", lambda: grid_cells(family, wanted), spec=wanted, shown=False,
        idle=True, keep=8,
    )  # fmt: skip


def grid_cells(family: Family, recipe: MergeRecipe) -> Events:
    """The cells of the grid, TIES (e = 0) among them; None is a place to stop."""
    tasks, evaluator = own_tasks(family), session.evaluator(family.name)
    quick = next(s for s in live_stages() if isinstance(s, Evaluate))
    yield Planned(steps=len(KEEPS) * len(SHARES))
    for keep, share in itertools.product(KEEPS, SHARES):
        cell = dataclasses.replace(recipe, keep=keep, variation=round(keep * share, 3))
        if share == 0:
            cell = dataclasses.replace(cell, method="ties")
        options = {"evaluator": evaluator, "tasks": tasks, "cache": session.tensor_cache()}
        rates, images = {}, 0
        with contextlib.closing(run(cell, family, stages=(Merge(), quick), **options)) as log:
            for event in log:
                yield None
                if isinstance(event, TaskEvaluated):
                    rates[event.task], images = event.accuracy.rate, event.accuracy.total
        yield GridCell(keep=keep, share=share, rates=rates, images=images)
