"""Rerun of a finished run: checks its inputs, and compares tensors, scores and counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import BadFile
from ..families.family import Family, load
from ..run import run
from ..types import BlockScored, Event, Finished
from .events import Hits, final_hits, score_tensors
from .layout import MODEL, SCORES, as_bad_file
from .record import RunRecord, counts

# Of a block's scores, in multiples of its largest: sums over tokens are cut by the number of
# threads, and rounding then differs by some 1e-7. Merged tensors have no such sums.
TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """The comparison of a rerun with the run on disk.

    Args:
        tensors, scores: how many tensors of the model, and blocks' scores, were compared.
        score_gap: the largest difference of scores, over the largest score of its block.
        differing: largest absolute difference by name, of tensors whose bytes differ and of
            scores that differ by more than TOLERANCE; infinite where shape or dtype differ, or
            only one has it.
        judged: how many counts of correct answers were compared.
        miscounted: what was counted then and now, by model and task.
    """

    tensors: int
    scores: int
    score_gap: float
    differing: Mapping[str, float]
    judged: int
    miscounted: Mapping[str, tuple[int, int]]

    @property
    def agrees(self) -> bool:
        """Whether tensors agree to the byte, scores to TOLERANCE, and all counts."""
        return not self.differing and not self.miscounted


def checked(record: RunRecord) -> Family:
    """The family of a run, after checking that the run can be repeated.

    Raises:
        BadFile: it did not finish, left nothing to compare, or an input has changed since.
    """
    if record.state != "finished":
        problem = f"is {record.state}, not finished"
        raise BadFile("run", record.id, problem, "choose a finished run")
    files = [record.folder / name for name in (MODEL, SCORES)]
    if not any(path.is_file() for path in files) and not record.hits:
        problem = "left neither tensors nor accuracies"
        raise BadFile("run", record.id, problem, "choose a run that can be compared")
    family = load(record.metadata["recipe"]["family"])
    _same("base", record.metadata.get("base"), family.base().sha256)
    for name in record.metadata["recipe"]["sources"]:
        then = record.metadata.get("sources", {}).get(name)
        _same(f"source {name}", then, family.source(name).sha256)
    return family


def _same(name: str, then: object, now: object) -> None:
    if then != now:
        problem = f"has changed since the run: SHA-256 was {then}"
        raise BadFile(name, now, problem, "bring that file back to compare")


def again(record: RunRecord, family: Family, device: str) -> Iterator[Event]:
    """Runs a recorded run again, with its tasks where it was evaluated, and yields its events."""
    tasks = tuple(record.hits.get("merged", ()))
    return run(record.recipe(), family, device=device, tasks=tasks)


def compare(record: RunRecord, events: Sequence[Event]) -> Rerun:
    """Compares a rerun's events with the run on disk: tensors byte by byte, scores to TOLERANCE.

    Raises:
        BadFile: the run's files cannot be read, or other images were drawn.
    """
    finished = events[-1]
    assert isinstance(finished, Finished)
    then = record.metadata.get("calibration")
    _same("calibration images", then, finished.metadata["calibration"])
    scored = score_tensors([e.scores for e in events if isinstance(e, BlockScored)])
    model, scores = record.folder / MODEL, record.folder / SCORES
    tensors = finished.weights or {} if model.is_file() else {}
    differing: dict[str, float] = {}
    score_gap = 0.0
    with as_bad_file(record.id):
        if model.is_file():
            differing |= _differences(model, tensors, _byte_gap)
        if scores.is_file():
            shares = _differences(scores, scored, _share)
            score_gap = max(shares.values(), default=0.0)
            differing |= {n: gap for n, gap in shares.items() if gap > TOLERANCE}
    judged, miscounted = _counts(record.hits, final_hits(events))
    return Rerun(
        tensors=len(tensors),
        scores=len(scored) if scores.is_file() else 0,
        score_gap=score_gap,
        differing=differing,
        judged=judged,
        miscounted=miscounted,
    )


def _differences(
    path: Path, now: Mapping[str, Tensor], compared: Callable[[Tensor, Tensor], float | None]
) -> dict[str, float]:
    """Tensors that differ from the file's, with how far they do.

    Args:
        compared: how far two tensors of one shape and dtype are apart; None where they are not.
    """
    differences = {}
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        for name in sorted(names | now.keys()):
            if name not in names or name not in now:
                differences[name] = float("inf")
                continue
            then = file.get_tensor(name)
            if then.shape != now[name].shape or then.dtype != now[name].dtype:
                differences[name] = float("inf")
            elif (gap := compared(then, now[name])) is not None:
                differences[name] = gap
    return differences


def _share(then: Tensor, now: Tensor) -> float | None:
    """The largest difference over the largest value; None where all values are the same."""
    gap = float((then.double() - now.double()).abs().max())
    largest = float(then.double().abs().max())
    if gap == 0:
        return None
    return gap / largest if largest > 0 and math.isfinite(gap) else math.inf


def _byte_gap(then: Tensor, now: Tensor) -> float | None:
    """The largest difference of two tensors; None where their bytes are the same."""
    parts = (t.contiguous().reshape(-1).view(torch.uint8) for t in (then, now))
    if torch.equal(*parts):
        return None
    return float((then.double() - now.double()).abs().max())


def _counts(then: Hits, now: Hits) -> tuple[int, dict[str, tuple[int, int]]]:
    """The number of accuracy counts compared, and those that differ."""
    old, new = counts(then), counts(now)
    pairs = {
        f"{model} on {task}": (a.correct, new[model][task].correct if task in new[model] else -1)
        for model, tasks in old.items()
        if model in new
        for task, a in tasks.items()
    }
    return len(pairs), {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
