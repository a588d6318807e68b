"""Damaged and hostile input: no code runs, nothing ends in a traceback, nothing hangs.

Cases run in worker processes, many in each. A worker says which case it begins; one that says
nothing for PATIENCE seconds is killed, and its case is tried once more alone: a busy machine is no
hang. Case n of a seed is the same case wherever it runs.
"""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil

from scripts.torture.report import MIB, ROOT, Row, environment

PATIENCE = 10.0  # seconds that a case may take
START = 240.0  # seconds until a worker's first case: it imports torch, and writes originals
ROOM = 4 << 30  # bytes of addresses that a worker may take beyond what it starts with
MOST_MEMORY = 1 << 30  # bytes that reading one file may add
MARKS = ("ran", "touch")  # files that hostile input wants to create


@dataclass
class Outcome:
    """What the cases of one subject came to.

    Args:
        memory: the worker's memory, in bytes, before its first case, after a tenth, and at the end.
        peak: the most that a worker took beyond what it began with.
    """

    cases: int = 0
    refused: int = 0
    ran: list[str] = field(default_factory=list)
    tracebacks: Counter[str] = field(default_factory=Counter)
    crashed: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    slowest: float = 0.0
    peak: int = 0


def attempt(case, number: int, seed: int, folder: Path) -> dict[str, object]:
    """One case: what it came to, and whether anything that the input names was run."""
    from mloss_core import MlossError

    said: dict[str, object] = {"case": number}
    start = time.perf_counter()
    try:
        with warnings.catch_warnings(action="ignore"):
            case(number, Random(f"{seed} {number}"))
    except MlossError as error:
        said["refused"] = True
        if "\n" in str(error):
            said["traceback"] = f"an error of several lines: {str(error)[:200]}"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = next((f for f in reversed(frames) if "mloss_core" in f.filename), frames[-1])
        place = f"{Path(ours.filename).name}:{ours.lineno}"
        said["traceback"] = f"{type(error).__name__} at {place}: {str(error)[:120]}"
    said["seconds"] = time.perf_counter() - start
    said["ran"] = [m for m in MARKS for place in (folder, folder.parent) if (place / m).exists()]
    for mark in MARKS:
        (folder / mark).unlink(missing_ok=True)
    return said


def work(subject: str, first: int, beyond: int, seed: int, folder: Path) -> None:
    """The worker: does the cases from `first` up to `beyond`, and says so line by line."""
    os.chdir(folder)
    from scripts.torture.subjects import SUBJECTS

    case = SUBJECTS[subject].build(folder)
    attempt(case, -1, seed, folder)  # what is imported on the way is no part of a case
    taken = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM,) * 2)
    for number in range(first, beyond):
        print(json.dumps({"begun": number, "peak": _peak()}), flush=True)
        print(json.dumps(attempt(case, number, seed, folder)), flush=True)
    print(json.dumps({"over": True, "peak": _peak()}), flush=True)


def _peak() -> int:
    """The most memory that this process has taken, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fuzzed(subject: str, cases: int, seed: int) -> Outcome:
    """All cases of a subject, in as many workers as it takes."""
    outcome, first = Outcome(), 0
    while first < cases:
        number = _worker(subject, first, cases, seed, outcome)
        if number is None:
            break
        first = number + 1  # beyond the case that ended the worker
    return outcome


def _worker(subject: str, first: int, beyond: int, seed: int, outcome: Outcome) -> int | None:
    """One worker's cases; returns the case that ended it too early, if one did."""
    with tempfile.TemporaryDirectory(prefix="torture-") as place:
        process = started(subject, first, beyond, seed, Path(place))
        begun, before = None, 0
        for line in _lines(process):
            if line is None:
                kind = _again(subject, begun, seed) if begun is not None else "hung"
                outcome.hung += [f"{subject} {begun}"] * (kind == "hung")
                outcome.crashed += [f"{subject} {begun}: {kind}"] * (kind not in ("hung", "fine"))
                outcome.cases += 1
                return begun if begun is not None else beyond
            if "begun" in line:
                begun, before = line["begun"], before or line["peak"]
            elif "case" in line:
                _count(line, subject, outcome)
            outcome.peak = max(outcome.peak, line.get("peak", 0) - before)
            if "over" in line:
                return None
        outcome.crashed.append(f"{subject} {begun}: status {process.wait()}")
        outcome.cases += 1
        return begun if begun is not None else beyond


def _count(line: dict, subject: str, outcome: Outcome) -> None:
    outcome.cases += 1
    outcome.refused += bool(line.get("refused"))
    outcome.ran += [f"{subject} {line['case']}: {mark}" for mark in line["ran"]]
    outcome.slowest = max(outcome.slowest, line["seconds"])
    if "traceback" in line:
        key = f"{subject}: {line['traceback']}"
        if outcome.tracebacks[key] == 0:
            print(f"{subject} {line['case']}: {line['traceback']}", file=sys.stderr, flush=True)
        outcome.tracebacks[key] += 1


def started(subject: str, first: int, beyond: int, seed: int, folder: Path) -> subprocess.Popen:
    """A worker process in a folder of its own."""
    (folder / "inside").mkdir()
    command = [sys.executable, "-W", "ignore", "-m", "scripts.torture.fuzz"]
    command += [subject, str(first), str(beyond), str(seed), str(folder / "inside")]
    places = {"MLOSS_MODELS": str(folder / "inside" / "models")}
    with (folder / "errors").open("wb") as errors:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment(**places), stdout=subprocess.PIPE, stderr=errors
        )


def _lines(process: subprocess.Popen) -> Iterator[dict | None]:
    """What a worker says; None when it has said nothing for too long, and was killed."""
    assert process.stdout is not None
    patience, rest = START, b""
    try:
        while True:
            ready, _, _ = select.select([process.stdout], [], [], patience)
            if not ready:
                yield None
                return
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                return
            *whole, rest = (rest + piece).split(b"\n")
            yield from map(json.loads, whole)
            patience = PATIENCE
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _again(subject: str, number: int, seed: int) -> str:
    """What a case comes to that is tried alone: "hung", "fine", or how it crashed."""
    with tempfile.TemporaryDirectory(prefix="torture-") as place:
        process = started(subject, number, number + 1, seed, Path(place))
        for line in _lines(process):
            if line is None:
                return "hung"
            if "over" in line:
                return "fine"
        return f"status {process.wait()}"


def armed() -> tuple[int, int]:
    """How many of the hostile pickles run code when a reader trusts them, and how many there are:
    without this, input that cannot do harm would pass for harmless."""
    import contextlib
    import pickle

    import pickle_tricks

    with tempfile.TemporaryDirectory() as place:
        mark, count = Path(place) / "ran", 0
        for name in pickle_tricks.TRICKS:
            pickled = pickle.dumps(pickle_tricks.trick(name, mark), 4)
            mark.unlink(missing_ok=True)
            with contextlib.suppress(Exception):
                pickle.loads(pickled)
            count += mark.exists()
    return count, len(pickle_tricks.TRICKS)


def rows(cases: int, seed: int) -> Iterator[Row]:
    """A row per subject."""
    from scripts.torture.subjects import SUBJECTS

    count, total = armed()
    yield Row(
        part="fuzz", done="hostile pickles, opened by a reader that trusts them (the control)",
        count=total, must="each runs its code", measured=f"{count} did", holds=count == total,
    )  # fmt: skip
    for name, subject in SUBJECTS.items():
        outcome = fuzzed(name, round(cases * subject.share), seed)
        faults = sum(outcome.tracebacks.values())
        measured = (
            f"{len(outcome.ran)} ran code, {faults} tracebacks, {len(outcome.crashed)} crashes, "
            f"{len(outcome.hung)} hangs; {outcome.refused} refused in one line; slowest "
            f"{outcome.slowest:.1f} s; at most {outcome.peak / MIB:.0f} MiB beyond the start"
        )
        for fault in (*outcome.ran, *outcome.crashed, *outcome.hung):
            print(fault, file=sys.stderr, flush=True)
        clean = not (outcome.ran or faults or outcome.crashed or outcome.hung)
        yield Row(
            part="fuzz", done=f"{name}: damaged, hostile, misplaced", count=outcome.cases,
            must=f"no code runs, no traceback, no hang over {PATIENCE:.0f} s, memory below "
            f"{MOST_MEMORY / MIB:.0f} MiB beyond the start",
            measured=measured, holds=clean and outcome.peak < MOST_MEMORY,
        )  # fmt: skip


if __name__ == "__main__":
    work(sys.argv[1], *map(int, sys.argv[2:5]), Path(sys.argv[5]))
