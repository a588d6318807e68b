"""How a smooth activation bends: its first and second derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import expit, ndtr
from torch import Tensor

from ..errors import UnknownName

Values = Float[np.ndarray, "*n"]


@dataclass(frozen=True)
class Smooth:
    """A smooth activation sigma(x) = kernel(gain * x) / gain in float64, and its derivatives.

    The slope of each of them mirrors itself, sigma'(-x) = 1 - sigma'(x); it rises from a dip at
    -peak / gain to a hump at peak / gain, and nothing else bends it.
    """

    kernel: Callable[[Values], Values]
    kernel_slope: Callable[[Values], Values]
    kernel_bend: Callable[[Tensor], Tensor]
    peak: float
    gain: float = 1.0

    def value(self, x: Values) -> Values:
        """sigma(x)."""
        return self.kernel(self.gain * x) / self.gain

    def slope(self, x: Values) -> Values:
        """sigma'(x)."""
        return self.kernel_slope(self.gain * x)

    def bend(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """sigma''(x), on the device and in the precision of x."""
        return self.kernel_bend(x * self.gain) * self.gain

    def total_bend(self) -> float:
        """Integral of abs(sigma'') over the line; the gain does not change it."""
        return float(4 * self.kernel_slope(np.array([self.peak]))[0] - 3)


def _normal_density(x: Values) -> Values:
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _silu_bend(x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return gate * (1 - gate) * (2 + x * (1 - 2 * gate))


def _silu(gain: float) -> Smooth:
    return Smooth(
        kernel=lambda x: x * expit(x),
        kernel_slope=lambda x: expit(x) * (1 + x * expit(-x)),
        kernel_bend=_silu_bend,
        peak=2.399357280520547,  # x tanh(x / 2) = 2
        gain=gain,
    )


SMOOTH: dict[str, Smooth] = {
    "gelu": Smooth(
        kernel=lambda x: x * ndtr(x),
        kernel_slope=lambda x: ndtr(x) + x * _normal_density(x),
        kernel_bend=lambda x: (2 - x * x) * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi),
        peak=math.sqrt(2),
    ),
    "quick_gelu": _silu(1.702),
    "silu": _silu(1.0),
}


def smooth(name: str) -> Smooth:
    """The smooth activation of that name; raises UnknownName, also for ReLU.

    ReLU only bends at one point and has no second derivative there.
    """
    if name not in SMOOTH:
        raise UnknownName("smooth activation", name, SMOOTH)
    return SMOOTH[name]
