"""The store of runs on disk, under $MLOSS_RUNS (default ./runs): list, read, rename, delete."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import BadFile
from .events import Hits, event_json, final_hits, score_tensors
from .layout import CELL, PLAIN, TITLE, folders, put, root, writing
from .record import RunRecord, read, readable
from .write import KINDS, new_id, recorded

__all__ = [
    "KINDS",
    "Hits",
    "RunRecord",
    "delete",
    "event_json",
    "final_hits",
    "list_runs",
    "load_run",
    "new_id",
    "recorded",
    "rename",
    "root",
    "score_tensors",
    "undelete",
]

TRASH = ".trash"
TRASH_DAYS = 30


def load_run(name: str) -> RunRecord:
    """A run by its id, its hits read too; raises BadFile if it is not there or not readable."""
    run = read(name, _folder(name))
    _ = run.hits
    return run


def _folder(name: str) -> Path:
    """The folder of a run, finished or not; raises BadFile."""
    if PLAIN.fullmatch(name) and (root() / name).is_dir():  # without a look at all the others
        return root() / name
    for run_id, folder in folders():
        if run_id == name:
            return folder
    raise BadFile("run", name, "is not there", f"choose one of those in {root()}")


def list_runs(kinds: Sequence[str] = ("merge", "score")) -> list[RunRecord]:
    """All readable runs of these kinds, newest first; what is not a run is passed over."""
    runs: dict[str, RunRecord] = {}
    for name, folder in folders():
        if name.startswith(CELL) and "cell" not in kinds:
            continue  # grids leave thousands
        run = readable(name, folder) if name not in runs else None
        if run is not None and run.kind in kinds:
            runs[name] = run
    return sorted(runs.values(), key=lambda run: (run.created, run.id), reverse=True)


def rename(name: str, title: str) -> None:
    """Gives a run a title of the user's own; an empty one removes it. Raises BadFile."""
    folder = _folder(name)
    with writing():
        put(folder / TITLE, " ".join(title.split())[:200])


def delete(name: str) -> None:
    """Moves a run into the trash, and deletes runs that were there for 30 days.

    Raises:
        BadFile: there is no such run, it is still running, or the folder cannot be written.
    """
    folder = _folder(name)
    run = readable(name, folder)
    if run is not None and run.state == "running":
        raise BadFile("run", name, "is still running", "cancel it first")
    trash = root() / TRASH
    with writing():
        trash.mkdir(exist_ok=True)
        shutil.rmtree(trash / name, ignore_errors=True)
        os.utime(folder)
        folder.rename(trash / name)
        for old in list(trash.iterdir()):
            if time.time() - old.stat().st_mtime > TRASH_DAYS * 24 * 3600:
                shutil.rmtree(old, ignore_errors=True)


def undelete(name: str) -> RunRecord:
    """Restores a run from the trash; raises BadFile if it is not there, or its id is taken."""
    if not PLAIN.fullmatch(name) or not (root() / TRASH / name).is_dir():
        problem = "is not in the trash"
        raise BadFile("run", name, problem, f"deleted runs stay for {TRASH_DAYS} days")
    if any(run_id == name for run_id, _ in folders()):
        raise BadFile("run", name, "exists again", "delete that one first")
    with writing():
        (root() / TRASH / name).rename(root() / name)
    return load_run(name)
