"""Runs on disk, under $MLOSS_RUNS (default ./runs): a folder each, written whole or not at all.

runs/<id>/recipe.json, events.jsonl, record.json, hits.npz, scores.safetensors, model.safetensors
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from .checkpoint import save
from .errors import BadFile, MlossError
from .types import (
    BlockMerged,
    BlockScored,
    Embedded,
    Event,
    Finished,
    NodeScores,
    TaskEvaluated,
)

Hits = dict[str, dict[str, Bool[np.ndarray, " n"]]]  # model -> task -> image


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A finished run: what was asked, what came out, and where its files lie."""

    id: str
    folder: Path
    metadata: Mapping[str, Any]
    seconds: float
    device: str
    created: str
    hits: Hits

    @property
    def model(self) -> Path | None:
        """The merged model's file; None for methods that leave none."""
        path = self.folder / "model.safetensors"
        return path if path.is_file() else None


def root() -> Path:
    """The folder of all runs."""
    return Path(os.environ.get("MLOSS_RUNS", "runs"))


def event_json(event: Event) -> dict[str, Any]:
    """An event as one JSON object; arrays that are long or binary are left to the run's files."""
    match event:
        case BlockScored(scores=s):
            mean, low, high = s.mean_interval()
            fields = {"block": s.block, "mean": mean, "low": low, "high": high}
            fields |= {"layer": s.layer, "layer_normalised": s.layer_normalised}
            fields |= {"keep_low": float(event.rates.min()), "keep_high": float(event.rates.max())}
        case BlockMerged():
            fields = {"block": event.block, "kept": event.kept}
        case TaskEvaluated():
            low, high = event.accuracy.interval()
            fields = {"model": event.model, "task": event.task, "block": event.block}
            fields |= {"correct": event.accuracy.correct, "total": event.accuracy.total}
            fields |= {"low": low, "high": high}
        case Embedded():
            fields = {"source": event.source, "task": event.task}
        case Finished():
            fields = {"device": event.device, **event.metadata}
    fields = {k: None if v != v else v for k, v in fields.items()}  # JSON has no NaN
    return {"event": type(event).__name__, **fields, "seconds": event.seconds}


def score_tensors(scores: Sequence[NodeScores]) -> dict[str, Tensor]:
    """Node M-Loss (Eq. 4) of each block under `block.<l>`, as scores files hold it."""
    return {f"block.{s.block}": torch.from_numpy(s.node).float() for s in scores}


def final_hits(events: Sequence[Event]) -> Hits:
    """The last evaluation of each whole model on each task."""
    hits: Hits = {}
    for event in events:
        if isinstance(event, TaskEvaluated) and event.block is None:
            hits.setdefault(event.model, {})[event.task] = event.hits
    return hits


def save_run(events: Sequence[Event]) -> RunRecord:
    """Writes a finished run, the last event being Finished; aside first, then renamed.

    Raises:
        BadFile: the folder cannot be written.
    """
    finished = events[-1]
    assert isinstance(finished, Finished), "only finished runs are kept"
    now = datetime.datetime.now(datetime.UTC)
    recipe = finished.metadata["recipe"]
    assert isinstance(recipe, dict)
    name = f"{now:%Y%m%d-%H%M%S}-{recipe['method']}-{uuid4().hex[:6]}"
    folder, aside = root() / name, root() / f".{name}.part"
    try:
        aside.mkdir(parents=True)
        _write(aside, events, finished, now.isoformat(timespec="seconds"))
        aside.rename(folder)
    except OSError as error:
        remedy = "free space, or set MLOSS_RUNS to another folder"
        raise BadFile("runs", root(), f"cannot be written ({error})", remedy) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return load_run(name)


def _write(folder: Path, events: Sequence[Event], finished: Finished, created: str) -> None:
    lines = [json.dumps(event_json(event)) for event in events]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = json.dumps(finished.metadata["recipe"], indent=1)
    (folder / "recipe.json").write_text(recipe, encoding="utf-8")
    record = {"created": created, "seconds": finished.seconds, "device": finished.device}
    record |= {"metadata": finished.metadata}
    (folder / "record.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    hits = final_hits(events)
    flat = {f"{model}/{task}": h for model, tasks in hits.items() for task, h in tasks.items()}
    np.savez_compressed(folder / "hits.npz", allow_pickle=False, **flat)
    scores = [event.scores for event in events if isinstance(event, BlockScored)]
    if scores:
        save(folder / "scores.safetensors", score_tensors(scores), finished.metadata)
    if finished.weights:
        save(folder / "model.safetensors", finished.weights, finished.metadata)


def load_run(name: str) -> RunRecord:
    """A run by its id; raises BadFile if it is not there or not readable."""
    folder = root() / name
    try:
        if Path(name).name != name:
            raise ValueError("its id is a path")
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        hits: Hits = {}
        with (folder / "hits.npz").open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            for key in file.files:
                model, task = key.split("/", 1)
                hits.setdefault(model, {})[task] = file[key]
        return RunRecord(id=name, folder=folder, hits=hits, **record)
    except Exception as error:
        problem = f"cannot be read ({error})"
        raise BadFile("run", name, problem, "choose another, or delete its folder") from error


def list_runs() -> list[RunRecord]:
    """All readable runs, newest first; what is not a run is passed over."""
    records = []
    for folder in sorted(root().glob("[!.]*/record.json"), reverse=True):
        try:
            records.append(load_run(folder.parent.name))
        except MlossError:
            continue
    return records
