"""Threshold of TIES' global trim, over the whole task vector of a source."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import torch
from torch import Tensor

from ..trim import kept_counts, thresholds_

Read = Callable[[Collection[str]], Mapping[str, Tensor]]


def global_threshold(base: Mapping[str, Tensor], read: Read, keep: float) -> float:
    """The least magnitude kept by a global trim, over all tensors of a source's task vector.

    Takes one task vector's memory, so that sources are done one after the other; found on the CPU,
    so that it is the same for every device.

    Args:
        base: in fp32.
        read: gives a source's tensors as they are stored, by name.
        keep: share of all entries that is kept, rounded down but at least one entry.
    """
    total = sum(tensor.numel() for tensor in base.values())
    magnitude = torch.empty(1, total)
    start = 0
    for name, tensor in base.items():
        stop = start + tensor.numel()
        vector = magnitude[0, start:stop].view(tensor.shape)
        torch.sub(read([name])[name], tensor.cpu(), out=vector).abs_()
        start = stop
    return float(thresholds_(magnitude, kept_counts(np.array([keep]), total)))
