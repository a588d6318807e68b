"""Expected node M-Loss in the paper's model of Section 4: exact, in its limits, and as printed.

Pre-activations of the sources are N(x, s^2), independent given x, and x is uniform on (-K, K).
Derivations: docs/theory.md.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr, ndtri
from torch.quasirandom import SobolEngine

from ..errors import BadValue, UnknownName
from ..types import check_weights
from .curvature import SMOOTH, Smooth

THEORY = ("relu", "leaky_relu", "gelu", "quick_gelu", "silu")
POINTS = 1 << 16  # of the low-discrepancy rule: relative error below 1e-3, mostly 2e-4
MOST_SOURCES = 64
LEAST, MOST = 1e-4, 1e3  # of K and s: beyond, rounding or the rules' spacing would show


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Parameters of Section 4's model.

    Args:
        activation: one of THEORY.
        k: range K of the base's pre-activation.
        s: shift s of the sources, a standard deviation in the same unit.
        q: number of sources.
        slope: of leaky ReLU below zero, in [0, 1]; the other activations have none.
        weights: merging weights alpha; None means 1/q each.
    """

    activation: str
    k: float
    s: float
    q: int = 2
    slope: float = 0.01
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.activation not in THEORY:
            raise UnknownName("activation", self.activation, THEORY)
        for name, value in (("range K", self.k), ("shift s", self.s)):
            if not LEAST <= value <= MOST:
                problem = f"is outside {LEAST:g} to {MOST:g}"
                raise BadValue(name, value, problem, "rescale K and s, or move the slider")
        if not 2 <= self.q <= MOST_SOURCES:
            raise BadValue("sources q", self.q, "is out of range", f"give 2 to {MOST_SOURCES}")
        if not 0 <= self.slope <= 1:
            raise BadValue("slope", self.slope, "is outside [0, 1]", "give e.g. 0.01")
        if self.weights is not None:
            check_weights(self.weights, self.q)

    @property
    def alpha(self) -> Float[np.ndarray, " q"]:
        """The merging weights, 1/q each unless given."""
        return np.array(self.weights or (1 / self.q,) * self.q)

    @property
    def concentration(self) -> float:
        """Sum of alpha^2: the share of the sources' variance that their mean keeps; 1/q."""
        return float(np.square(self.alpha).sum())

    @property
    def bent(self) -> float:
        """The rise of the activation's slope over the whole line: 1, of leaky ReLU 1 - slope."""
        return 1 - self.slope if self.activation == "leaky_relu" else 1.0


def expected(setting: Setting, points: int = POINTS) -> float:
    """Expected node M-Loss E[D] for any K, s and q (paper, Section 4).

    Jensen's part, E[alpha . sigma(h) - sigma(alpha . h)], which is all of it for ReLU kinds, by
    Gauss' and the trapezoidal rule to ten digits; plus twice what lies on the wrong side of zero,
    by a fixed low-discrepancy rule.

    Args:
        points: of that rule, a power of two; the more, the closer.
    """
    jensen = setting.bent * _jensen(setting)
    if setting.activation not in SMOOTH:
        return jensen
    return jensen + 2 * _wrong_side(setting, SMOOTH[setting.activation], points)


def _jensen(setting: Setting) -> float:
    """Jensen's part of E[D]: the integral of (2 E[sigma'(K + t z)] - 1) t / (2 K) over t.

    t are standard deviations, from that of the sources' mean to that of one source.
    """
    nodes, weights = np.polynomial.legendre.leggauss(32)
    low, high = setting.s * math.sqrt(setting.concentration), setting.s
    t = (high - low) / 2 * nodes + (high + low) / 2
    rise = 2 * _blurred_slope(setting.activation, setting.k, t) - 1
    return float(weights @ (rise * t) * (high - low) / 2 / (2 * setting.k))


def _blurred_slope(name: str, x: float, t: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """E[sigma'(x + t z)] for standard normal z; of ReLU kinds as if the slope were 0."""
    if name not in SMOOTH:
        return ndtr(x / t)
    sigma = SMOOTH[name]
    # The trapezoidal rule is as good as exact once its steps are finer than the bend.
    z = np.linspace(-8.5, 8.5, 2 * math.ceil(8.5 * max(20.0, 3 * sigma.gain * t.max())) + 1)
    density = np.exp(-z * z / 2)
    return np.array([density @ sigma.slope(x + each * z) for each in t]) / density.sum()


def _wrong_side(setting: Setting, sigma: Smooth, points: int) -> float:
    """The concave part of E[D]: E[max(0, sigma(alpha . h) - alpha . sigma(h))].

    By symmetry for positive x only. They are drawn exponentially (cut off at K), because the loss
    sits near zero however large K is.
    """
    uniform, z = _low_discrepancy(setting.q, points)
    scale = 2 / sigma.gain + setting.s / 2
    inside = -math.expm1(-setting.k / scale)
    x = -scale * np.log1p(-inside * uniform)
    h = x[:, None] + setting.s * z
    gap = sigma.value(h @ setting.alpha) - sigma.value(h) @ setting.alpha
    density = np.exp(-x / scale) / (scale * inside)
    return float((np.maximum(gap, 0) / density).mean() / setting.k)


@functools.lru_cache(maxsize=8)
def _low_discrepancy(
    q: int, points: int
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n q"]]:
    """Scrambled Sobol points of a fixed seed: one uniform and q standard normal coordinates."""
    raw = SobolEngine(q + 1, scramble=True, seed=1).draw(points).numpy().astype(np.float64)
    raw = np.clip(raw, 1e-9, 1 - 1e-9)
    return raw[:, 0], ndtri(raw[:, 1:])


def simulated(setting: Setting, draws: int = 20_000, seed: int = 0) -> tuple[float, float]:
    """Monte Carlo estimate of E[D] in float64 and its standard error."""
    if draws < 2:
        raise BadValue("draws", draws, "is below 2", "give at least 2 for a standard error")
    rng = np.random.default_rng(seed)
    x = rng.uniform(-setting.k, setting.k, draws)
    h = x[:, None] + setting.s * rng.standard_normal((draws, setting.q))
    gap = np.abs(_value(setting, h @ setting.alpha) - _value(setting, h) @ setting.alpha)
    return float(gap.mean()), float(gap.std(ddof=1) / math.sqrt(draws))


def _value(setting: Setting, x: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """sigma(x)."""
    if setting.activation in SMOOTH:
        return SMOOTH[setting.activation].value(x)
    slope = setting.slope if setting.activation == "leaky_relu" else 0.0
    return np.where(x > 0, x, slope * x)


def relu_formula(setting: Setting) -> float:
    """ReLU's E[D] for K >> s: (1 - sum alpha^2) s^2 / (4 K), the unit of the other limits.

    For equal weights it is (q - 1) s^2 / (4 q K).
    """
    return (1 - setting.concentration) * setting.s**2 / (4 * setting.k)


def wide_limit(setting: Setting) -> float:
    """The limit of E[D] for 1 << s << K: `relu_formula` times the rise of the slope.

    ReLU kinds have this value for all K >> s.
    """
    return setting.bent * relu_formula(setting)


def close_limit(setting: Setting) -> float:
    """The limit of E[D] for s << 1 << K: `wide_limit` times the integral of abs(sigma'').

    For two sources 0.18945 s^2 / K (GELU) and 0.17492 s^2 / K (QuickGELU, SiLU).
    """
    total = SMOOTH[setting.activation].total_bend() if setting.activation in SMOOTH else 1.0
    return total * wide_limit(setting)


def printed(setting: Setting) -> float | None:
    """The paper's printed value of E[D] for two sources (Section 4); None where it prints none.

    Its "sqrt(2 pi k)" is read as sqrt(2 pi) k: a loss scales as K and s do, so that it must be s^2
    over K times a number.
    """
    if setting.activation in ("relu", "leaky_relu"):
        return setting.bent * setting.s**2 / (math.sqrt(2 * math.pi) * setting.k)
    return setting.s**2 / (4 * setting.k) if setting.activation == "gelu" else None
