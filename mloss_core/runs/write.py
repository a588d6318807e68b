"""Writes a run to disk while it happens, so that a killed process breaks nothing (docs/runs.md).

A run is written in a folder of a unique hidden name, `.<id>.<unique>.part`, which gets the run's
own name when it ends. It says from the beginning what it is and which process writes it, so that a
killed process leaves a run that reads as interrupted; record.json, written last, makes it finished.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import platform
import re
import shutil
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch

from ..atomic_files import sweep
from ..checkpoints.image_tower import save
from ..errors import BadFile, BadValue, MlossError
from ..types import BlockScored, Event, Finished, MergeRecipe, NodeScores, TaskEvaluated
from ..version import __version__
from .events import Hits, event_json, score_tensors
from .layout import (
    EVENTS,
    HITS,
    MODEL,
    PLAIN,
    RECIPE,
    RECORD,
    SCORES,
    STATE,
    folders,
    put,
    root,
    writing,
)
from .record import counts, readable
from .writer import writer

# What a killed process was making or removing; a part is a run that was interrupted.
HALF = re.compile(r"\..+\.[0-9a-f]{8}\.(new|gone)")
KINDS = ("merge", "score", "cell")
# Read once, at the start: threads that look while another one changes sys.path may find nothing.
OPEN_CLIP = importlib.metadata.version("open_clip_torch")


def new_id(recipe: MergeRecipe) -> str:
    """A unique run id of time, method and random digits."""
    return f"{_now():%Y%m%d-%H%M%S}-{recipe.method}-{uuid4().hex[:6]}"


def recorded(
    events: Iterator[Event],
    recipe: MergeRecipe,
    *,
    kind: str,
    id: str | None = None,
    keep_model: bool = True,
    facts: Mapping[str, Any] | None = None,
) -> Generator[Event, None, None]:
    """Passes a run's events on, and records each on disk as it comes.

    The run is finished on disk before Finished is passed on, or when the events end without it.
    One that is closed early is marked cancelled, one that raises failed; the error goes on.

    Args:
        kind: "merge", "score" or "cell".
        id: the run's name; None makes a new one. What is unfinished under it is replaced.
        keep_model: whether the merged tensors are kept, if there are any.
        facts: kept beside the run, as JSON.

    Raises:
        BadFile: a finished run has that id, or $MLOSS_RUNS cannot be written.
        BadValue: the kind or the id cannot be.
    """
    if kind not in KINDS:
        raise BadValue("kind of run", kind, "is not known", f"choose from {', '.join(KINDS)}")
    name = new_id(recipe) if id is None else id
    if not PLAIN.fullmatch(name):
        problem, remedy = "is no plain name", "use letters, digits, dots, _ and -, at most 151"
        raise BadValue("id of run", name, problem, remedy)
    with writing():
        _make_room(name)
        log = _Log(name, recipe, kind, facts or {})
    try:
        for event in events:
            with writing():
                log.add(event)
                if isinstance(event, Finished):
                    log.finish(event, keep_model)
            yield event
        with writing():
            log.finish(None, keep_model)
    except Exception as error:
        expected = isinstance(error, MlossError)
        log.end("failed", str(error) if expected else f"{type(error).__name__}: {error}")
        raise
    finally:
        log.end("cancelled", "")  # unless it has ended
        getattr(events, "close", lambda: None)()


class _Log:
    """The writer of a run's folder: appends events at once, and results at the end."""

    def __init__(self, name: str, recipe: MergeRecipe, kind: str, facts: Mapping[str, Any]):
        self.name, self.recipe = name, recipe
        self.folder = _hidden(name, "part")
        self.scores: list[NodeScores] = []
        self.hits: Hits = {}
        self.over = False
        self.created = _now().isoformat(timespec="milliseconds")
        self.state: dict[str, Any] = {"kind": kind, "created": self.created}
        self.state |= writer()
        self.state |= {"versions": versions(), "facts": dict(facts)}
        texts = {RECIPE: dataclasses.asdict(recipe), STATE: self.state}
        new = _hidden(name, "new")  # not seen before it says what it is
        try:
            new.mkdir(parents=True)
            for file, value in texts.items():
                put(new / file, json.dumps(value, indent=1))
            new.rename(self.folder)
            self.file = (self.folder / EVENTS).open("w", encoding="utf-8", buffering=1)
        except OSError:
            shutil.rmtree(new, ignore_errors=True)
            raise

    def add(self, event: Event) -> None:
        """Appends an event's line to the log at once."""
        self.file.write(json.dumps(event_json(event)) + "\n")
        if isinstance(event, BlockScored):
            self.scores.append(event.scores)
        elif isinstance(event, TaskEvaluated) and event.block is None:
            self.hits.setdefault(event.model, {})[event.task] = event.hits

    def finish(self, finished: Finished | None, keep_model: bool) -> None:
        """Writes the results, record.json last, and renames the folder to its id."""
        if self.over:
            return
        metadata = finished.metadata if finished else {"recipe": dataclasses.asdict(self.recipe)}
        flat = {f"{m}/{task}": h for m, tasks in self.hits.items() for task, h in tasks.items()}
        np.savez_compressed(self.folder / HITS, allow_pickle=False, **flat)
        if self.scores:
            save(self.folder / SCORES, score_tensors(self.scores), metadata)
        if finished and finished.weights and keep_model:
            save(self.folder / MODEL, finished.weights, metadata)
        counted = {
            model: {task: (a.correct, a.total) for task, a in tasks.items()}
            for model, tasks in counts(self.hits).items()
        }
        record: dict[str, Any] = {
            "created": self.created,
            "metadata": metadata,
            "accuracies": counted,
        }
        record |= {"seconds": finished.seconds if finished else None}
        record |= {"peak": finished.peak if finished else None}
        record |= {"device": finished.device if finished else ""}
        self.file.close()
        put(self.folder / RECORD, json.dumps(record, indent=1))
        self.over = True
        _name(self.folder, self.name)

    def end(self, end: str, error: str) -> None:
        """Marks an unfinished run as ended; removes its folder where that cannot be written."""
        if self.over:
            return
        self.over = True
        with contextlib.suppress(OSError):
            self.file.close()
        try:
            put(self.folder / STATE, json.dumps({**self.state, "end": end, "error": error}))
            _name(self.folder, self.name)
        except OSError:
            shutil.rmtree(self.folder, ignore_errors=True)


def _make_room(name: str) -> None:
    """Removes unfinished folders of an id that no process writes; raises BadFile if finished."""
    sweep(root(), HALF, but=RECORD)
    for _, folder in [entry for entry in folders() if entry[0] == name]:
        run = readable(name, folder)
        if run is not None and run.state == "finished":
            problem = "is finished and never overwritten"
            raise BadFile("run", name, problem, "choose another id, or delete it")
        if run is None or run.state != "running":
            _discard(name, folder)


def _discard(name: str, folder: Path) -> None:
    """Removes an unfinished folder, unless a finished one has just taken its place."""
    gone = _hidden(name, "gone")
    with contextlib.suppress(OSError):  # another process was quicker
        folder.rename(gone)
        if _finished(name, gone):
            gone.rename(folder)
            return
    shutil.rmtree(gone, ignore_errors=True)


def _finished(name: str, folder: Path) -> bool:
    """Whether a folder holds a finished run that can be read."""
    run = readable(name, folder)
    return run is not None and run.state == "finished"


def _hidden(name: str, what: str) -> Path:
    return root() / f".{name}.{uuid4().hex[:8]}.{what}"


def _name(part: Path, name: str) -> None:
    """Renames an ended run's folder to its id.

    A finished run that came in between stands, as the same id means the same run; an unfinished one
    goes.
    """
    folder = root() / name
    while part.is_dir():
        try:
            part.rename(folder)
            return
        except OSError:
            if not folder.is_dir():
                raise
        if _finished(name, folder):
            shutil.rmtree(part)
            return
        _discard(name, folder)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that compute a run."""
    return {
        "mloss_core": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "open_clip": OPEN_CLIP,
    }


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
