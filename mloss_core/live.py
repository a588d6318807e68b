"""live(recipe): a merge to look at, not to keep, as soon as can be: merged, judged on a few images,
then on all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from . import device as devices
from .desk import TensorCache
from .errors import BadValue
from .evaluate import STEP, Evaluator
from .merging import begin
from .methods import METHODS
from .methods.mloss_guided import Weights
from .recipe import calibration_of, check, fingerprint, provenance
from .types import Embedded, Event, Finished, MergedModel, MergeRecipe


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
        raise BadValue("--method", recipe.method, problem, "launch it, or take another method")
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
