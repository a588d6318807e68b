"""Pictures as RGB of 8 bits; greys of more bits are scaled by the range of their type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

# Tags of TIFF: BitsPerSample, PhotometricInterpretation, SampleFormat.
BITS, MEANING, FORMAT = 258, 262, 339
WHITE_IS_ZERO, SIGNED = 0, 2


class RangeError(ValueError):
    """Values that the range of their type does not make shades of."""


def as_rgb(picture: Image.Image) -> Image.Image:
    """A picture as RGB; raises RangeError, naming the range that was read.

    Pillow cuts greys of 16 or 32 bits and floats at 255, so that nearly all are white or black.
    """
    if picture.mode != "F" and not picture.mode.startswith("I"):
        return picture.convert("RGB")
    values, white, tags = np.asarray(picture), 1, getattr(picture, "tag_v2", {})
    if picture.mode != "F":
        values, white = _whole_numbers(picture.mode, values, tags)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):  # NaN is neither
        kind = "floats" if white == 1 else "signed whole numbers"
        raise RangeError(f"holds {kind} from {low:g} to {high:g}, not from 0 to {white}")
    shades = np.rint(values.astype(np.float64) * (255 / white)).astype(np.uint8)
    if white > 65535 and low < high and shades.min() == shades.max():
        problem = f"holds whole numbers from {low} to {high} of 0 to {white}, which are one shade"
        raise RangeError(problem)
    if tags.get(MEANING) == WHITE_IS_ZERO:
        shades = 255 - shades
    return Image.fromarray(shades).convert("RGB")


def _whole_numbers(
    mode: str, values: np.ndarray, tags: Mapping[int, Any]
) -> tuple[np.ndarray, int]:
    """Values of mode I or I;16 as the file has them, and the largest that its type holds."""
    bits = tags.get(BITS, (16,))[0]  # a PGM of more than 8 bits is read as 16 of them, in mode I
    if mode == "I" and tags.get(FORMAT, (1,))[0] == SIGNED:
        return values, 2 ** (bits - 1) - 1
    return (values.view(np.uint32) if bits == 32 else values), 2**bits - 1
