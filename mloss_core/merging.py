"""The steps of a merge, with the partial model evaluated along the way where somebody watches."""

from __future__ import annotations

import time
from collections import ChainMap
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .calibration import preprocess
from .desk import TensorCache
from .evaluate import Evaluator
from .methods import METHODS
from .methods.emr import TaskModels
from .methods.mloss_guided import Weights, sweep
from .types import (
    BlockMerged,
    BlockScored,
    CalibrationBatch,
    MergedModel,
    MergeRecipe,
    TaskEvaluated,
)
from .vit import Tower, chunks
from .zoo import Family

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
