"""Choice of the torch device, and out-of-memory errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ..errors import BadValue, OutOfMemory, UnknownName

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose(name: str) -> torch.device:
    """The device of that name; auto takes cuda, then mps, then cpu.

    Raises:
        UnknownName: no such kind of device.
        BadValue: this machine has none of that kind.
    """
    if name not in DEVICES:
        raise UnknownName("device", name, DEVICES)
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    if not present[name]:
        raise BadValue("device", name, "is not on this machine", "use auto or cpu")
    return torch.device(name)


@contextlib.contextmanager
def reported_memory(name: str = "auto") -> Iterator[None]:
    """Translates the out-of-memory errors of torch and NumPy into OutOfMemory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = ("out of memory", "allocate memory")
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
            word in str(error) for word in words
        ):
            raise OutOfMemory(name) from error
        raise
