"""What merges of the same sources share, whatever their k, e and blocks: kept for the next one."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from .checkpoint import Checkpoint
from .ordered import SortedMagnitudes
from .resident import read
from .trim import TaskVectors
from .zoo import Family

ROOM = 1 << 30  # bytes that a desk may take
COPIES = 3  # of each source at the most: its task vector, and its magnitudes in two orders


def room(family: Family, sources: int) -> int:
    """Bytes at the most that so many sources take on a desk; 0 where it has no room for them."""
    needs = 4 * COPIES * sources * sum(map(math.prod, family.model.shapes().values()))
    return needs if needs <= ROOM else 0


class TensorCache:
    """Sources' tensors as they are stored, and their task vectors with `SortedMagnitudes`.

    One that keeps nothing reads and makes them anew, which is what a single merge does.

    For one thread at a time. Filled by the first merge; other sources clear it.

    Args:
        keeps: whether anything is kept, as far as there is room.
    """

    def __init__(self, keeps: bool = False):
        self.keeps = keeps
        self._of: tuple = ()
        self._stored: dict[str, list[Tensor]] = {}
        self._ordered: dict[str, SortedMagnitudes] = {}

    def lay(self, family: Family, names: Sequence[str], device: torch.device) -> TensorCache:
        """The desk on which these sources are merged: itself, or one that keeps nothing where they
        have no room on it."""
        files = [family.base(), *(family.source(name) for name in names)]
        key = (device, *(file.sha256 for file in files))
        if key != self._of:
            self._of, self._stored, self._ordered = key, {}, {}
        return self if room(family, len(names)) else TensorCache()

    def read(
        self, sources: Sequence[Checkpoint], names: Collection[str], device: torch.device
    ) -> dict[str, list[Tensor]]:
        """These tensors of every source as they are stored, by name."""
        if not self.keeps:
            return read(sources, names, device)
        missing = [name for name in names if name not in self._stored]
        self._stored |= read(sources, missing, device) if missing else {}
        return {name: self._stored[name] for name in names}

    def vectors(
        self, name: str, base: Tensor, stored: Sequence[Tensor], thresholds: Sequence[float] | None
    ) -> TaskVectors:
        """The task vectors of a tensor; see `TaskVectors`."""
        if not self.keeps:
            return TaskVectors(base, stored, thresholds)
        if name not in self._ordered:
            everything = slice(None)
            self._ordered[name] = SortedMagnitudes(
                TaskVectors(base, stored).part(everything, everything)
            )
        return TaskVectors(base, stored, thresholds, self._ordered[name])
