"""Before merging: are the sources' task vectors of like size, and the sources of like confidence?

Task vectors of unequal norm and sources of low confidence are what merges fail on (Yoshida et al.
2026, DisTaC).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from ..data.calibration import pool_size, preprocess
from ..errors import BadFile, InputError
from ..families.family import Family
from ..fields import FIELDS
from ..hardware import device as devices
from ..hardware.out_of_memory import reported_memory
from ..mloss import wide
from ..recipe import check, images_of
from ..types import MergeRecipe
from ..vit import Tower
from .left import calibration_for
from .task_vectors import Geometry, geometry

APART = 2.0  # the factor between two sources above which there is a warning


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """How sure a source is of calibration images of its own task.

    Args:
        per_image: the largest softmax probability of each image; None where it cannot be measured.
        why: the reason, as one line, where it cannot.
    """

    source: str
    per_image: Float[np.ndarray, " n"] | None
    why: str = ""

    @property
    def mean(self) -> float | None:
        """Mean over the images; None where it is unknown."""
        return None if self.per_image is None else float(self.per_image.mean())


@dataclass(frozen=True, kw_only=True)
class Before:
    """What tells before a merge whether its sources are of a kind.

    Args:
        geometry: norms of the task vectors, over all and by block, and their cosines.
        confidences: one per source, in their order.
    """

    sources: tuple[str, ...]
    geometry: Geometry
    confidences: tuple[Confidence, ...]


def before(
    family: Family,
    sources: Sequence[str],
    *,
    samples: int = FIELDS["samples"].default,
    seed: int = FIELDS["seed"].default,
    device: str = "auto",
) -> Before:
    """Norms and confidences of these sources; see `geometry` and `confidences`."""
    sure = confidences(family, sources, samples=samples, seed=seed, device=device)
    return Before(
        sources=tuple(sources), confidences=tuple(sure), geometry=geometry(family, sources)
    )


def confidences(
    family: Family,
    sources: Sequence[str],
    *,
    samples: int = FIELDS["samples"].default,
    seed: int = FIELDS["seed"].default,
    device: str = "auto",
) -> Iterator[Confidence]:
    """The confidence of each source on its own images, one source after the other; unknown without
    heads, without a pool that says its images' tasks, or where the pool lacks a source's task.

    Args:
        samples: calibration images of all sources together; all of the pool where it has fewer.
        seed: of their draw.

    Raises:
        InputError: before any work, where the sources or their files are wrong.
        OutOfMemory: the work did not fit.
    """
    recipe = MergeRecipe(
        family=family.name, method="m-ties", sources=tuple(sources), samples=samples, seed=seed
    )
    check(recipe, family)
    place, files = devices.choose(device), [family.source(name) for name in sources]
    own, heads, why = {}, {}, ""
    try:
        own, heads = _own_images(recipe, family), family.heads(place)
    except InputError as error:
        why = str(error)
    with reported_memory(place.type):
        for name, file in zip(sources, files, strict=True):
            head = heads.get(family.own_task(name))
            if head is None:
                lacks = f"source {name}: none of the family's tasks is its own; name it in its file"
                yield Confidence(source=name, per_image=None, why=why or lacks)
                continue
            pixels = preprocess(own[name], family.model, place)
            features = Tower(family.model, file.load(place)).features(pixels)
            per_image = largest_share(features, head, family.logit_scale)
            yield Confidence(source=name, per_image=per_image)


def _own_images(recipe: MergeRecipe, family: Family) -> dict[str, UInt8[np.ndarray, "n h w 3"]]:
    """Each source's share of the pool's draw; raises InputError where there is none."""
    pool = family.calibration_pool
    if pool.exists():
        held = pool_size(pool, family.pool_tasks(recipe.sources))
        recipe = dataclasses.replace(recipe, samples=max(1, min(recipe.samples, held)))
    batch = calibration_for(recipe, family)
    if batch.tasks is None:
        remedy = f"make one that does: mloss pool {family.name}"
        raise BadFile("calibration pool", pool, "does not say which task an image is of", remedy)
    return images_of(recipe, family, batch)


def largest_share(
    features: Float[Tensor, "n d"], head: Float[Tensor, "classes d"], scale: float
) -> Float[np.ndarray, " n"]:
    """The largest softmax probability of each image, from scale times cosine similarity."""
    similarity = F.normalize(features, dim=-1) @ F.normalize(head, dim=-1).T
    logits = similarity.to(wide(similarity)) * scale
    return torch.softmax(logits, -1).amax(-1).cpu().double().numpy()


def warnings_of(measured: Before, titles: Sequence[str] | None = None) -> list[str]:
    """Sentences on sources that differ too much, and what to do; empty where nothing is wrong.

    Args:
        titles: of the sources, as people call them; None means their names.
    """
    names, norms = titles or measured.sources, measured.geometry.norms
    sentences = [
        f"{name} equals the base: it has no task vector. Leave it out, or look at its file."
        for name, norm in zip(names, norms, strict=True)
        if not norm
    ]
    if pair := _apart([float(norm) or None for norm in norms]):
        high, low, factor = pair
        field = FIELDS["norms"]
        sentences.append(
            f"The task vector of {names[high]} is {factor:.1f} times as long as that of "
            f"{names[low]}, which it can drown in a merge. Make norms equal: set "
            f'"{field.label}" to "{field.choices["equal"]}".'
        )
    means = [confidence.mean for confidence in measured.confidences]
    if pair := _apart(means):
        high, low, factor = pair
        sentences.append(
            f"{names[high]} is {factor:.1f} times as sure of its own images as {names[low]} "
            f"(mean confidence {means[high]:.1%} and {means[low]:.1%}). Sources of low confidence "
            f"suffer most in a merge: look at the head of {names[low]}, or fine-tune it further."
        )
    return sentences


def _apart(values: Sequence[float | None]) -> tuple[int, int, float] | None:
    """Places of the largest and smallest value and their ratio, if above APART; None is unknown."""
    measured = [(value, place) for place, value in enumerate(values) if value is not None]
    if len(measured) < 2:
        return None
    (most, high), (least, low) = max(measured), min(measured)
    return (high, low, most / least) if most > APART * least else None
