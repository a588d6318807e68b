"""Distance of merged models' embeddings to the ensemble's, the paper's claim of alignment."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ...errors import BadValue
from ...evaluation.evaluator import Evaluator
from ...intervals import mean_of_means
from ...recipe import fingerprint
from ...run import cell, run, steps
from ...types import Event, Finished, MergeRecipe, Planned


@dataclass(frozen=True, kw_only=True)
class GapMeasured:
    """Distances to the ensemble on one task, image by image: 1 minus the cosine similarity.

    Args:
        m_ties: of M-TIES as the recipe says.
        ties: of TIES at the same k.
        seconds: wall time.
    """

    task: str
    m_ties: Float[np.ndarray, " n"]
    ties: Float[np.ndarray, " n"]
    seconds: float


def ensemble_gap(
    recipe: MergeRecipe, evaluator: Evaluator, tasks: Sequence[str]
) -> Iterator[GapMeasured | Event]:
    """Measures the distances of M-TIES and of TIES at the same k to the ensemble on the tasks.

    Raises:
        BadValue: there are no tasks to compare on.
    """
    if not tasks:
        problem = "leave no task with test images to compare on"
        raise BadValue("sources", ",".join(recipe.sources), problem, "add tasks to the family")
    keys, family = {}, evaluator.family
    merges = [dataclasses.replace(recipe, method=m) for m in ("m-ties", "ties", "ensembling")]
    total = sum(steps(merge, family, cell(), tasks) for merge in merges)
    yield Planned(steps=total + len(tasks))
    for merge in merges:
        for event in run(merge, family, stages=cell(), evaluator=evaluator, tasks=tasks):
            if isinstance(event, Finished):
                keys[merge.method] = fingerprint(event.metadata)
            if not isinstance(event, Planned):
                yield event
    for task in tasks:
        start = time.perf_counter()
        ensemble = evaluator.ensembled(task, recipe.sources, recipe.alpha)
        features = {m: evaluator.features(keys[m], _never, task) for m in ("m-ties", "ties")}
        m_ties, ties = (_distance(features[m], ensemble) for m in ("m-ties", "ties"))
        seconds = time.perf_counter() - start
        yield GapMeasured(task=task, m_ties=m_ties, ties=ties, seconds=seconds)


def _never() -> NoReturn:
    raise AssertionError("the evaluator keeps what the runs have just embedded")


def _distance(ours: Tensor, reference: Tensor) -> Float[np.ndarray, " n"]:
    return (1 - F.cosine_similarity(ours.double(), reference.double())).cpu().numpy()


def gap_difference(gaps: Iterable[GapMeasured]) -> tuple[float, float, float]:
    """TIES' distance minus M-TIES', mean over tasks, with its 95 % interval, paired over images.

    Above zero where M-TIES is the nearer one.
    """
    return mean_of_means([gap.ties - gap.m_ties for gap in gaps])
