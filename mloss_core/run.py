"""run(recipe, family): the only orchestrator. Progress is the events it yields.

Nothing here holds `no_grad` over a yield: no tensor ever asks for a gradient.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections import ChainMap
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .data.calibration import preprocess
from .errors import BadValue
from .evaluation.evaluator import STEP, Evaluator
from .families.family import Family
from .hardware import device as devices
from .hardware.peak import watched
from .methods import METHODS
from .methods.emr import TaskModels
from .methods.keep_rates import measured_blocks
from .recipe import calibration_of, check, fingerprint, provenance
from .sweep import Weights, sweep
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
    TaskEvaluated,
)
from .vit import Tower, chunks

REFERENCES = ("base", "own", "ties", "ensembling")


def run(
    recipe: MergeRecipe,
    family: Family,
    *,
    device: str = "auto",
    calibration: CalibrationBatch | None = None,
    evaluator: Evaluator | None = None,
    tasks: Sequence[str] = (),
    live: int = 50,
    quick: int = 100,
) -> Iterator[Event]:
    """Merges as the recipe says and evaluates along the way.

    Args:
        device: "auto", "cpu", "cuda" or "mps".
        calibration: exactly these images; None draws them as the recipe says.
        evaluator: of the same family and device, for what it remembers; None starts afresh.
        tasks: evaluated after every block (the partial model: merged so far, base beyond), at
            the merge's end, and whole, beside the base, own sources, TIES and the ensemble.
        live: test images a task after each block.
        quick: test images a task at the merge's end, before all of them.

    Raises:
        InputError: before any work, where the recipe or the files are wrong.
        OutOfMemory: the work did not fit; nothing is kept.
    """
    check(recipe, family)
    place = devices.choose(device)
    drawn = calibration is None or not measured_blocks(recipe, family.model)
    if drawn:
        calibration = calibration_of(recipe, family)
    with devices.reported_memory(place.type):
        yield from _run(recipe, family, place, calibration, drawn, evaluator, tasks, live, quick)


def _run(
    recipe: MergeRecipe,
    family: Family,
    device: torch.device,
    calibration: CalibrationBatch | None,
    drawn: bool,
    evaluator: Evaluator | None,
    tasks: Sequence[str],
    live: int,
    quick: int,
) -> Iterator[Event]:
    metadata = provenance(recipe, family, calibration, drawn)
    if tasks and evaluator is None:
        evaluator = Evaluator(family, device)
    ties = (
        functools.cache(functools.partial(tower_of, _twin(recipe), evaluator))
        if evaluator
        else None
    )
    if evaluator:
        for label in ("base", "own", "ties"):
            yield from references(evaluator, recipe, tasks, label, live, ties)
    merged: Weights = {}
    watch = (evaluator, tasks, live) if evaluator else None
    model, steps = begin(recipe, family, device, calibration, merged, watch)
    seconds = 0.0
    for event in steps:
        yield event
        seconds += 0 if isinstance(event, TaskEvaluated) else event.seconds
    if evaluator:
        for images in (quick, None):
            yield from _whole(evaluator, recipe, metadata, model, tasks, images)
        for label in REFERENCES:
            yield from references(evaluator, recipe, tasks, label, None, ties)
    weights = {name: tensor.cpu() for name, tensor in merged.items()} or None
    yield Finished(weights=weights, metadata=metadata, seconds=seconds, device=device.type)


def measured(
    recipe: MergeRecipe,
    evaluator: Evaluator,
    tasks: Sequence[str],
    beside: Sequence[str] = (),
) -> Iterator[Event]:
    """Merges, then evaluates the whole model alone on all of the evaluator's images: what an
    experiment needs of a recipe.

    Args:
        beside: references evaluated with it, see `references`.

    Raises:
        InputError: before any work, where the recipe or the files are wrong.
    """
    family, device = evaluator.family, evaluator.device
    check(recipe, family)
    calibration = calibration_of(recipe, family)
    metadata, seconds = provenance(recipe, family, calibration), 0.0
    with devices.reported_memory(device.type):
        with watched(device) as peak:
            model, steps = begin(recipe, family, device, calibration, {})
            for event in steps:
                yield event
                seconds += event.seconds
        if METHODS[recipe.method].rule is None and not METHODS[recipe.method].per_task:
            for event in references(evaluator, recipe, tasks, "ensembling", None):
                if isinstance(event, Embedded):  # a place to stop
                    yield event
        yield from _whole(evaluator, recipe, metadata, model, tasks, None)
        for label in beside:
            yield from references(evaluator, recipe, tasks, label, None)
    most = peak[0] if peak and seconds else None  # nothing was merged: nothing was taken
    yield Finished(weights=None, metadata=metadata, seconds=seconds, device=device.type, peak=most)


def _whole(
    evaluator: Evaluator,
    recipe: MergeRecipe,
    metadata: dict[str, object],
    model: MergedModel,
    tasks: Sequence[str],
    images: int | None,
) -> Iterator[TaskEvaluated]:
    """The finished model's accuracies on the first images, or all, of the tasks it is made for."""
    for task in judged(recipe, tasks):
        if recipe.method == "ensembling":
            event = evaluator.reference(recipe.method, task, recipe.sources, recipe.alpha, images)
            yield dataclasses.replace(event, model="merged")
            continue
        start = time.perf_counter()
        features = evaluator.features(fingerprint(metadata), lambda: model, task, images)
        yield evaluator.judged("merged", task, features, start)


def judged(recipe: MergeRecipe, tasks: Sequence[str]) -> tuple[str, ...]:
    """The tasks on which the recipe's model can be judged: all, or those whose source is merged
    where each task has a model of its own."""
    per_task = METHODS[recipe.method].per_task
    return tuple(task for task in tasks if not per_task or task in recipe.sources)


def references(
    evaluator: Evaluator,
    recipe: MergeRecipe,
    tasks: Sequence[str],
    label: str,
    images: int | None,
    ties: Callable[[], Tower] | None = None,
) -> Iterator[TaskEvaluated | Embedded]:
    """What a merge is compared with, on each task's first images (None: all).

    Args:
        label: "base", "own" (each task's own source), "ties" (at the same k) or "ensembling".
        ties: the TIES model, where somebody keeps it; None merges it when it is needed.
    """
    twin = _twin(recipe)
    build = ties or functools.cache(lambda: tower_of(twin, evaluator))
    key = fingerprint(provenance(twin, evaluator.family, None)) if label == "ties" else ""
    for task in tasks:
        if label == "own" and task not in evaluator.family.own_tasks(evaluator.family.sources):
            continue
        for source in recipe.sources if label == "ensembling" else ():
            for seconds in evaluator.embed(source, task, images):
                yield Embedded(source=source, task=task, seconds=seconds)
        if label != "ties":
            yield evaluator.reference(label, task, recipe.sources, recipe.alpha, images)
        elif recipe.method != "ties":
            start = time.perf_counter()
            yield evaluator.judged(label, task, evaluator.features(key, build, task, images), start)


def _twin(recipe: MergeRecipe) -> MergeRecipe:
    """TIES as it is, at the same k: what a merge is compared with."""
    return dataclasses.replace(recipe, method="ties", scope="tensor")


Watch = tuple[Evaluator, Sequence[str], int]  # who evaluates a partial model, where, on how many


def begin(
    recipe: MergeRecipe,
    family: Family,
    device: torch.device,
    calibration: CalibrationBatch | None,
    merged: Weights,
    watch: Watch | None = None,
    desk: TensorCache | None = None,
) -> tuple[MergedModel, Iterator[BlockScored | BlockMerged | TaskEvaluated]]:
    """The model that a recipe makes, and the steps that make it.

    Args:
        merged: filled on the way, where one model comes out.
        desk: what an earlier merge of these sources has left for this one.
    """
    if METHODS[recipe.method].per_task:
        sources = {name: family.source(name) for name in recipe.sources}
        model = TaskModels(family.model, family.base().load(device), sources)
        return model, model.unify(recipe)
    steps = _merge(recipe, family, device, calibration, merged, watch, desk)
    return Tower(family.model, merged), steps


def _merge(
    recipe: MergeRecipe,
    family: Family,
    device: torch.device,
    calibration: CalibrationBatch | None,
    merged: Weights,
    watch: Watch | None = None,
    desk: TensorCache | None = None,
) -> Iterator[BlockScored | BlockMerged | TaskEvaluated]:
    """The sweep, with the partial model evaluated after each block if that is watched."""
    if METHODS[recipe.method].rule is None:
        return
    base = family.base().load(device)
    sources = [family.source(name) for name in recipe.sources]
    images = preprocess(calibration.images, family.model, device) if calibration else None
    tower = Tower(family.model, ChainMap(merged, base))
    stream = None
    for event in sweep(family.model, base, sources, recipe, images, merged, desk):
        yield event
        if watch and watch[1] and isinstance(event, BlockMerged):
            evaluator, tasks, live = watch
            if stream is None:
                pixels = [evaluator.pixels(task, 0, live) for task in tasks]
                stream = tower.embed(torch.cat(pixels))
            stream = tower.block(event.block, stream)
            yield from _partial(evaluator, tower, stream, event.block, tasks, live)


def _partial(
    evaluator: Evaluator, tower: Tower, stream: Tensor, block: int, tasks: Sequence[str], live: int
) -> Iterator[TaskEvaluated]:
    """The partial model's accuracies, from the stream after its last merged block."""
    start = time.perf_counter()
    parts = [tower.head(x, block + 1) for x in chunks(stream, tower.family.tokens)]
    sizes = [len(evaluator.task(task).images[:live]) for task in tasks]
    for task, features in zip(tasks, torch.cat(parts).split(sizes), strict=True):
        yield evaluator.judged("merged", task, features, start, block)


def tower_of(recipe: MergeRecipe, evaluator: Evaluator) -> Tower:
    """The merged model of a recipe that needs no images."""
    merged: Weights = {}
    for _ in _merge(recipe, evaluator.family, evaluator.device, None, merged):
        pass
    return Tower(evaluator.family.model, merged)


def live(
    recipe: MergeRecipe,
    evaluator: Evaluator,
    tasks: Sequence[str],
    *,
    desk: TensorCache | None = None,
    first: int = 50,
) -> Iterator[Event]:
    """The merge of `run`, to the bit, with nothing evaluated before it is whole, and no references.

    After BlockScored and BlockMerged come TaskEvaluated of every task on the first images, then of
    each task on all of them, and Finished. Each event, Embedded too, is a place to stop.

    Args:
        evaluator: of the recipe's family; it remembers the merged model's features.
        desk: where sources that are merged again and again lie ready; None starts afresh.
        first: test images a task at first.

    Raises:
        InputError: before any work, where the recipe or the files are wrong, or the method leaves
            no single model.
        OutOfMemory: the work did not fit; nothing is kept.
    """
    family, device = evaluator.family, evaluator.device
    check(recipe, family)
    if METHODS[recipe.method].rule is None:
        problem = "leaves no single model to look at"
        raise BadValue("method", recipe.method, problem, "launch it, or take another method")
    calibration = calibration_of(recipe, family)
    metadata = provenance(recipe, family, calibration)
    merged: Weights = {}
    seconds, key = 0.0, fingerprint(metadata)
    with devices.reported_memory(device.type):
        at = desk.lay(family, recipe.sources, device) if desk else None
        model, steps = begin(recipe, family, device, calibration, merged, desk=at)
        for event in steps:
            yield event
            seconds += event.seconds
        try:
            yield from _judged(evaluator, key, model, tasks, first)
        except GeneratorExit:  # a setting that was passed over: what it embedded is in the way
            evaluator.forget(key)
            raise
    weights = {name: tensor.cpu() for name, tensor in merged.items()}
    yield Finished(weights=weights, metadata=metadata, seconds=seconds, device=device.type)


def _judged(
    evaluator: Evaluator, key: str, model: MergedModel, tasks: Sequence[str], first: int
) -> Iterator[Event]:
    """Accuracies on the first images of all tasks, embedded side by side, then on all images."""
    start = time.perf_counter()
    evaluator.extend(key, model, {task: first for task in tasks})
    for images in (first, None):
        for task in tasks:
            total = images or len(evaluator.task(task).images)
            for start_image in range(first, total, STEP):
                evaluator.extend(key, model, {task: start_image + STEP})
                yield Embedded(source="merged", task=task, seconds=time.perf_counter() - start)
                start = time.perf_counter()
            features = evaluator.features(key, lambda: model, task, images)
            yield evaluator.judged("merged", task, features, start)
            start = time.perf_counter()
