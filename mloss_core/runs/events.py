"""Conversion of events to JSON, score tensors and final hits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ..types import (
    BlockInputs,
    BlockMerged,
    BlockScored,
    Embedded,
    Event,
    Finished,
    NodeScores,
    Planned,
    TaskEvaluated,
    Trained,
)

Hits = dict[str, dict[str, Bool[np.ndarray, " n"]]]  # model -> task -> image


def event_json(event: Event) -> dict[str, Any]:
    """An event as one JSON object; arrays that are long or binary are left to the run's files."""
    match event:
        case Planned():
            return {"event": "Planned", "steps": event.steps}
        case BlockInputs():
            raise TypeError("inputs of a block are for whoever traces a merge, not for a log")
        case BlockScored(scores=s):
            mean, low, high = s.mean_interval()
            fields = {"block": s.block, "mean": mean, "low": low, "high": high}
            fields |= {"layer": s.layer, "layer_normalised": s.layer_normalised}
            fields |= {"keep_low": float(event.rates.min()), "keep_high": float(event.rates.max())}
        case BlockMerged():
            fields = {"block": event.block, "kept": event.kept}
        case Trained():
            fields = {"step": event.step, "steps": event.steps, "loss": event.loss}
            fields |= {"note": event.note} if event.note else {}
            if event.coefficients is not None:
                fields["coefficients"] = np.round(event.coefficients, 4).tolist()
        case TaskEvaluated():
            low, high = event.accuracy.interval()
            fields = {"stage": event.stage, "model": event.model}
            fields |= {"task": event.task, "block": event.block}
            fields |= {"correct": event.accuracy.correct, "total": event.accuracy.total}
            fields |= {"low": low, "high": high}
        case Embedded():
            fields = {"source": event.source, "task": event.task}
            fields |= {"done": event.done, "total": event.total}
        case Finished():
            fields = {"device": event.device, **event.metadata}
    fields = {k: None if v != v else v for k, v in fields.items()}  # JSON has no NaN
    return {"event": type(event).__name__, **fields, "seconds": event.seconds}


def score_tensors(scores: Sequence[NodeScores]) -> dict[str, Tensor]:
    """Tensors of a scores file: node M-Loss (Eq. 4) of each block under `block.<l>`."""
    return {f"block.{s.block}": torch.from_numpy(s.node).float() for s in scores}


def final_hits(events: Iterable[Event]) -> Hits:
    """The hits of the last evaluation of each whole model on each task."""
    hits: Hits = {}
    for event in events:
        if isinstance(event, TaskEvaluated) and event.block is None:
            hits.setdefault(event.model, {})[event.task] = event.hits
    return hits
