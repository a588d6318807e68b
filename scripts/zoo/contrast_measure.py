"""Measures the contrast family through the library: own accuracies, and every pair's M-Loss and merge."""

import itertools
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository is not on a script's path

from mloss_core import Accuracy, Family, MergeRecipe, TaskEvaluated
from mloss_core.analysis.compatibility.sets import Compatibility, compatibility_sets, losses_of_sets
from mloss_core.evaluation.evaluator import Evaluator, mean_of
from mloss_core.families import family as zoo
from mloss_core.run import cell, run

SAMPLES = 128
Interval = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two sources, what they reach on their own tasks alone and as a simple average, and their total M-Loss."""

    members: tuple[str, str]
    own: float
    merged: Interval
    loss: Interval


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Every source's accuracy on its own task, the base's a task, and all pairs."""

    own: dict[str, Accuracy]
    base: dict[str, Accuracy]
    pairs: list[Pair]


def measure_contrast(folder: Path) -> Contrast:
    """Everything the card says, on the family's test pictures."""
    os.environ["MLOSS_MODELS"] = str(folder.parent)
    family = zoo.load(folder.name)
    evaluator = Evaluator(family, torch.device("cpu"))
    own = {name: _accuracy(evaluator, name, family.own_task(name)) for name in family.sources}
    base = {name: _accuracy(evaluator, None, name) for name in family.tasks}
    losses = _losses(family)
    pairs = [
        Pair(
            members=members,
            own=sum(own[name].rate for name in members) / 2,
            merged=_merged(evaluator, members),
            loss=losses[members],
        )
        for members in itertools.combinations(family.sources, 2)
    ]
    return Contrast(own=own, base=base, pairs=pairs)


def _losses(family: Family) -> dict[tuple[str, ...], Interval]:
    """Every pair's M-Loss (Eq. 3, sum over the blocks) before merging, with its interval over pictures."""
    sources = family.sources
    recipe = MergeRecipe(
        family=family.name, method="m-ties", sources=sources, variation=0.0, samples=SAMPLES
    )
    blocks = tuple(losses_of_sets(recipe, family, compatibility_sets(recipe), device="cpu"))
    compatibility = Compatibility(sources=sources, blocks=blocks)
    matrices = [compatibility.pair_matrix("layer", bound=bound) for bound in range(3)]
    pairs = itertools.combinations(enumerate(sources), 2)
    return {(a, b): tuple(float(m[i, j]) for m in matrices) for (i, a), (j, b) in pairs}


def _accuracy(evaluator: Evaluator, source: str | None, task: str) -> Accuracy:
    """Of a source, or of the base, on a task's test images."""
    return evaluator.judged("own", task, evaluator.of_file(source, task), 0.0).accuracy


def _merged(evaluator: Evaluator, members: tuple[str, str]) -> Interval:
    """Accuracy of the pair's simple average on the members' own tasks."""
    family = evaluator.family
    recipe = MergeRecipe(family=family.name, method="simple-average", sources=members)
    tasks = family.own_tasks(members)
    events = run(recipe, family, stages=cell(), evaluator=evaluator, tasks=tasks)
    return mean_of({e.task: e.accuracy for e in events if isinstance(e, TaskEvaluated)})
