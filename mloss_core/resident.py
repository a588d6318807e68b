"""Sources' tensors where they are worked on: mapped on a CPU, kept on a GPU that has room."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from . import dialects
from .checkpoint import FLOATS, Checkpoint
from .free import free

SHARE = 0.5  # of a GPU's free memory that sources may take: the rest is for the work
_kept: dict[tuple[tuple[dialects.FileId, ...], torch.device], dict[str, Tensor]] = {}
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
    keys = [(dialects.file_ids(source.path), device) for source in sources]
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
