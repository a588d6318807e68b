"""Frozen heads of one's own pictures: zero-shot from the text tower, or class means of the base."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from ..checkpoints import read as formats
from ..data.calibration import preprocess
from ..data.images import Pictures
from ..data.prompts import prompts_of
from ..errors import BadFile, UnknownName
from ..families.family import Family
from ..families.text_tower import GIVE, load_text
from ..vit import Tower

HEADS = ("auto", "zero-shot", "class means")
TOGETHER = 64  # pictures that are embedded at once


def frozen_head(
    family: Family,
    classes: Sequence[str],
    images: UInt8[np.ndarray, "n h w 3"] | Pictures,
    labels: Int64[np.ndarray, " n"],
    kind: str,
) -> tuple[Float[Tensor, "c d"], str]:
    """Unit rows, one per class, and what they are from: "zero-shot" or "class means".

    A text tower of a cut vocabulary, as the demo family's, knows its own prompts and no others: it
    counts as none.

    Raises:
        UnknownName: the kind is not one of HEADS.
        BadFile: "zero-shot" is asked for, and the family has no text tower.
    """
    if kind not in HEADS:
        raise UnknownName("head", kind, HEADS)
    if kind != "class means" and _has_text(family):
        return _zero_shot(family, classes), "zero-shot"
    if kind == "zero-shot":
        raise BadFile("head", family.folder, "has no whole text tower", f"{GIVE}; or class means")
    return class_means(family, images, labels, len(classes)), "class means"


def class_means(
    family: Family,
    images: UInt8[np.ndarray, "n h w 3"] | Pictures,
    labels: Int64[np.ndarray, " n"],
    classes: int,
) -> Float[Tensor, "c d"]:
    """The mean of each class's unit embeddings by the base, of unit length again."""
    cpu = torch.device("cpu")
    tower = Tower(family.model, family.base().load(cpu))
    parts = []
    for start in range(0, len(images), TOGETHER):
        pixels = preprocess(images[start : start + TOGETHER], family.model, cpu)
        parts.append(F.normalize(tower.features(pixels), dim=-1))
    features = torch.cat(parts)
    means = [features[torch.from_numpy(labels == label)].mean(0) for label in range(classes)]
    return F.normalize(torch.stack(means), dim=-1)


def _has_text(family: Family) -> bool:
    """Whether the family has a text tower for any words; open_clip is not imported for that."""
    path = family.text_file
    if path is None or not path.exists() or "token_ids" in family.about:
        return False
    with formats.as_bad_file(f"text tower of {family.name}", path):
        return bool(formats.contents(formats.file_ids(path)).text)


def _zero_shot(family: Family, classes: Sequence[str]) -> Float[Tensor, "c d"]:
    """The unit means of each class's prompts."""
    path, prompts = family.text_file, prompts_of({}, classes)
    assert path is not None, "looked for before"
    tower = load_text(path, f"text tower of {family.name}", family.model.activation)
    return torch.cat(list(tower.embeddings(prompts.classes, prompts.templates)))
