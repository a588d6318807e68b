"""Background jobs on a merge's sources before it, and on what it leaves after it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mloss_core import METHODS, Family, Merge, MergeRecipe, run
from mloss_core.analysis.alignment import alignment
from mloss_core.analysis.before import confidences
from mloss_core.analysis.left import BlockLeft, calibration_for, left_after
from mloss_core.data.calibration import preprocess
from mloss_core.fields import FIELDS
from mloss_core.hardware.out_of_memory import reported_memory
from mloss_core.methods import Models
from mloss_core.methods.matrices import LAYERS
from mloss_core.methods.smile import Smile
from mloss_core.recipe import check, images_of
from mloss_core.types import Embedded, Planned
from views.jobs.kinds import Events, job_or_button, on_its_way
from views.jobs.live import why_not
from views.state import session
from views.state.job_board import Job

FEW = 6  # jobs of a kind that stay: each holds arrays of every block
# What the buttons say that begin them.
LEFT, ALIGNMENT = "Measure what is left", "Measure alignment"
ROUTING = "Measure where tokens go"
PLAIN = {name: FIELDS[name].default for name in ("after", "norms", "start", "images")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BothLeft:
    """What the simple average and the merge leave of one block's gaps."""

    average: BlockLeft
    merge: BlockLeft


@dataclasses.dataclass(frozen=True, kw_only=True)
class Routed:
    """Calibration images of every task, whose tokens are routed."""

    tasks: tuple[str, ...]
    images: UInt8[np.ndarray, "n h w 3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockRoutes:
    """The source that each of a block's linear layers, in the order of LAYERS, gives each token to;
    the class token comes first."""

    block: int
    chosen: UInt8[np.ndarray, "layers n tokens"]


def merge_weights(
    family: Family, recipe: MergeRecipe
) -> Generator[Any, None, Mapping[str, Tensor] | None]:
    """The weights of a merge, done as one step that says how far it is; None where the method
    leaves no single model, which is a step that is done."""
    weights = None
    if METHODS[recipe.method].one_model:
        went = yield from on_its_way(run(recipe, family, stages=(Merge(),)))
        assert went is not None, "it has all the time it takes"
        weights = went[1].weights
    yield Embedded(source="", task="", seconds=0.0, done=1, total=1)
    return weights


def average_of(recipe: MergeRecipe) -> MergeRecipe:
    """Plain averaging with the same sources, weights and images."""
    return dataclasses.replace(recipe, method="simple-average", **PLAIN)


def left_job(family: Family, recipe: MergeRecipe) -> Job | None:
    """The gaps that the recipe's merge and plain averaging leave, block by block."""
    plain = average_of(recipe)

    def events() -> Events:
        yield Planned(steps=2 + family.model.blocks)
        average = yield from merge_weights(family, plain)
        merge = yield from merge_weights(family, recipe)
        assert average is not None and merge is not None, "asked only where one model is left"
        both = (left_after(plain, family, average), left_after(recipe, family, merge))
        with contextlib.closing(both[0]), contextlib.closing(both[1]):  # type: ignore[arg-type]
            for before, after in zip(*both, strict=True):
                yield BothLeft(average=before, merge=after)

    return _on_request(family, "left", recipe, LEFT, "What is left", events)


def alignment_job(family: Family, recipe: MergeRecipe) -> Job | None:
    """How the sources' task vectors lie to each other and, where one model is left, to it."""

    def events() -> Events:
        yield Planned(steps=1 + family.model.blocks)
        weights = yield from merge_weights(family, recipe)
        yield from alignment(family, recipe.sources, weights, recipe.keep)

    title = "Alignment of task vectors"
    return _on_request(family, "alignment", recipe, ALIGNMENT, title, events)


def routing_job(family: Family, recipe: MergeRecipe) -> Job | None:
    """Where SMILE sends the tokens of each task's calibration images."""
    events = lambda: routing(family, recipe)  # noqa: E731
    return _on_request(family, "routing", recipe, ROUTING, "SMILE's routing", events)


def _on_request(
    family: Family, kind: str, recipe: MergeRecipe, label: str, title: str, events: Any
) -> Job | None:
    """A job that begins by itself only where the merge takes no longer than a moment."""

    def begin() -> Job:
        return session.board().submit(kind, title, events, spec=recipe, keep=FEW)

    quick = not METHODS[recipe.method].one_model or not why_not(recipe)
    return job_or_button(family, kind, recipe, label, begin, quick)


def routing(family: Family, recipe: MergeRecipe) -> Events:
    """The images, then each block's routes; None is a place to stop."""
    check(recipe, family)
    device = session.device()
    yield Planned(steps=2 * family.model.blocks + 1)
    drawn = dataclasses.replace(recipe, images=FIELDS["images"].default)
    own = images_of(drawn, family, calibration_for(drawn, family))
    by_task = {family.own_task(source): images for source, images in own.items()}
    tasks = tuple(task for task, images in by_task.items() for _ in images)
    images = np.concatenate(list(by_task.values()))
    yield Routed(tasks=tasks, images=images)
    with reported_memory(device.type):
        smile = Smile(_models(family, recipe.sources, device), recipe)
        yield from smile.prepare(recipe)
        pixels = preprocess(images, family.model, device)
        for block, routes in enumerate(smile.routes(pixels)):
            chosen = torch.stack([routes[layer] for layer in LAYERS])
            yield BlockRoutes(block=block, chosen=chosen.cpu().numpy().astype(np.uint8))


def _models(family: Family, sources: Sequence[str], device: torch.device) -> Models:
    """Base and sources, as a merge takes them."""
    files = [family.source(name) for name in sources]
    base = family.base().load(device)
    return Models(config=family.model, base=base, sources=files, device=device)


def confidences_job(family: Family, again: bool = False) -> Job:
    """How sure each source is of its own calibration images: done once, before idle work.

    Args:
        again: also if it failed.
    """
    spec = (family.name, tuple(family.source(s).sha256 for s in family.sources))

    def events() -> Events:
        yield Planned(steps=len(family.sources))
        yield from confidences(family, family.sources)

    board, title = session.board(), "Measuring confidence"
    job = board.find("confidences", spec, failed=not again)
    if job is not None:
        session.looked_at(job)
        return job
    return session.begun(board.submit("confidences", title, events, spec=spec, shown=False))
