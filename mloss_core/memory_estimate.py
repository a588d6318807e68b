"""Estimates of a merge's peak memory before it starts."""

from __future__ import annotations

import bisect
import dataclasses
import math
import sys

import torch

from .architecture import ViTConfig
from .evaluation.evaluator import PIXELS
from .families.family import Family
from .methods import METHODS
from .methods.keep_rates import draws_images
from .methods.trained import GRAPH
from .tensor_cache import COPIES, room
from .types import MergeRecipe
from .vit import ROWS, ROWS_CUDA

FLOAT = 4  # bytes
STARTED = 20 << 20  # threads, kernels and their workspaces, once a process
CHUNKS = 24 << 20, 1 << 30  # of pre-activations while M-Loss is measured: on a CPU, on a GPU
# Tensors alive at once, counted in the code and held against measured peaks (docs/performance.md).
PREPARING, STREAM, TRIMMING = 3, 4, 10


def needed(
    recipe: MergeRecipe, family: Family, device: torch.device, tasks: int = 0, images: int = 50
) -> int:
    """Estimated peak bytes of a run beyond what the process holds already.

    Args:
        tasks: how many tasks are evaluated along the way.
        images: test images of each after every block.
    """
    model = family.model
    tower = FLOAT * sum(map(math.prod, model.shapes().values()))
    mapped = device.type == "cpu" and set(family.base().dtypes.values()) == {"F32"}
    samples = recipe.samples if draws_images(recipe, model) else 0
    side = 3 * model.image_size**2
    streams = FLOAT * STREAM * model.tokens * model.width
    watched = tasks * images  # after every block
    preparing = FLOAT * PREPARING * max(samples * side, watched * side, PIXELS * (tasks > 0))
    work = _trimming(model, len(recipe.sources), device)
    if samples or tasks:
        work = max(work, _forward(model, device, max(samples, images)))
    method = METHODS[recipe.method]
    if method.layers is not None:
        work = max(work, _equations(model))
    if method.trains:
        work += FLOAT * GRAPH + 2 * tower + room(model.shapes(), len(recipe.sources)) // COPIES
    held = FLOAT * side * samples + streams * ((1 + method.own_images) * samples + watched)
    whole = _towers(recipe, tasks > 0, mapped) * tower
    return STARTED + max(preparing + tower * (not mapped), whole + held + work)


def most_samples(
    recipe: MergeRecipe, family: Family, device: torch.device, limit: int, tasks: int = 0
) -> int:
    """The largest number of calibration images that fits into the limit; 0 where none fits."""

    def needs(samples: int) -> int:
        return needed(dataclasses.replace(recipe, samples=samples), family, device, tasks)

    asked = min(recipe.samples, sys.maxsize - 1)  # a range has no more
    return bisect.bisect_right(range(1, asked + 1), limit, key=needs)


def too_much(
    recipe: MergeRecipe, family: Family, device: torch.device, limit: int, tasks: int = 0
) -> str | None:
    """A warning with a remedy where a run needs more than the limit; None where it fits."""
    needs = needed(recipe, family, device, tasks)
    if needs <= limit:
        return None
    fitting = most_samples(recipe, family, device, limit, tasks)
    remedy = "free some memory, or take a larger machine"
    if 0 < fitting < recipe.samples:
        remedy = f"take at most {fitting} calibration images"
    elif device.type != "cpu":
        remedy = "take fewer sources, or compute on the cpu"
    return (
        f"needs about {amount(needs)} on {device.type}, where {amount(limit)} are free: it may "
        f"fail or slow everything down; {remedy}"
    )


def amount(size: int) -> str:
    """A size in bytes formatted as gigabytes."""
    return f"{max(size / 1e9, 0.1):.1f} GB"


def _towers(recipe: MergeRecipe, evaluated: bool, mapped: bool) -> int:
    """The number of whole fp32 towers in memory at once.

    They are the merged one (or EMR's unified task vector), the base and, to compare, TIES and a
    source; where each task has a model of its own, that of one task.

    A global trim's whole task vector has gone before there is anything merged: it is told as TIES,
    which is rather more than it takes.
    """
    method = METHODS[recipe.method]
    if not method.one_model and method.several is None:
        return int(evaluated and not mapped)
    compared = (recipe.method != "ties") + (not mapped) + method.per_task
    return 1 + (not mapped) + evaluated * compared


def _trimming(model: ViTConfig, sources: int, device: torch.device) -> int:
    """Bytes of trimming the largest tensor: a source per thread on a CPU, else all sources."""
    largest = max(map(math.prod, model.shapes().values()))
    if device.type == "cpu":
        sources = min(sources, torch.get_num_threads())
    return FLOAT * TRIMMING * sources * largest


def _equations(model: ViTConfig) -> int:
    """Bytes of the normal equations of a block's largest layer, in doubles, and of its factor."""
    return 2 * FLOAT * 3 * (model.nodes + 1) ** 2


def _forward(model: ViTConfig, device: torch.device, images: int) -> int:
    """Bytes of a chunk of tokens through a block, or of pre-activations through M-Loss."""
    rows, chunks = (ROWS, CHUNKS[0]) if device.type == "cpu" else (ROWS_CUDA, CHUNKS[1])
    tokens = min(rows, images * model.tokens)
    return max(FLOAT * tokens * (8 * model.width + model.nodes), chunks)
