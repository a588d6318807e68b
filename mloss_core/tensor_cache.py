"""What merges of the same sources share, whatever their k, e and blocks: kept for the next one."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from .checkpoints.files import FileId
from .checkpoints.image_tower import FLOATS, Checkpoint
from .hardware.available import free
from .trim import SortedMagnitudes, TaskVectors

ROOM = 1 << 30  # bytes that a cache may take
COPIES = 3  # of each source at the most: its task vector, and its magnitudes in two orders


def room(shapes: Mapping[str, tuple[int, ...]], sources: int) -> int:
    """Bytes at the most that so many sources take in a cache; 0 where it has no room for them."""
    needs = 4 * COPIES * sources * sum(map(math.prod, shapes.values()))
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

    def of(
        self, base: Checkpoint, sources: Sequence[Checkpoint], device: torch.device
    ) -> TensorCache:
        """The cache for merges of these sources: itself, or one that keeps nothing where they have
        no room in it."""
        key = (device, *(checkpoint.sha256 for checkpoint in (base, *sources)))
        if self.keeps and key != self._of:
            self._of, self._stored, self._ordered = key, {}, {}
        return self if self.keeps and room(base.shapes, len(sources)) else TensorCache()

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
        self,
        name: str,
        base: Tensor,
        stored: Sequence[Tensor],
        thresholds: Sequence[float] | None,
        kept: Int[Tensor, " rows"] | None,
    ) -> TaskVectors:
        """The task vectors of a tensor; see `TaskVectors`."""
        if not self.keeps:
            return TaskVectors(base, stored, thresholds, kept=kept)
        if name not in self._ordered:
            everything = slice(None)
            self._ordered[name] = SortedMagnitudes(
                TaskVectors(base, stored).part(everything, everything)
            )
        return TaskVectors(base, stored, thresholds, self._ordered[name], kept)


SHARE = 0.5  # of a GPU's free memory that sources may take: the rest is for the work
_kept: dict[tuple[tuple[FileId, ...], torch.device], dict[str, Tensor]] = {}
_lock = threading.Lock()


def read(
    sources: Sequence[Checkpoint], names: Collection[str], device: torch.device
) -> dict[str, list[Tensor]]:
    """These tensors of every source as they are stored, by name.

    On a GPU they stay there for the next merge of these sources where all of them fit; where they
    do not, they come mapped, and are moved a piece at a time by whoever computes with them.
    """
    if device.type != "cuda":
        tensors_of = [source.read(names) for source in sources]
    else:
        with _lock:
            tensors_of = _moved(sources, names, device)
    return {name: [tensors[name] for tensors in tensors_of] for name in names}


def _moved(
    sources: Sequence[Checkpoint], names: Collection[str], device: torch.device
) -> list[dict[str, Tensor]]:
    keys = [(source.files, device) for source in sources]
    for other in _kept.keys() - set(keys):  # of an earlier choice, or of a file since changed
        del _kept[other]
    new = {key: source for key, source in zip(keys, sources, strict=True) if key not in _kept}
    if sum(map(_size, new.values())) > SHARE * free(device):
        return [source.read(names) for source in sources]
    _kept.update({key: {} for key in new})
    for key, source in zip(keys, sources, strict=True):
        missing = source.read([name for name in names if name not in _kept[key]])
        _kept[key].update({name: tensor.to(device) for name, tensor in missing.items()})
    return [{name: _kept[key][name] for name in names} for key in keys]


def _size(source: Checkpoint) -> int:
    """Bytes of a source's tensors."""
    return sum(
        math.prod(shape) * FLOATS[source.dtypes[name]].itemsize
        for name, shape in source.shapes.items()
    )
