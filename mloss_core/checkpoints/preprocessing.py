"""Pixel mean and std from the config files beside a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .files import FormatError
from .folders import OPEN_CLIP_CONFIG, json_beside

# What OpenAI's CLIP and its descendants expect of pixels; a family that differs says so.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std, red, green, blue


def read_normalisation(path: Path) -> Normalisation | None:
    """Mean and std of Hugging Face's preprocessor_config.json, else of open_clip's, or None.

    Raises:
        FormatError: they are no three numbers each, std above 0.
    """
    preprocessor = json_beside(path, "preprocessor_config.json") or {}
    cfg = (json_beside(path, OPEN_CLIP_CONFIG) or {}).get("preprocess_cfg", {})
    for place, mean, std in ((preprocessor, "image_mean", "image_std"), (cfg, "mean", "std")):
        if isinstance(place, dict) and mean in place and std in place:
            try:
                return normalisation(place[mean], place[std])
            except (TypeError, ValueError) as error:
                raise FormatError(f"has {mean} or {std} that cannot be: {error}") from error
    return None


def normalisation(mean: Any, std: Any) -> Normalisation:
    """Mean and std as tuples of three floats; raises TypeError or ValueError if invalid."""
    means, stds = tuple(map(float, mean)), tuple(map(float, std))
    if len(means) != 3 or len(stds) != 3 or not all(map(math.isfinite, means + stds)):
        raise ValueError("it is not three numbers")
    if min(stds) <= 0:
        raise ValueError("std is not above 0")
    return means, stds
