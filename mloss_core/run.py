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

from . import device as devices
from .calibration import preprocess
from .evaluate import Evaluator
from .methods import METHODS
from .methods.mloss_guided import Weights, node_wise_blocks, sweep
from .recipe import calibration_of, check, content_key, describe
from .types import (
    BlockMerged,
    BlockScored,
    CalibrationBatch,
    Embedded,
    Event,
    Finished,
    MergeRecipe,
    TaskEvaluated,
)
from .vit import Tower, chunks
from .zoo import Family

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
    drawn = calibration is None or not node_wise_blocks(recipe, family.model)
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
    metadata = describe(recipe, family, calibration, drawn)
    if tasks and evaluator is None:
        evaluator = Evaluator(family, device)
    twin = dataclasses.replace(recipe, method="ties")
    ties = functools.cache(functools.partial(_tower, twin, evaluator)) if evaluator else None
    if evaluator:
        for label in ("base", "own", "ties"):
            yield from references(evaluator, recipe, tasks, label, live, ties)
    merged: Weights = {}
    seconds = 0.0
    for event in _merge(recipe, family, device, calibration, merged, evaluator, tasks, live):
        yield event
        seconds += 0 if isinstance(event, TaskEvaluated) else event.seconds
    if evaluator:
        for images in (quick, None):
            yield from _whole(evaluator, recipe, metadata, merged, tasks, images)
        for label in REFERENCES:
            yield from references(evaluator, recipe, tasks, label, None, ties)
    weights = {name: tensor.cpu() for name, tensor in merged.items()} or None
    yield Finished(weights=weights, metadata=metadata, seconds=seconds, device=device.type)


def measured(recipe: MergeRecipe, evaluator: Evaluator, tasks: Sequence[str]) -> Iterator[Event]:
    """Merges as the recipe says and evaluates the whole model alone, on all test images.

    Yields BlockScored and BlockMerged, TaskEvaluated (model "merged") of each task, and Finished
    without weights, whose metadata names the features that the evaluator keeps.

    Raises:
        InputError: before any work, where the recipe or the files are wrong.
        OutOfMemory: the work did not fit; nothing is kept.
    """
    family, device = evaluator.family, evaluator.device
    check(recipe, family)
    calibration = calibration_of(recipe, family)
    metadata = describe(recipe, family, calibration)
    merged: Weights = {}
    seconds = 0.0
    with devices.reported_memory(device.type):
        for event in _merge(recipe, family, device, calibration, merged):
            yield event
            seconds += event.seconds
        yield from _whole(evaluator, recipe, metadata, merged, tasks, None)
    yield Finished(weights=None, metadata=metadata, seconds=seconds, device=device.type)


def _merge(
    recipe: MergeRecipe,
    family: Family,
    device: torch.device,
    calibration: CalibrationBatch | None,
    merged: Weights,
    evaluator: Evaluator | None = None,
    tasks: Sequence[str] = (),
    live: int = 0,
) -> Iterator[BlockScored | BlockMerged | TaskEvaluated]:
    """The sweep, with the partial model evaluated after each block if there is an evaluator."""
    if METHODS[recipe.method].rule is None:
        return
    base = family.base().load(device)
    sources = [family.source(name) for name in recipe.sources]
    images = preprocess(calibration.images, family.model, device) if calibration else None
    tower = Tower(family.model, ChainMap(merged, base))
    stream = None
    for event in sweep(family.model, base, sources, recipe, images, merged):
        yield event
        if evaluator and tasks and isinstance(event, BlockMerged):
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


def _whole(
    evaluator: Evaluator,
    recipe: MergeRecipe,
    metadata: dict[str, object],
    merged: Weights,
    tasks: Sequence[str],
    images: int | None,
) -> Iterator[TaskEvaluated]:
    """The finished model's accuracies on the first images, or all."""
    for task in tasks:
        if not merged:
            event = evaluator.reference(recipe.method, task, recipe.sources, recipe.alpha, images)
            yield dataclasses.replace(event, model="merged")
            continue
        start = time.perf_counter()
        key, tower = content_key(metadata), Tower(evaluator.family.model, merged)
        features = evaluator.features(key, lambda t=tower: t, task, images)
        yield evaluator.judged("merged", task, features, start)


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
    twin = dataclasses.replace(recipe, method="ties")
    build = ties or functools.cache(lambda: _tower(twin, evaluator))
    key = content_key(describe(twin, evaluator.family, None)) if label == "ties" else ""
    for task in tasks:
        if label == "own" and task not in evaluator.family.sources:
            continue
        for source in recipe.sources if label == "ensembling" else ():
            for seconds in evaluator.embed(source, task, images):
                yield Embedded(source=source, task=task, seconds=seconds)
        if label != "ties":
            yield evaluator.reference(label, task, recipe.sources, recipe.alpha, images)
        elif recipe.method != "ties":
            start = time.perf_counter()
            yield evaluator.judged(label, task, evaluator.features(key, build, task, images), start)


def _tower(recipe: MergeRecipe, evaluator: Evaluator) -> Tower:
    """The merged model of a recipe that needs no images."""
    merged: Weights = {}
    for _ in _merge(recipe, evaluator.family, evaluator.device, None, merged):
        pass
    return Tower(evaluator.family.model, merged)
