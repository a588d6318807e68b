"""Background jobs that pages start: references, scores, merges, experiments, theory."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mloss_core import (
    METHODS,
    Family,
    Finished,
    InputError,
    MergeRecipe,
    MlossError,
    RunRecord,
    TaskEvaluated,
    recorded,
    run,
)
from mloss_core.analysis.compatibility.ensemble_gap import ensemble_gap
from mloss_core.analysis.compatibility.prediction import TRIPLES, DropMeasured, sets_of, study
from mloss_core.analysis.compatibility.sets import compatibility_sets, losses_of_sets
from mloss_core.analysis.compatibility.sign_conflict import SignsCounted, count_signs
from mloss_core.analysis.leave_one_out import losses_along
from mloss_core.analysis.theory import theory as measure_theory
from mloss_core.analysis.trace import TracedBlock, trace_blocks
from mloss_core.experiments import EXPERIMENTS, Cell, CellDone, Lab, count, perform
from mloss_core.experiments.plans import REFERENCES
from mloss_core.experiments.steps import cell_of
from mloss_core.mloss import SetLosses
from mloss_core.run import Merge, launch
from mloss_core.run import references as references_stages
from mloss_core.runs.layout import root
from mloss_core.runs.store import new_id
from mloss_core.types import Embedded, Planned
from mloss_core.types import progress as share_of
from views.state import allowed, session
from views.state.error_text import error_text
from views.state.job_board import Job, elapsed

Events = Generator[Any, None, None]
NARROW = 256  # widest model that is measured without being asked


def own_tasks(family: Family) -> tuple[str, ...]:
    """The tasks that a source was fine-tuned on: the readouts of a merge."""
    return family.own_tasks(family.sources)


def references(family: Family, again: bool = False) -> Job:
    """Base, own sources and, after them, TIES as recommended and the ensemble, on all test
    images: idle work, done once.

    Args:
        again: also if it failed; otherwise every redrawn page would begin what fails again.
    """
    tasks, recipe = own_tasks(family), recommended(family)
    # Those that share a task come one by one, after the first.
    shared = [s for s in family.sources if s not in tasks and family.own_task(s) in tasks]
    stages = references_stages(("own", "base", "ties", "ensembling", *shared))

    def events() -> Events:
        evaluator = session.evaluator(family.name)
        return run(recipe, family, stages=stages, evaluator=evaluator, tasks=tasks)

    board, spec = session.board(), _files(family)
    return board.find("references", spec, failed=not again) or board.submit(
        "references",
        "Measuring the sources",
        events,
        spec=spec,
        idle=True,
    )


def known_references(family: Family) -> dict[tuple[str, str], np.ndarray]:
    """What has been measured of base, own sources and the like so far: hits by model and task.

    A launched merge has measured base and own sources, too.
    """
    board = session.board()
    try:
        job, files = board.find("references", _files(family), failed=True), _hashes(family)
    except InputError:
        return {}  # the job that needs the damaged file says so
    hits = {}
    for merge in board.finished("merge"):
        if merge.spec.family == family.name and _hashes_of(merge.events[-1]) <= files:
            hits |= _hits(merge.events, ("base", "own"), "references")
    return hits | (_hits(job.events) if job else {})


def _hits(
    events: Sequence[Any], models: Sequence[str] = (), stage: str = ""
) -> dict[tuple[str, str], np.ndarray]:
    """Whole models' answers by model and task, of these models and this stage where given."""
    return {
        (e.model, e.task): e.hits
        for e in list(events)
        if isinstance(e, TaskEvaluated)
        and e.block is None
        and (not models or (e.model in models and e.stage == stage))
    }


def _hashes(family: Family) -> set[Any]:
    return {family.base().sha256, *(family.source(s).sha256 for s in family.sources)}


def _hashes_of(merge: Finished) -> set[Any]:
    described: Any = merge.metadata
    return {described["base"], *described["sources"].values()}


def _files(family: Family) -> tuple:
    """What decides the references: the sources' content."""
    return family.name, tuple(family.source(s).sha256 for s in family.sources)


def recommended(family: Family) -> MergeRecipe:
    """M-TIES of all sources as the family's makers recommend it."""
    values: dict[str, Any] = family.recommended("m-ties")
    return MergeRecipe(family=family.name, method="m-ties", sources=family.sources, **values)


def begin_references(family: Family) -> None:
    """Starts that background work for families that any machine evaluates in a minute."""
    if family.model.width <= NARROW:
        references(family)


def score(family: Family, recipe: MergeRecipe) -> Job:
    """M-Loss of every block along an M-TIES merge of the recipe, recorded as a run."""
    name = new_id(recipe)

    def events() -> Events:
        merge = run(recipe, family, stages=(Merge(),))
        options = {"kind": "score", "keep_model": False, "id": name}
        with contextlib.closing(recorded(merge, recipe, **options)) as log:
            yield from map(without_weights, log)

    board = session.board()
    if (job := board.find("score", recipe)) is not None:
        return job
    job = board.submit("score", "M-Loss of every block", events, spec=recipe)
    allowed.own(name)
    return job


def merge(family: Family, recipe: MergeRecipe) -> Job:
    """A merge with live accuracies, recorded as a run; its result is the run's id."""
    tasks, name = own_tasks(family), new_id(recipe)

    def events() -> Events:
        evaluator = session.evaluator(family.name)
        options = {"evaluator": evaluator, "tasks": tasks, "keep": root()}
        work = run(recipe, family, stages=launch(), **options)
        with contextlib.closing(recorded(work, recipe, kind="merge", id=name)) as log:
            yield from map(without_weights, log)

    title = f"Merging {len(recipe.sources)} sources: {METHODS[recipe.method].title}"
    job = session.board().submit("merge", title, events, spec=recipe, finish=lambda log: name)
    allowed.own(name)
    return job


def experiment(name: str, family: Family, recipe: MergeRecipe) -> Job:
    """An experiment's cells; what happens within them is only a place to stop."""
    board = session.board()

    def events() -> Events:
        evaluator = session.evaluator(family.name)
        lab = Lab(family, evaluator.device, evaluator)
        with contextlib.closing(perform(name, family, recipe, lab=lab)) as log:
            yield Planned(steps=count(name, family, recipe))
            yield from (event if isinstance(event, CellDone) else None for event in log)

    return board.find("experiment", (name, recipe)) or board.submit(
        "experiment", EXPERIMENTS[name].title, events, spec=(name, recipe)
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A method that a comparison has no accuracy of, and why."""

    method: str
    why: str


def compare(
    family: Family,
    recipes: Sequence[MergeRecipe],
    budget: float | None = None,
    expected: Mapping[str, float] | None = None,
) -> Job:
    """Each recipe on the test images of its sources' own tasks, beside base, own sources and
    ensemble. What is on disk is not measured again.

    Args:
        budget: seconds for all of them; None for no limit.
        expected: seconds that a method took before.
    """
    spec = (tuple(recipes), budget)

    def events() -> Events:
        evaluator = session.evaluator(family.name)
        lab = Lab(family, evaluator.device, evaluator)
        yield Planned(steps=len(recipes) + 1)
        yield from _compared(lab, recipes, budget or math.inf, expected or {})

    board = session.board()
    job = board.find("compare", spec)
    if job is not None and job.active:
        return job
    return board.submit("compare", f"Comparing {len(recipes)} methods", events, spec=spec)


def _compared(
    lab: Lab, recipes: Sequence[MergeRecipe], left: float, expected: Mapping[str, float]
) -> Events:
    """The references, then one method after the other; what fails is named and passed over.

    Args:
        left: seconds that there are for the methods.
    """
    tasks = lab.family.own_tasks(recipes[0].sources)
    beside = dataclasses.replace(cell_of(recipes[0], tasks, method="ensembling"), beside=REFERENCES)
    cells = (beside, *(cell_of(recipe, tasks) for recipe in recipes))
    for done, cell in enumerate(cells, 1):
        begun, method = time.perf_counter(), cell.recipe.method
        seconds = math.inf if cell is beside else left
        result, cached = yield from _attempted(lab, cell, seconds, expected.get(method, 0.0))
        took = time.perf_counter() - begun
        if cell is not beside and not cached:
            left -= took
        if isinstance(result, str):
            yield LeftOut(method=method, why=result)
        else:
            yield CellDone(
                cell=cell, record=result, cached=cached, done=done, total=len(cells), left=None,
                seconds=took,
            )  # fmt: skip


def _attempted(
    lab: Lab, cell: Cell, seconds: float, expected: float
) -> Generator[Any, None, tuple[RunRecord | str, bool]]:
    """A cell's record, or why there is none; and whether it was on disk.

    Args:
        seconds: that it may take.
        expected: that it took before; 0 where nothing tells.
    """
    try:
        record = lab.cached_run(cell)
        if record is not None:
            return record, True
        if seconds <= 0:
            return "Skipped: nothing is left of the budget.", False
        if expected > seconds:
            return f"Skipped: took {elapsed(expected)} before, {elapsed(seconds)} are left.", False
        went = yield from on_its_way(lab.compute(cell), cell.label, seconds)
    except MlossError as error:
        return error_text(error), False
    except Exception as error:  # a bug of ours must not take the other methods with it
        traceback.print_exc()
        return f"unexpected {type(error).__name__}: {error}", False
    if went is None:
        return f"Stopped: took longer than the {elapsed(seconds)} that were left.", False
    return went[0], False


def on_its_way(
    work: Generator[Any, None, Any], title: str = "", seconds: float = math.inf
) -> Generator[Any, None, tuple[Any, Any] | None]:
    """Work as one step that says how far it is, in hundredths; None is a place to stop. Returns its
    result and its last event, or None where the time was over.

    Args:
        seconds: that it may take.
    """
    begun, so_far, event, last = time.perf_counter(), [], None, 0
    with contextlib.closing(work):
        while time.perf_counter() - begun < seconds:
            try:
                event = next(work)
            except StopIteration as end:
                return end.value, event
            so_far.append(without_weights(event))
            share, former = int(100 * share_of(so_far)), last
            last = max(share, former)
            way = Embedded(source=title, task="", seconds=0.0, done=last, total=101)
            yield way if last > former else None
    return None


def without_weights(event: Any) -> Any:
    """The event as a board keeps it, which must not hold every merged model in memory."""
    finished = isinstance(event, Finished)
    return dataclasses.replace(event, weights=None) if finished else event


def theory(family: Family, recipe: MergeRecipe) -> Job:
    """Predicted and measured M-Loss of every block along an M-TIES merge of the recipe."""
    board = session.board()
    return board.find("theory", recipe) or board.submit(
        "theory",
        "Theory beside measurement, every block",
        lambda: _planned(family.model.blocks, measure_theory(recipe, family)),
        spec=recipe,
    )


def measure(family: Family, recipe: MergeRecipe) -> Job:
    """M-Loss of pairs, of the set and of the set without each source; then sign conflicts."""

    def events() -> Events:
        yield Planned(steps=2 * family.model.blocks + 1)
        yield from losses_of_sets(recipe, family, compatibility_sets(recipe))
        yield from count_signs(recipe, family)

    return _find_or_submit("compatibility", "Measuring compatibility", events, recipe)


def study_recipe(family: Family, sources: Sequence[str], rule: str, **settings: int) -> MergeRecipe:
    """How the prediction study merges: as the family's makers recommend."""
    values: dict[str, Any] = {**family.recommended(rule), "variation": 0.0, **settings}
    return MergeRecipe(family=family.name, method=rule, sources=tuple(sources), **values)


def find_job(kind: str, spec: Any) -> Job | None:
    """The job of that kind that was asked this, also where it failed."""
    return session.board().find(kind, spec, failed=True)


def predict(family: Family, recipe: MergeRecipe) -> Job:
    """Every pair and some triples, merged and evaluated."""

    def events() -> Events:
        yield Planned(steps=2 * family.model.blocks + 1 + sets)
        for event in study(recipe, session.evaluator(family.name), TRIPLES):
            yield event if isinstance(event, SetLosses | SignsCounted | DropMeasured) else None

    sets = len(sets_of(len(recipe.sources), TRIPLES, recipe.seed))
    title = f"Merging {sets} sets by {METHODS[recipe.method].title}"
    return _find_or_submit("study", title, events, recipe)


def gap(family: Family, recipe: MergeRecipe, tasks: Sequence[str]) -> Job:
    """Distances of M-TIES, TIES and rows trimmed alike to the ensemble."""

    def events() -> Events:
        yield from ensemble_gap(recipe, session.evaluator(family.name), tasks)

    return _find_or_submit("gap", "Measuring the ensemble gap", events, recipe)


def _find_or_submit(kind: str, title: str, events: Any, spec: Any) -> Job:
    job = session.board().find(kind, spec)
    return job or session.board().submit(kind, title, events, spec=spec)


def _planned(steps: int, events: Iterable[Any]) -> Events:
    """Events that each are a step, planned before the first."""
    yield Planned(steps=steps)
    yield from events


KEPT = 2  # blocks that stay looked into: each holds its inputs of all images


def factors_job(family: Family, recipe: MergeRecipe) -> Job | None:
    """Both factors of every node, the Theory page's own job."""
    ask = "Measure curvature and variance"
    return job_or_button(family, "theory", recipe, ask, lambda: theory(family, recipe))


def look(family: Family, recipe: MergeRecipe, block: int) -> Job:
    """What a block's c_fc sees; the result is that of `TracedBlock.on_cpu`."""
    spec = (recipe, block)

    def events() -> Events:
        def kept(block_data: TracedBlock) -> TracedBlock | None:
            return block_data.on_cpu() if block_data.scores.block == block else None

        with contextlib.closing(trace_blocks(recipe, family, kept)) as blocks:
            yield Planned(steps=block + 1)
            for block_data in blocks:
                yield block_data
                if block_data is not None:
                    return

    board = session.board()
    return board.find("look", spec) or board.submit(
        "look", f"Looking into block {block}", events, spec=spec,
        finish=lambda log: log[-1], keep=KEPT,
    )  # fmt: skip


def block_job(family: Family, recipe: MergeRecipe, block: int) -> Job | None:
    """The same once somebody asks for it, or by itself in small families."""
    return job_or_button(
        family, "look", (recipe, block), f"Look into block {block}",
        lambda: look(family, recipe, block),
    )  # fmt: skip


def culprits_job(family: Family, recipe: MergeRecipe) -> Job | None:
    """M-Loss of all sources, of all but each one, and of all pairs, along the map's merge."""

    def begin() -> Job:
        return session.board().submit(
            "culprits", "M-Loss without each source",
            lambda: _planned(
                family.model.blocks, losses_along(recipe, family, compatibility_sets(recipe))
            ),
            spec=recipe,
        )  # fmt: skip

    return job_or_button(family, "culprits", recipe, "Measure M-Loss without each source", begin)


def map_job(family: Family, recipe: MergeRecipe, what: str) -> Job | None:
    """The map of that recipe, recorded as a run.

    Args:
        what: the map in words, for the button.
    """
    ask = f"Measure M-Loss {what}"
    return job_or_button(family, "score", recipe, ask, lambda: score(family, recipe))


def job_or_button(
    family: Family,
    kind: str,
    spec: Any,
    label: str,
    begin: Callable[[], Job],
    quick: bool = True,
) -> Job | None:
    """The job of that kind and spec. Small families begin it by themselves; else, and after it
    failed or was cancelled, a button does.

    Args:
        quick: whether it may begin by itself at all.
    """
    job = session.board().last(kind, spec)
    if job is not None and job.state in ("queued", "running", "finished"):
        session.looked_at(job)
        return job
    why = allowed.why_no_job()
    alone = quick and job is None and family.model.width <= NARROW and not why
    if alone or allowed.button(label, why, key=f"ask-{kind}-{hash(spec)}"):
        job = session.begun(begin()) if alone else begin()
        session.head_start(job)
    return job
