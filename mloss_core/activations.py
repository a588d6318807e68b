"""Activations of CLIP's blocks, each written so that it runs on a native kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .errors import UnknownName


@dataclass(frozen=True)
class Activation:
    """An activation written as sigma(x) = kernel(gain * x) / gain, so that QuickGELU,
    silu(1.702 x) / 1.702, runs on the native kernel; the kernel may overwrite its input."""

    kernel: Callable[[Tensor], Tensor]
    gain: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """sigma(x), leaving x as it is."""
        return self.overwriting(x.clone())

    def overwriting(self, x: Tensor) -> Tensor:
        """sigma(x), with x as its workspace."""
        return self.kernel(x.mul_(self.gain)).div_(self.gain)


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(lambda x: F.relu(x, inplace=True)),
    "leaky_relu": Activation(lambda x: F.leaky_relu(x, 0.01, inplace=True)),
    "gelu": Activation(F.gelu),
    "gelu_tanh": Activation(lambda x: F.gelu(x, approximate="tanh")),
    "quick_gelu": Activation(lambda x: F.silu(x, inplace=True), gain=1.702),
    "silu": Activation(lambda x: F.silu(x, inplace=True)),
}


def activation(name: str) -> Activation:
    """The activation of that name; raises UnknownName."""
    if name not in ACTIVATIONS:
        raise UnknownName("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]
