"""Merge while it trains: each checkpoint of a fine-tune merged with chosen other sources."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..data.calibration import batch_of, draw_batch, preprocess
from ..errors import BadFile, UnknownName
from ..evaluation.evaluator import Evaluator, hits, mean_accuracy
from ..evaluation.paired_test import Comparison, compare, spread
from ..families.family import Family
from ..hardware import device as devices
from ..methods import METHODS
from ..run import Merge, run
from ..types import (
    Accuracy,
    BlockScored,
    CalibrationBatch,
    Finished,
    MergedModel,
    MergeRecipe,
    Planned,
)
from ..vit import Tower
from .lesson import Lesson

TOGETHER = 64  # held-out pictures that are embedded at once
SEED = 0  # of the halves that the verdict chooses on and tests on


@dataclass(frozen=True, kw_only=True)
class MergedAt:
    """The event that a checkpoint is merged and measured.

    Args:
        step: of the checkpoint.
        mloss: mean node M-Loss of each block, of the checkpoint with the other sources; and both
            ends of its 95 % interval over the calibration images.
        own: the checkpoint's own answers on the held-out pictures.
        merged: the merged model's answers, on the held-out pictures and on the test pictures of
            the other sources' tasks, by task.
    """

    step: int
    mloss: Float[np.ndarray, "3 blocks"]
    own: Bool[np.ndarray, " n"]
    merged: Mapping[str, Bool[np.ndarray, " _"]]
    seconds: float

    @property
    def own_accuracy(self) -> Accuracy:
        """Correct and total of the checkpoint itself on the held-out pictures."""
        return Accuracy(correct=int(self.own.sum()), total=len(self.own))

    def merged_accuracy(self) -> tuple[float, float, float]:
        """The merged model's mean accuracy over the tasks, with its 95 % interval."""
        return mean_accuracy(self.merged)


def along(
    checkpoints: Mapping[int, Path],
    family: Family,
    lesson: Lesson,
    others: Sequence[str],
    *,
    method: str = "m-ties",
    settings: Mapping[str, Any] = MappingProxyType({}),
    images: int | None = None,
    device: str = "auto",
) -> Iterator[Planned | MergedAt]:
    """Merges each checkpoint with the other sources, and measures it.

    Args:
        checkpoints: files by step, as `keeping.checkpoints` finds them.
        others: sources of the family.
        method, settings: of the merge; fields of a recipe. M-Loss is M-TIES' at the same k.
        images: test pictures of each other task; None means all.

    Raises:
        InputError: before any work, where sources, method or settings are wrong.
    """
    place = devices.choose(device)
    for name in others:
        if name not in family.sources:
            raise UnknownName("sources", name, family.sources)
    name = _apart(lesson.name, family.sources)
    recipe = MergeRecipe(
        family=family.name, method=method, sources=(*others, name), **dict(settings)
    )
    batch = _calibration(recipe, family, lesson, others)
    evaluator = Evaluator(family, place)
    yield Planned(steps=len(checkpoints))
    for step, path in sorted(checkpoints.items()):
        start = time.perf_counter()
        joined = _joined(family, lesson, name, path)
        mloss, merged = _merged(recipe, joined, batch, device)
        own = Tower(family.model, joined.source(name).load(place))
        answers = _answers(merged, evaluator, lesson, joined.own_tasks(others), images)
        yield MergedAt(
            step=step, mloss=mloss, own=_held_out(own, evaluator, lesson), merged=answers,
            seconds=time.perf_counter() - start,
        )  # fmt: skip


def _apart(name: str, taken: Sequence[str]) -> str:
    """A source's name that none of the others has."""
    while name in taken:
        name += " (new)"
    return name


def _joined(family: Family, lesson: Lesson, name: str, path: Path) -> Family:
    """The family with a checkpoint as one more source; nothing on disk changes."""
    about = dict(family.about)
    if lesson.of_family:
        about["tasks"] = [
            {**task, "sources": [*task.get("sources", [task["name"]]), name]}
            if task["name"] == lesson.name
            else task
            for task in about["tasks"]
        ]
    parts = dataclasses.replace(
        family.parts, about=about, sources={**family.parts.sources, name: path}
    )
    return dataclasses.replace(
        family, parts=parts, sources=(*family.sources, name), opened=dict(family.opened)
    )


def _calibration(
    recipe: MergeRecipe, family: Family, lesson: Lesson, others: Sequence[str]
) -> CalibrationBatch:
    """Images of the other sources' tasks from the family's pool, and as many of each task from the
    lesson's own: pictures that it was trained on."""
    tasks = family.pool_tasks(others)
    new = 0 if lesson.name in tasks else 1
    share = recipe.samples // (len(tasks) + new)
    pool = family.calibration_pool
    if not pool.is_file():
        remedy = f"make it from validation images: mloss pool {family.name}"
        raise BadFile("calibration pool", pool, "is no file", remedy)
    drawn = draw_batch(pool, tasks, recipe.samples - new * share, recipe.seed)
    order = np.random.default_rng(recipe.seed).permutation(len(lesson.labels))[: new * share]
    images = np.concatenate([drawn.images, np.asarray(lesson.images[order][:])])
    assert drawn.tasks is not None, "a pool's images have tasks"
    return batch_of(images, np.array([*drawn.tasks, *[lesson.name] * len(order)]))


def _merged(
    recipe: MergeRecipe, family: Family, batch: CalibrationBatch, device: str
) -> tuple[Float[np.ndarray, "3 blocks"], MergedModel]:
    """Mean M-Loss by block with its interval, and the merged model."""
    measured = MergeRecipe(
        family=recipe.family, method="m-ties", sources=recipe.sources, keep=recipe.keep,
        variation=recipe.variation, seed=recipe.seed,
    )  # fmt: skip
    recipes = [recipe] if recipe.method == "m-ties" else [recipe, measured]
    means: dict[int, tuple[float, float, float]] = {}
    weights: dict[str, Tensor] = {}
    for each in recipes:
        for event in run(each, family, stages=(Merge(),), device=device, calibration=batch):
            if isinstance(event, BlockScored):
                means[event.scores.block] = event.scores.mean_interval()
            elif isinstance(event, Finished) and each is recipe:
                if event.weights is None:
                    one = ", ".join(name for name, m in METHODS.items() if m.one_model)
                    raise UnknownName("method", recipe.method, one.split(", "))
                weights = event.weights
    unknown = (np.nan, np.nan, np.nan)  # of blocks that are not among the recipe's
    blocks = [means.get(block, unknown) for block in range(family.model.blocks)]
    place = devices.choose(device)
    return np.array(blocks).T, Tower(family.model, {n: w.to(place) for n, w in weights.items()})


def _answers(
    model: MergedModel,
    evaluator: Evaluator,
    lesson: Lesson,
    tasks: Sequence[str],
    images: int | None,
) -> dict[str, Bool[np.ndarray, " _"]]:
    """The merged model's answers on the lesson's held-out pictures and on the other tasks."""
    answers = {lesson.name: _held_out(model, evaluator, lesson)}
    for task in (task for task in tasks if task != lesson.name):
        features = evaluator.features("merged", lambda: model, task, images)
        answers[task] = evaluator.judged("merged", task, features, time.perf_counter()).hits
    evaluator.forget("merged")
    return answers


def _held_out(model: MergedModel, evaluator: Evaluator, lesson: Lesson) -> Bool[np.ndarray, " n"]:
    parts = []
    for start in range(0, len(lesson.held_labels), TOGETHER):
        images = np.asarray(lesson.held_images[start : start + TOGETHER])
        pixels = preprocess(images, evaluator.family.model, evaluator.device)
        parts.append(model.features(pixels, lesson.name))
    return hits(torch.cat(parts), lesson.head.to(evaluator.device), lesson.held_labels)


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """Whether more training stopped helping the merge.

    Args:
        best: step of the checkpoint that merges best, chosen on one half of the pictures.
        last: step of the last one.
        comparison: merged accuracy at `best` minus at `last`, on the other half; None where the
            best is the last.
    """

    best: int
    last: int
    comparison: Comparison | None

    @property
    def there(self) -> bool:
        """Whether the last checkpoint merges worse: the interval lies above zero."""
        return self.comparison is not None and self.comparison.low > 0

    @property
    def words(self) -> str:
        """The finding as one sentence."""
        if self.comparison is None:
            return (
                f"**No merging collapse**: the last checkpoint, of step {self.last}, merges best."
            )
        said = (
            f"the merge with step {self.best} is {self.comparison.difference:+.2f} points from "
            f"that with step {self.last} ({spread(self.comparison)}, "
            f"{self.comparison.images:,} pictures that did not choose the step)."
        )
        if self.there:
            return f"**Merging collapse after step {self.best}**: {said}"
        return f"**No merging collapse to be seen**: {said}"


def collapse(points: Sequence[MergedAt]) -> Collapse:
    """Where more training stops helping the merge.

    The best of several checkpoints looks better than it is on the pictures that it was chosen on.
    So it is chosen on one half of each task's pictures and compared with the last, paired, on the
    other (bootstrap, as all comparisons).
    """
    points = sorted(points, key=lambda point: point.step)
    last = points[-1]
    halves = {task: _half(len(right), task) for task, right in last.merged.items()}

    def chosen_on(point: MergedAt) -> float:
        shares = [point.merged[task][half].mean() for task, half in halves.items() if half.any()]
        return float(np.mean(shares)) if shares else 0.0

    best = max(points, key=lambda point: (chosen_on(point), point.step))
    if best is last:
        return Collapse(best=best.step, last=last.step, comparison=None)
    ours, other = (
        {task: point.merged[task][~half] for task, half in halves.items()} for point in (best, last)
    )
    return Collapse(best=best.step, last=last.step, comparison=compare(ours, other))


def _half(pictures: int, task: str) -> Bool[np.ndarray, " n"]:
    """Which of a task's pictures choose the checkpoint."""
    half = np.zeros(pictures, bool)
    order = np.random.default_rng([SEED, *task.encode()]).permutation(pictures)
    half[order[: pictures // 2]] = True
    return half
