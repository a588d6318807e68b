"""The task vectors of one tensor with their magnitudes in order, to be trimmed many times.

A threshold at any keep rate is then read off, not found; it is the same to the bit.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .pieces import thread_map


@dataclass(frozen=True)
class SortedMagnitudes:
    """Task vectors as rows, and their magnitudes from small to large, sorted when first asked for.

    Args:
        vectors: in fp32, on the device; never written to.
    """

    vectors: Float[Tensor, "sources rows length"]

    def of_whole(self, count: int) -> Float[Tensor, " sources"]:
        """The count-th largest magnitude of each source's whole tensor."""
        return self._whole[:, self._whole.shape[1] - count]

    def of_rows(self, counts: Int[np.ndarray, " rows"]) -> Float[Tensor, "sources rows"]:
        """The counts[r]-th largest magnitude of each source's row r."""
        place = torch.from_numpy(self.vectors.shape[2] - counts).to(self.vectors.device)
        index = place[None, :, None].expand(len(self.vectors), -1, 1)
        return self._rows.gather(2, index)[..., 0]

    @functools.cached_property
    def _whole(self) -> Float[Tensor, "sources n"]:
        return _sorted(self.vectors.flatten(1))

    @functools.cached_property
    def _rows(self) -> Float[Tensor, "sources rows length"]:
        return _sorted(self.vectors)


def _sorted(vectors: Float[Tensor, "sources *rest"]) -> Float[Tensor, "sources *rest"]:
    """Magnitudes in order along the last dimension."""
    magnitude = vectors.abs()
    if magnitude.device.type != "cpu":
        return magnitude.sort(dim=-1).values
    # NumPy's vectorised sort is many times faster than torch's on the CPU; a source a thread.
    list(thread_map(lambda source: source.numpy().sort(axis=-1), magnitude, magnitude.device))
    return magnitude
