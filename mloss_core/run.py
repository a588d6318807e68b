"""run(recipe, family, stages=...): the only orchestrator. Progress is the events it yields.

What a run does is data: a sequence of stages. Nothing here holds `no_grad` over a yield: no tensor
ever asks for a gradient.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import time
from collections import ChainMap
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .checkpoints.image_tower import is_finite
from .data.calibration import preprocess
from .errors import BadValue, InputError
from .evaluation.attempts import Attempts
from .evaluation.evaluator import Evaluator
from .families.family import Family
from .fields import FIELDS, WAYS
from .hardware import device as devices
from .hardware.out_of_memory import reported_memory
from .hardware.peak import watched
from .methods import METHODS
from .methods.keep_rates import draws_images, measured_blocks
from .methods.method import Models, OwnImages, Weights
from .recipe import calibration_of, check, fingerprint, images_of, provenance
from .sweep import sweep
from .tensor_cache import TensorCache
from .types import (
    BlockMerged,
    BlockScored,
    CalibrationBatch,
    Embedded,
    Event,
    Finished,
    MergedModel,
    MergeRecipe,
    Planned,
    TaskEvaluated,
    Trained,
)
from .vit import Tower, chunks

REFERENCES = ("base", "own", "ties", "ensembling")


@dataclass(frozen=True, kw_only=True)
class Merge:
    """The stage that merges.

    Args:
        partial: test images per task on which the partial model (merged so far, base beyond) is
            evaluated after each block; 0 for none.
        trace: whether BlockInputs come, too.
    """

    partial: int = 0
    trace: bool = False


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """A stage that evaluates whole models on the tasks.

    Args:
        stage: its name, which its events carry.
        models: "merged", or of REFERENCES: "base", "own" (each task's own source), "ties" (at the
            same k) and "ensembling"; or a source by name, on its own task.
        images: test images per task; None means all.
    """

    stage: str
    models: tuple[str, ...]
    images: int | None = None


Stages = Sequence[Merge | Evaluate]
FULL = Evaluate(stage="full", models=("merged",))


def launch(partial: int = 50, quick: int = 100) -> Stages:
    """A merge that is watched: after every block, at its end, and beside what it stands against."""
    return (
        Evaluate(stage="before", models=("base", "own", "ties"), images=partial),
        Merge(partial=partial),
        Evaluate(stage="quick", models=("merged",), images=quick),
        FULL,
        Evaluate(stage="references", models=REFERENCES),
    )


def live(quick: int = 50) -> Stages:
    """A merge to look at, not to keep, as soon as can be: on a few images, then on all, and then
    beside TIES at the same k."""
    few = [Evaluate(stage="quick", models=(model,), images=quick) for model in ("merged", "ties")]
    return (Merge(), *few, FULL, Evaluate(stage="full", models=("ties",)))


def cell(beside: Sequence[str] = ()) -> Stages:
    """What an experiment needs of a recipe: the whole model on all images, and what is beside."""
    references = Evaluate(stage="references", models=tuple(beside))
    return (Merge(), FULL, *([references] if beside else []))


def references(models: Sequence[str] = REFERENCES, images: int | None = None) -> Stages:
    """What merges of these sources are compared with, and no merge."""
    return (Evaluate(stage="references", models=tuple(models), images=images),)


TRACE: Stages = (Merge(trace=True),)


@dataclass(kw_only=True)
class _Run:
    """What the stages of one run share."""

    recipe: MergeRecipe
    family: Family
    device: torch.device
    calibration: CalibrationBatch | None
    metadata: dict[str, object]
    evaluator: Evaluator | None
    tasks: Sequence[str]
    cache: TensorCache | None
    keep: Path | None = None
    model: MergedModel | None = None
    merged: Weights = field(default_factory=dict)
    seconds: float = 0.0
    peak: int | None = None

    @functools.cached_property
    def ties(self) -> Tower:
        """TIES as it is, at the same k: what a merge is compared with."""
        merged: Weights = {}
        for _ in sweep(_models(self), ties_of(self.recipe), None, merged):
            pass
        return Tower(self.family.model, merged)


def run(
    recipe: MergeRecipe,
    family: Family,
    *,
    stages: Stages | None = None,
    device: str = "auto",
    calibration: CalibrationBatch | None = None,
    evaluator: Evaluator | None = None,
    tasks: Sequence[str] = (),
    cache: TensorCache | None = None,
    keep: Path | None = None,
) -> Generator[Event, None, None]:
    """Merges as the recipe says and evaluates along the way, stage by stage.

    The first event is Planned, the last Finished; each event is a place to stop.

    Args:
        stages: what is done, in order; None means `launch()`.
        device: "auto", "cpu", "cuda" or "mps"; the evaluator's, if there is one.
        calibration: exactly these images; None draws them as the recipe says.
        evaluator: of the same family, for what it remembers; None starts afresh.
        tasks: evaluated on; stages that evaluate are skipped where there are none.
        cache: where sources that are merged again and again lie ready; None starts afresh.
        keep: folder where training keeps its state until it is done, so that the same run begun
            again goes on; None keeps none.

    Raises:
        InputError: before any work, where the recipe or the files are wrong; after the merge, where
            it left what is no number.
        OutOfMemory: the work did not fit; nothing is kept.
    """
    family.refresh()
    check(recipe, family)
    place = evaluator.device if evaluator else devices.choose(device)
    stages = launch() if stages is None else stages
    drawn = calibration is None or not draws_images(recipe, family.model)
    if drawn:
        merges = any(isinstance(stage, Merge) for stage in stages)
        calibration = calibration_of(recipe, family) if merges else None
    with reported_memory(place.type):
        if tasks and evaluator is None:
            evaluator = Evaluator(family, place)
        work = _Run(
            recipe=recipe, family=family, device=place, calibration=calibration,
            metadata=provenance(recipe, family, calibration, drawn),
            evaluator=evaluator, tasks=tasks, cache=cache, keep=keep,
        )  # fmt: skip
        yield from _run(work, stages)


def _run(work: _Run, stages: Stages) -> Iterator[Event]:
    yield Planned(steps=steps(work.recipe, work.family, stages, work.tasks))
    try:
        for stage in stages:
            yield from _merge(work, stage) if isinstance(stage, Merge) else _evaluate(work, stage)
    except GeneratorExit:  # passed over: what the merged model has embedded is in the way
        if work.evaluator:
            work.evaluator.forget(fingerprint(work.metadata))
        raise
    if (state := _state(work)) is not None:
        state.unlink(missing_ok=True)  # all of it is in the weights now
    yield Finished(
        weights={name: tensor.cpu() for name, tensor in work.merged.items()} or None,
        metadata=work.metadata,
        seconds=work.seconds,
        device=work.device.type,
        peak=work.peak,
    )


def _models(work: _Run) -> Models:
    """The base on the device, and the sources with what an earlier merge left of them."""
    base = work.family.base()
    sources = [work.family.source(name) for name in work.recipe.sources]
    cache = (work.cache or TensorCache()).of(base, sources, work.device)
    weights = base.load(work.device)
    config = work.family.model
    return Models(
        config=config, base=weights, sources=sources, device=work.device, cache=cache,
        state=_state(work),
    )  # fmt: skip


def _state(work: _Run) -> Path | None:
    """The file where this very training keeps its state."""
    if work.keep is None or not METHODS[work.recipe.method].trains:
        return None
    name = hashlib.sha256(fingerprint(work.metadata).encode()).hexdigest()[:24]
    return work.keep / f".training-{name}.npz"


def _merge(work: _Run, stage: Merge) -> Iterator[Event]:
    """The merge, with the partial model evaluated after each block where the stage says so."""
    method = METHODS[work.recipe.method]
    if not method.one_model and method.several is None:
        return
    with watched(work.device) as peak:
        models = _models(work)
        if method.several is not None:
            several = method.several(models, work.recipe)
            work.model, events = several, several.prepare(work.recipe)
        else:
            work.model = Tower(models.config, work.merged)
            events = _watched_sweep(work, models, stage)
        for event in events:
            yield event
            if isinstance(event, BlockScored | BlockMerged | Trained):
                work.seconds += event.seconds
    work.peak = peak[0] if peak else None
    _check_finite(work.merged)


def _check_finite(merged: Mapping[str, Tensor]) -> None:
    """Raises BadValue where a merge has left what is no number, before anything is made of it."""
    for name, tensor in merged.items():
        if not is_finite(tensor):
            problem = f"has {int((~tensor.isfinite()).sum())} values that are no finite numbers"
            remedy = "take a smaller scaling or rate, or a larger keep rate"
            raise BadValue("merged", name, problem, remedy)


def _watched_sweep(work: _Run, models: Models, stage: Merge) -> Iterator[Event]:
    """The sweep, and after each block the partial model's accuracies if the stage wants them."""
    batch, stream = work.calibration, None
    images = preprocess(batch.images, models.config, work.device) if batch else None
    tower = Tower(models.config, ChainMap(work.merged, models.base))
    partial = stage.partial if not METHODS[work.recipe.method].whole else 0
    own = _own_images(work)
    for event in sweep(models, work.recipe, images, work.merged, stage.trace, own):
        yield event
        if work.evaluator and work.tasks and partial and isinstance(event, BlockMerged):
            if stream is None:
                pixels = [work.evaluator.pixels(task, 0, stage.partial) for task in work.tasks]
                stream = tower.embed(torch.cat(pixels))
            stream = tower.block(event.block, stream)
            yield from _partial(work.evaluator, tower, stream, event.block, work.tasks, stage)


def _own_images(work: _Run) -> list[OwnImages]:
    """Each source's images and head, where the method looks at them."""
    method = METHODS[work.recipe.method]
    if not method.own_images:
        return []
    assert work.calibration is not None, "drawn or given"
    family, owned = work.family, []
    heads = family.heads(work.device) if method.heads else {}
    for source, images in images_of(work.recipe, family, work.calibration).items():
        pixels = preprocess(images, family.model, work.device)
        head = heads.get(family.own_task(source))
        if head is not None:
            head = F.normalize(head, dim=-1) * family.logit_scale
        owned.append(OwnImages(pixels=pixels, head=head))
    return owned


def _partial(
    evaluator: Evaluator,
    tower: Tower,
    stream: Tensor,
    block: int,
    tasks: Sequence[str],
    stage: Merge,
) -> Iterator[TaskEvaluated]:
    """The partial model's accuracies, from the stream after its last merged block."""
    start = time.perf_counter()
    parts = [tower.head(x, block + 1) for x in chunks(stream, tower.family.tokens)]
    sizes = [len(evaluator.task(task).images[: stage.partial]) for task in tasks]
    for task, features in zip(tasks, torch.cat(parts).split(sizes), strict=True):
        event = evaluator.judged("merged", task, features, start, block)
        yield dataclasses.replace(event, stage="partial")
        start = time.perf_counter()


def _evaluate(work: _Run, stage: Evaluate) -> Iterator[Event]:
    """The accuracies of whole models; whoever embeds says so, so that each step is a short one.

    A task that fails is passed over until the stage is done, and raised then.
    """
    if work.evaluator is None:
        return
    attempts = Attempts()
    for label in stage.models:
        possible = _tasks_of(work.recipe, work.family, work.tasks, label)
        tasks = [task for task in possible if task not in attempts.failed]
        if label == "merged" and isinstance(work.model, Tower) and stage.images is not None:
            # All tasks side by side: a few images of one alone would leave threads idle.
            key, build = _embedder(work, label)
            with contextlib.suppress(InputError):  # whose it is shows one by one
                work.evaluator.extend(key, build(), dict.fromkeys(tasks, stage.images))
        for task in tasks:
            with attempts.of(task):
                yield from _evaluated(work, work.evaluator, label, task, stage)
    attempts.finish()


def _evaluated(
    work: _Run, evaluator: Evaluator, label: str, task: str, stage: Evaluate
) -> Iterator[Embedded | TaskEvaluated]:
    """A model's accuracy on a task, embedded step by step."""
    for name in _embedders(work.recipe, work.family, label, task):
        key, build = _embedder(work, name)
        for seconds, done, total in evaluator.embed(key, build, task, stage.images):
            yield Embedded(source=name, task=task, seconds=seconds, done=done, total=total)
    yield _accuracy(work, evaluator, label, task, stage)


def _accuracy(
    work: _Run, evaluator: Evaluator, label: str, task: str, stage: Evaluate
) -> TaskEvaluated:
    """The accuracy of a model whose images are embedded."""
    start, (sources, alpha) = time.perf_counter(), (work.recipe.sources, work.recipe.alpha)
    members = _embedders(work.recipe, work.family, label, task)
    if _is_ensemble(work.recipe, label):
        features = evaluator.ensembled(task, sources, alpha, stage.images)
    else:
        features = evaluator.features(*_embedder(work, members[0]), task, stage.images)
    event = evaluator.judged(label, task, features, start)
    return dataclasses.replace(event, stage=stage.stage)


def _embedders(recipe: MergeRecipe, family: Family, label: str, task: str) -> tuple[str, ...]:
    """Whose embeddings a model's accuracy on a task takes: sources, "base", "merged", "ties"."""
    if _is_ensemble(recipe, label):
        return recipe.sources
    return (family.own_source(task, recipe.sources),) if label == "own" else (label,)


def _is_ensemble(recipe: MergeRecipe, label: str) -> bool:
    return label == "ensembling" or (label == "merged" and recipe.method == "ensembling")


def _embedder(work: _Run, name: str) -> tuple[str, Callable[[], MergedModel]]:
    """The content's name of what embeds, and what builds it."""
    config, device = work.family.model, work.device
    if name == "merged":
        model = work.model
        assert model is not None, "a stage that merges comes first"
        return fingerprint(work.metadata), lambda: model
    if name == "ties":
        described = provenance(ties_of(work.recipe), work.family, None)
        return fingerprint(described), lambda: work.ties
    checkpoint = work.family.base() if name == "base" else work.family.source(name)
    return checkpoint.sha256, lambda: Tower(config, checkpoint.load(device))


def _tasks_of(
    recipe: MergeRecipe, family: Family, tasks: Sequence[str], label: str
) -> tuple[str, ...]:
    """The tasks on which a model can be evaluated."""
    if label == "merged":
        return evaluable_tasks(recipe, tasks)
    if label == "own":
        own = family.own_tasks(family.sources)
        return tuple(task for task in tasks if task in own)
    if label in family.sources and label not in REFERENCES:
        return tuple(task for task in tasks if task == family.own_task(label))
    # TIES is not set beside itself.
    return () if label == "ties" and recipe.method == "ties" else tuple(tasks)


def steps(recipe: MergeRecipe, family: Family, stages: Stages, tasks: Sequence[str] = ()) -> int:
    """How many steps a run of these stages takes; see `types.progress`."""
    method, config, total = METHODS[recipe.method], family.model, 1  # the last event
    for stage in stages:
        if isinstance(stage, Evaluate):
            for label in stage.models:
                of_label = _tasks_of(recipe, family, tasks, label)
                total += sum(1 + len(_embedders(recipe, family, label, t)) for t in of_label)
        elif method.one_model or method.several is not None:
            scored = len(measured_blocks(recipe, config)) * (1 + stage.trace)
            watched = stage.partial and method.one_model and not method.whole
            partial = len(tasks) if watched else 0
            total += method.steps(recipe) + scored + config.blocks * (1 + partial)
    return total


def evaluable_tasks(recipe: MergeRecipe, tasks: Sequence[str]) -> tuple[str, ...]:
    """The tasks on which the recipe's model can be evaluated: all, or those whose source is merged
    where each task has a model of its own."""
    per_task = METHODS[recipe.method].per_task
    return tuple(task for task in tasks if not per_task or task in recipe.sources)


def ties_of(recipe: MergeRecipe) -> MergeRecipe:
    """TIES as it is, at the same k: what a merge is compared with."""
    usual = {name: FIELDS[name].default for name in WAYS}
    return dataclasses.replace(recipe, method="ties", **usual)
