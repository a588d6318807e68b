"""Rerun of a finished run: checks its inputs, and compares the results byte by byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """The comparison of a rerun with the run on disk.

    Args:
        tensors, scores: how many tensors of the model, and blocks' scores, were compared.
        differing: largest absolute difference by name; infinite where shape or dtype differ, or
            only one has it.
        judged: how many counts of correct answers were compared.
        miscounted: what was counted then and now, by model and task.
    """

    tensors: int
    scores: int
    differing: Mapping[str, float]
    judged: int
    miscounted: Mapping[str, tuple[int, int]]

    @property
    def agrees(self) -> bool:
        """Whether all bytes and all counts agree."""
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
    """Compares a rerun's events with the run on disk, byte by byte.

    Raises:
        BadFile: the run's files cannot be read, or other images were drawn.
    """
    finished = events[-1]
    assert isinstance(finished, Finished)
    then = record.metadata.get("calibration")
    _same("calibration images", then, finished.metadata["calibration"])
    scored = score_tensors([e.scores for e in events if isinstance(e, BlockScored)])
    differing: dict[str, float] = {}
    number = [0, 0]
    for i, (name, now) in enumerate(((MODEL, finished.weights or {}), (SCORES, scored))):
        path = record.folder / name
        if path.is_file():
            with as_bad_file(record.id):
                number[i] = len(now)
                differing |= _differences(path, now)
    judged, miscounted = _counts(record.hits, final_hits(events))
    return Rerun(
        tensors=number[0],
        scores=number[1],
        differing=differing,
        judged=judged,
        miscounted=miscounted,
    )


def _differences(path: Path, now: Mapping[str, Tensor]) -> dict[str, float]:
    """Tensors whose bytes differ from the file's, with their largest difference."""
    differences = {}
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        for name in sorted(names | now.keys()):
            if name not in names or name not in now:
                differences[name] = float("inf")
            elif (gap := _gap(file.get_tensor(name), now[name])) is not None:
                differences[name] = gap
    return differences


def _gap(then: Tensor, now: Tensor) -> float | None:
    """The largest difference of two tensors; None where their bytes are the same."""
    if then.shape != now.shape or then.dtype != now.dtype:
        return float("inf")
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
