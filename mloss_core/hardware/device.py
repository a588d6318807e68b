"""Choice of the torch device."""

from __future__ import annotations

import torch

from ..errors import BadValue, UnknownName

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
