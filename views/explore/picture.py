"""What the Explore view draws, as plain values: the same for a live merge, a launched one, and the
picture that a family ships.

Arrays of nodes travel as base64 of float32, blocks one after the other.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mloss_core import (
    Accuracy,
    BlockMerged,
    BlockScored,
    Family,
    MergeRecipe,
    NodeScores,
    TaskEvaluated,
    compare,
    mean_accuracy,
)
from mloss_core.analysis.left import BlockLeft

Hits = Mapping[str, np.ndarray]  # of one model: a task's answers, right or not
Picture = dict[str, Any]
REFERENCES = ("base", "own", "ensembling")


def packed(blocks: Iterable[np.ndarray]) -> str:
    """Values of every node of every block, for the browser."""
    table = np.stack(list(blocks)).astype("<f4")
    return base64.b64encode(table.tobytes()).decode()


def scores_of(scores: Sequence[NodeScores], recipe: MergeRecipe) -> Picture:
    """The map of all blocks, and the setting along whose merge it was measured."""
    ordered = sorted(scores, key=lambda s: s.block)
    return {
        "along": setting_of(recipe),
        "raw": packed(s.node for s in ordered),
        "normalised": packed(s.node_normalised for s in ordered),
        "means": [list(s.mean_interval()) for s in ordered],
    }


def setting_of(recipe: MergeRecipe) -> Picture:
    """The part of a recipe that the view's own controls change."""
    return {
        "method": recipe.method,
        "keep": recipe.keep,
        "variation": recipe.variation,
        "scaling": recipe.scaling,
        "blocks": None if recipe.blocks is None else list(recipe.blocks),
    }


def left_of(left: Sequence[BlockLeft]) -> str:
    """The gap that is left at every node."""
    return packed(b.node for b in sorted(left, key=lambda b: b.block))


def readouts_of(merged: Hits, ties: Hits, former: Hits) -> Picture:
    """Accuracies of the merged model, each with its count, and paired differences.

    All tasks are of one stage, so that no average mixes counts.

    Args:
        ties: of TIES at the same k; empty where that is not known, or is the merge itself.
        former: of the setting before, likewise.
    """
    return {
        "tasks": {task: _rate(hits) for task, hits in merged.items()},
        "average": list(mean_accuracy(merged)),
        "images": min(map(len, merged.values())),
        "ties": _beside(merged, ties),
        "change": _beside(merged, former),
    }


def _rate(hits: np.ndarray) -> list[float]:
    """Rate, its interval, and the count."""
    accuracy = Accuracy(correct=int(hits.sum()), total=len(hits))
    return [accuracy.rate, *accuracy.interval(), accuracy.total]


def _beside(merged: Hits, other: Hits) -> Picture | None:
    """The other's rates on the same images and the paired difference to it, in points."""
    if other.keys() != merged.keys():
        return None
    few = {task: min(len(hits), len(other[task])) for task, hits in merged.items()}
    ours = {task: merged[task][:n] for task, n in few.items()}
    others = {task: other[task][:n] for task, n in few.items()}
    gap = compare(ours, others)
    return {
        "rates": {task: float(hits.mean()) for task, hits in others.items()},
        "average": mean_accuracy(others)[0],
        "difference": [gap.difference, gap.low, gap.high],
        "distinguishable": gap.distinguishable,
        "images": min(few.values()),
    }


def references_of(hits: Mapping[tuple[str, str], np.ndarray], tasks: Sequence[str]) -> Picture:
    """Base, own sources and ensemble, always on all images: their marks never move.

    Args:
        hits: by model and task, as far as they are known.
    """
    shown: Picture = {}
    for model in REFERENCES:
        of_model = {task: hits[model, task] for task in tasks if (model, task) in hits}
        if of_model:
            shown[model] = {"tasks": {task: _rate(h) for task, h in of_model.items()}}
        if of_model.keys() == set(tasks) and tasks:
            shown[model]["average"] = list(mean_accuracy(of_model))
    return shown


def after_of(events: Iterable[object], tasks: Sequence[str], blocks: int) -> Picture | None:
    """The tasks' mean accuracy after each block; None before the last block is known."""
    rates: dict[int, dict[str, np.ndarray]] = {}
    for event in events:
        if isinstance(event, TaskEvaluated) and event.block is not None:
            rates.setdefault(event.block, {})[event.task] = event.hits
    if not tasks or any(rates.get(b, {}).keys() != set(tasks) for b in range(blocks)):
        return None
    means = [mean_accuracy(rates[b])[0] for b in range(blocks)]
    return {"rates": means, "images": min(len(h) for h in rates[0].values())}


def stage_hits(events: Iterable[object], model: str, stages: Sequence[str]) -> list[Hits]:
    """What is known of a whole model by stage: a task's answers in each of these stages."""
    by_stage: dict[str, dict[str, np.ndarray]] = {stage: {} for stage in stages}
    for event in events:
        if isinstance(event, TaskEvaluated) and event.block is None and event.model == model:
            by_stage.setdefault(event.stage, {})[event.task] = event.hits
    return [by_stage[stage] for stage in stages]


def merged_of(events: Sequence[object], family: Family) -> Picture | None:
    """Shares kept and seconds of merging, once all blocks are merged."""
    merged = [event for event in events if isinstance(event, BlockMerged)]
    if len(merged) < family.model.blocks:
        return None
    seconds = sum(e.seconds for e in events if isinstance(e, BlockMerged | BlockScored))
    merged.sort(key=lambda event: event.block)
    shown: Picture = {"kept": [event.kept for event in merged], "seconds": seconds}
    by_node = [event.kept_by_node for event in merged if event.kept_by_node is not None]
    return shown | ({"rows": packed(by_node)} if len(by_node) == len(merged) else {})
