"""Distance of merged models' embeddings to the ensemble's, the paper's claim of alignment."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
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
from ...run import cell as cell_stages
from ...run import run, steps
from ...runs.cells import Cell, Lab
from ...types import Event, Finished, MergeRecipe, Planned

ENSEMBLE = "ensemble"
# What is compared, by its field of GapMeasured, and how its recipe differs from M-TIES.
MERGES: dict[str, dict[str, str]] = {
    "m_ties": {},
    "ties": {"method": "ties"},
    "alike": {"ranks": "equal"},
    ENSEMBLE: {"method": "ensembling"},
}


@dataclass(frozen=True, kw_only=True)
class GapMeasured:
    """Distances to the ensemble on one task, image by image: 1 minus the cosine similarity.

    Args:
        m_ties: of M-TIES as the recipe says.
        ties: of TIES at the same k.
        alike: of rows trimmed alike, the same trim without M-Loss; None where not measured.
        cached: whether it was on disk.
        seconds: wall time.
    """

    task: str
    m_ties: Float[np.ndarray, " n"]
    ties: Float[np.ndarray, " n"]
    alike: Float[np.ndarray, " n"] | None = None
    cached: bool = False
    seconds: float


def ensemble_gap(
    recipe: MergeRecipe, evaluator: Evaluator, tasks: Sequence[str]
) -> Iterator[GapMeasured | Event]:
    """Measures the distances of M-TIES, of TIES at the same k and of rows trimmed alike to the
    ensemble on the tasks.

    What was measured before is read from disk: distances are kept beside the cells of experiments,
    by the same hash of recipe, files and images.

    Raises:
        BadValue: there are no tasks to compare on.
    """
    if not tasks:
        problem = "leave no task with test images to compare on"
        raise BadValue("sources", ",".join(recipe.sources), problem, "add tasks to the family")
    lab = Lab(evaluator.family, evaluator.device, evaluator)
    recipe = dataclasses.replace(recipe, method="m-ties")
    cells = {
        task: Cell(label="ensemble gap", recipe=recipe, tasks=(task,), beside=("ensemble gap",))
        for task in tasks
    }
    stored = {task: lab.cached_arrays(cell) for task, cell in cells.items()}
    missing = [task for task in tasks if stored[task] is None]
    merges = {name: dataclasses.replace(recipe, **changes) for name, changes in MERGES.items()}
    family, total = evaluator.family, len(tasks)
    if missing:
        total += sum(steps(m, family, cell_stages(), missing) for m in merges.values())
    yield Planned(steps=total)
    keys = yield from _embedded(merges, evaluator, missing)
    for task in tasks:
        start, distances = time.perf_counter(), stored[task]
        if distances is None:
            ensemble = evaluator.ensembled(task, recipe.sources, recipe.alpha)
            distances = {
                name: _distance(evaluator.features(keys[name], _never, task), ensemble)
                for name in MERGES
                if name != ENSEMBLE
            }
            lab.keep_arrays(cells[task], distances)
        seconds, cached = time.perf_counter() - start, stored[task] is not None
        yield GapMeasured(task=task, cached=cached, seconds=seconds, **distances)


def _embedded(
    merges: dict[str, MergeRecipe], evaluator: Evaluator, tasks: Sequence[str]
) -> Generator[Event, None, dict[str, str]]:
    """Embeds the tasks' images with the merges; returns their keys."""
    keys, options = {}, {"stages": cell_stages(), "evaluator": evaluator, "tasks": tasks}
    for name, merge in merges.items() if tasks else ():
        for event in run(merge, evaluator.family, **options):
            if isinstance(event, Finished):
                keys[name] = fingerprint(event.metadata)
            if not isinstance(event, Planned):
                yield event
    return keys


def _never() -> NoReturn:
    raise AssertionError("the evaluator keeps what the runs have just embedded")


def _distance(ours: Tensor, reference: Tensor) -> Float[np.ndarray, " n"]:
    return (1 - F.cosine_similarity(ours.double(), reference.double())).cpu().numpy()


def gap_difference(gaps: Iterable[GapMeasured]) -> tuple[float, float, float]:
    """TIES' distance minus M-TIES', mean over tasks, with its 95 % interval, paired over images.

    Above zero where M-TIES is the nearer one.
    """
    return mean_of_means([gap.ties - gap.m_ties for gap in gaps])
