"""A recipe and its family: can it be done, on which images, and what its result says of itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from .data.calibration import check_size, draw_batch, draw_pictures, pool_size
from .errors import BadFile, BadValue, LostLink, UnknownName
from .families.family import Family
from .fields import FIELDS, WAYS
from .methods import METHODS
from .methods.keep_rates import UNMEASURED_RANKS, draws_images
from .places import lost_link
from .types import CalibrationBatch, MergeRecipe
from .version import __version__

# Fields that only say how M-Loss is measured.
MEASURED = ("samples", "tokens", "precision", "inputs_from", "scores")


def check(recipe: MergeRecipe, family: Family) -> None:
    """Raises InputError if the recipe asks for what the family or the library does not have."""
    if recipe.method not in METHODS:
        raise UnknownName("method", recipe.method, METHODS)
    for name in recipe.sources:
        if name not in family.sources:
            raise UnknownName("sources", name, family.sources)
    method = METHODS[recipe.method]
    if len(set(recipe.alpha)) > 1 and "weights" not in method.reads:
        remedy = "leave the weights out"
        raise BadValue("weights", "unequal", f"are nothing that {method.title} reads", remedy)
    for name in ("after", "norms"):
        if getattr(recipe, name) != FIELDS[name].default and name not in method.reads:
            problem = f"is nothing that {method.title} reads"
            raise BadValue(name, getattr(recipe, name), problem, "leave it as it is")
    if method.heads:
        _check_heads(recipe, family)
    beyond = [b for b in recipe.blocks or () if not 0 <= b < family.model.blocks]
    if beyond:
        remedy = f"{family.name} has blocks 0 to {family.model.blocks - 1}"
        raise BadValue("blocks", beyond[0], "does not exist", remedy)
    if recipe.tokens is not None and recipe.tokens > family.model.tokens:
        problem, remedy = "is more than an image has", f"give at most {family.model.tokens}"
        raise BadValue("tokens", recipe.tokens, problem, remedy)


def published(method: str, family: Family, sources: Sequence[str]) -> dict[str, Any]:
    """A method's published settings, where they differ from the fields' own; no more images than
    the family's pool holds for these sources."""
    settings = dict(METHODS[method].defaults) if method in METHODS else {}
    if "samples" in settings and family.calibration_pool.exists():
        held = pool_size(family.calibration_pool, family.pool_tasks(sources))
        settings["samples"] = max(1, min(settings["samples"], held))
    return settings


def _check_heads(recipe: MergeRecipe, family: Family) -> None:
    """Raises BadValue unless each source's own task is one of the family's."""
    for source in recipe.sources:
        if family.own_task(source) not in family.tasks:
            problem = f"has no task of its own, whose head {METHODS[recipe.method].title} needs"
            remedy = "name its task in family.toml (docs/format.md)"
            raise BadValue("sources", source, problem, remedy)


def calibration_of(recipe: MergeRecipe, family: Family) -> CalibrationBatch | None:
    """The batch drawn as the recipe says; None if its method reads no images."""
    if not draws_images(recipe, family.model):
        return None
    pool = family.calibration_pool
    if lost_link(pool):
        raise LostLink("calibration pool", pool)
    if not pool.exists():
        remedy = f"make it from validation images: mloss pool {family.name}"
        raise BadFile("calibration pool", pool, "does not exist", remedy)
    if pool.is_dir():
        size, skipped = family.model.image_size, family.about.get("skip", ())
        return draw_pictures(pool, recipe.samples, recipe.seed, size, skipped)
    batch = draw_batch(pool, family.pool_tasks(recipe.sources), recipe.samples, recipe.seed)
    check_size(batch.images, family.model, "calibration pool", pool)
    return batch


def images_of(
    recipe: MergeRecipe, family: Family, batch: CalibrationBatch
) -> dict[str, UInt8[np.ndarray, "n h w 3"]]:
    """Each source's share of a calibration batch: the images of its own task.

    Raises:
        BadValue: nothing tells the images' tasks, or a source's task has none.
    """
    remedy = "make the pool anew: mloss pool FAMILY; or give an .npz with images and tasks"
    if batch.tasks is None:
        method = METHODS[recipe.method].title
        problem = f"do not say which task they belong to, as {method} needs it"
        raise BadValue("calibration images", len(batch.images), problem, remedy)
    tasks, own, others = np.array(batch.tasks), {}, recipe.sources[1:] + recipe.sources[:1]
    for source in recipe.sources:
        chosen = np.flatnonzero(tasks == family.own_task(source))
        if not len(chosen):
            problem = f"hold no image of {family.own_task(source)}, the task of source {source}"
            raise BadValue("calibration images", len(batch.images), problem, remedy)
        own[source] = batch.images[chosen]
    if recipe.images == "others":
        return {source: own[other] for source, other in zip(recipe.sources, others, strict=True)}
    if recipe.images == "noise":
        drawn = np.random.default_rng(recipe.seed)
        return {s: drawn.integers(0, 256, i.shape, dtype=np.uint8) for s, i in own.items()}
    return own


def recipe_fields(recipe: MergeRecipe) -> dict[str, object]:
    """The recipe's fields that decide its result, with the merging weights written out."""
    # Choices that are left at their default go without saying, as before there were any.
    usual = {name for name in WAYS if getattr(recipe, name) == FIELDS[name].default}
    unread: set[str] = set(MEASURED) if recipe.ranks in UNMEASURED_RANKS else set()
    if recipe.ranks == "equal" and not METHODS[recipe.method].drops:
        unread.add("seed")  # nothing is drawn
    read = {"family", "method", "sources", *METHODS[recipe.method].reads} - usual - unread
    fields: dict[str, object] = {k: v for k, v in dataclasses.asdict(recipe).items() if k in read}
    return fields | {"weights": recipe.alpha}


def provenance(
    recipe: MergeRecipe,
    family: Family,
    calibration: CalibrationBatch | None,
    drawn: bool = True,
) -> dict[str, object]:
    """What a merged file says of itself: recipe, hashes and version; no time, path or host."""
    family.read_through(recipe.sources)
    method, fields = METHODS[recipe.method], recipe_fields(recipe)
    if calibration is None or not drawn:
        fields.pop("samples", None)
    if not drawn and recipe.tokens is None and not method.drops:
        fields.pop("seed", None)  # it would have decided draws alone
    return {
        "recipe": fields,
        "base": family.base().sha256,
        "sources": {name: family.source(name).sha256 for name in recipe.sources},
        "calibration": calibration.sha256 if calibration else None,
        "version": version_of(recipe.method),
    }


def version_of(method: str) -> str:
    """The library's version as far as a method's bytes tell them apart: with its revision."""
    revision = METHODS[method].revision
    return f"{__version__}+{revision}" if revision else __version__


def fingerprint(metadata: dict[str, object]) -> str:
    """Names a merged model's content: what `provenance` says, as one string."""
    return json.dumps(metadata, sort_keys=True)
