"""Reading of a run's folder: its recipe, state and results (docs/runs.md)."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.lib.npyio import NpzFile
from safetensors.numpy import load_file

from ..errors import BadFile, MlossError
from ..places import check_plain
from ..types import Accuracy, MergeRecipe
from .events import Hits
from .layout import (
    EVENTS,
    HITS,
    MODEL,
    RECIPE,
    RECORD,
    SCORES,
    STATE,
    TITLE,
    as_bad_file,
    text_of,
)
from .writer import lives


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run on disk.

    Args:
        kind: "merge", "score" or "cell".
        state: "running", "finished", "failed", "cancelled", or "interrupted": its process died.
        error: why it failed; empty otherwise.
        title: the user's name for it.
        metadata: recipe, hashes of inputs and version; the recipe alone until it is finished.
        seconds: wall time of merging alone; None until it is finished.
        peak: bytes that merging took at its peak, where that was measured.
        versions: of Python and the libraries that computed it; empty in old runs.
        facts: what whoever started it wanted kept beside it.
        counted: accuracy of each whole model on each task; None where only hits tell (old runs).
    """

    id: str
    folder: Path
    kind: str
    state: str
    error: str
    title: str | None
    created: str
    metadata: Mapping[str, Any]
    seconds: float | None
    peak: int | None
    device: str
    versions: Mapping[str, str]
    facts: Mapping[str, Any]
    counted: Mapping[str, Mapping[str, Accuracy]] | None

    @property
    def model(self) -> Path | None:
        """The merged model's file; None where none was left."""
        path = self.folder / MODEL
        return path if self.state == "finished" and path.is_file() else None

    @functools.cached_property
    def hits(self) -> Hits:
        """Correctness of each whole model's answers, by task and image.

        Raises:
            BadFile: the file cannot be read.
        """
        hits: Hits = {}
        if self.state == "finished":
            path = self.folder / HITS
            with as_bad_file(self.id), _arrays(path) as file:
                for key in file.files:
                    model, task = key.split("/", 1)
                    hits.setdefault(model, {})[task] = file[key]
        return hits

    @property
    def accuracies(self) -> Mapping[str, Mapping[str, Accuracy]]:
        """Accuracy of each whole model on each task, read without the hits where counted."""
        with as_bad_file(self.id):
            return counts(self.hits) if self.counted is None else self.counted

    @property
    def scored(self) -> bool:
        """Whether node M-Loss was measured and kept."""
        return self.state == "finished" and (self.folder / SCORES).is_file()

    def scores(self) -> dict[int, Float[np.ndarray, " nodes"]]:
        """Node M-Loss (Eq. 4) of each block that was scored; raises BadFile."""
        if not self.scored:
            return {}
        with as_bad_file(self.id):
            tensors = load_file(self.folder / SCORES)
            return {int(name.removeprefix("block.")): tensors[name] for name in tensors}

    def kept(self) -> dict[int, float]:
        """Mean keep rate of each merged block's c_fc.weight, as its events say."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            lines = text_of(self.folder / EVENTS).splitlines()
            merged = (e for line in lines if (e := _line(line)).get("event") == "BlockMerged")
            return {int(event["block"]): float(event["kept"]) for event in merged}
        return {}

    def recipe(self) -> MergeRecipe:
        """The run's recipe, to run it again.

        Raises:
            BadFile: it says what this version does not know, or what cannot be.
        """
        values = self.metadata["recipe"]
        if (self.folder / STATE).is_file():  # before the end, all fields were written down
            with as_bad_file(self.id):
                values = _json(self.folder / RECIPE)
        # Old runs keep only what their method reads: a default e may be above their k.
        values = {"variation": 0.0, **values}
        strange = sorted(values.keys() - {field.name for field in fields(MergeRecipe)})
        if strange:
            problem = f"has {strange[0]}, which this version does not know"
            raise BadFile("recipe of run", self.id, problem, "use the version that wrote it")
        with as_bad_file(self.id):
            plain: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
            }
            return MergeRecipe(**plain)


@contextlib.contextmanager
def _arrays(path: Path) -> Iterator[NpzFile]:
    """The arrays of an .npz, without unpickling."""
    check_plain(path)
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        yield file


def counts(hits: Hits) -> dict[str, dict[str, Accuracy]]:
    """Accuracy counts, correct and total, of each model on each task."""
    return {
        model: {t: Accuracy(correct=int(h.sum()), total=len(h)) for t, h in tasks.items()}
        for model, tasks in hits.items()
    }


def read(name: str, folder: Path) -> RunRecord:
    """Reads the run in a folder; raises BadFile where it is none."""
    with as_bad_file(name):
        state = _json(folder / STATE) if (folder / STATE).is_file() else {}
        finished = (folder / RECORD).is_file()
        if not finished and not state:
            raise FileNotFoundError(f"there is no {RECORD}")
        record = _json(folder / RECORD) if finished else _begun(folder)
        counted = record.get("accuracies")
        run = RunRecord(
            id=name,
            folder=folder,
            kind=str(state.get("kind", "merge")),
            state="finished" if finished else _state(state),
            error=str(state.get("error", "")),
            title=_title(folder),
            created=str(state.get("created") or record["created"]),
            metadata=record["metadata"],
            seconds=record.get("seconds"),
            peak=record.get("peak"),
            device=str(record.get("device", "")),
            versions=dict(state.get("versions", {})),
            facts=dict(state.get("facts", {})),
            counted=None if finished and counted is None else _accuracies(counted or {}),
        )
        _check(run)
        return run


def _begun(folder: Path) -> dict[str, Any]:
    """The record of a run that has not finished: its recipe alone."""
    return {"metadata": {"recipe": _json(folder / RECIPE)}}


def _check(run: RunRecord) -> None:
    """Raises ValueError where a run's metadata has values of wrong types."""
    recipe = run.metadata["recipe"]
    lists = [recipe["sources"], recipe.get("blocks") or [], recipe.get("weights") or []]
    numbers = [recipe.get(key, 0) for key in ("keep", "variation", "scaling")]
    texts = [recipe["family"], recipe["method"], *recipe["sources"]]
    if (
        not all(isinstance(value, list) for value in lists)
        or not all(isinstance(value, int | float) for value in (*numbers, run.seconds or 0))
        or not all(isinstance(value, str) for value in texts)
        or not isinstance(run.metadata.get("sources", {}), dict)
    ):
        raise ValueError("its recipe is none")


def _accuracies(counted: Mapping[str, Any]) -> dict[str, dict[str, Accuracy]]:
    return {
        model: {t: Accuracy(correct=int(c), total=int(n)) for t, (c, n) in tasks.items()}
        for model, tasks in counted.items()
    }


def _state(state: Mapping[str, Any]) -> str:
    """The state of an unfinished run: its end, or whether its writing process still lives."""
    if state.get("end"):
        return str(state["end"])
    return "running" if lives(state) else "interrupted"


def _title(folder: Path) -> str | None:
    try:
        return text_of(folder / TITLE).strip() or None
    except FileNotFoundError:
        return None


def _json(path: Path) -> dict[str, Any]:
    value = json.loads(text_of(path))
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is no JSON object")
    json.dumps(value, ensure_ascii=False).encode()  # halves of characters can be shown nowhere
    return value


def _line(text: str) -> dict[str, Any]:
    """A line of events.jsonl parsed; {} where it is torn, as a killed process may leave it."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def readable(name: str, folder: Path) -> RunRecord | None:
    """The run in a folder, or None where it cannot be read."""
    try:
        return read(name, folder)
    except MlossError:
        return None
