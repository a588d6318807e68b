"""Section 4's expectations against numerical integration that shares nothing with the library."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special

from mloss_core import ACTIVATIONS, InputError, Setting, expected, simulated
from mloss_core.analysis.curvature import SMOOTH, smooth
from mloss_core.analysis.expectation import THEORY, close_limit, printed, relu_formula, wide_limit

CLOSE = 1e-3  # relative error that `expected` promises for smooth activations

K = st.floats(0.5, 50)
S = st.floats(0.01, 20)
Q = st.integers(2, 12)
SLOPE = st.floats(0, 1)


def model(**values) -> Setting:
    """A setting, whose numbers may be written without a decimal point."""
    return Setting(**{n: float(v) if n in ("k", "s", "slope") else v for n, v in values.items()})


def sigma(name: str, slope: float = 0.01):
    """The activation by its textbook formula."""
    return {
        "relu": lambda x: np.maximum(x, 0),
        "leaky_relu": lambda x: np.where(x > 0, x, slope * x),
        "gelu": lambda x: x / 2 * (1 + special.erf(x / math.sqrt(2))),
        "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
        "silu": lambda x: x / (1 + np.exp(-x)),
    }[name]


def density(x):
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def two_sources(act, k: float, s: float) -> float:
    """E[D] of two sources, integrated over x, their half sum and half difference: the mean of two
    is x + s u / sqrt 2 and they lie s v / sqrt 2 beside it, u and v standard normal."""
    t = s / math.sqrt(2)
    v = np.linspace(0, 8.5, 401)
    of_v = 2 * np.exp(-v * v / 2) / math.sqrt(2 * math.pi)
    m = np.linspace(0, k + 8 * t, 1601)
    gap = np.abs(act(m[:, None]) - (act(m[:, None] + t * v) + act(m[:, None] - t * v)) / 2)
    within = special.ndtr((m + k) / t) - special.ndtr((m - k) / t)
    return (
        float(integrate.simpson(integrate.simpson(gap * of_v, x=v) * within, x=m) / (2 * k)) * 2
    )  # both signs of m


def three_sources(act, k: float, s: float) -> float:
    """E[D] of three: deviations from the mean lie in a plane; radius and angle on a fine grid."""
    r = np.linspace(0, 9, 361)
    angle = (np.arange(48) + 0.5) * 2 * math.pi / 48
    corners = angle[:, None] + np.arange(3) * 2 * math.pi / 3
    apart = s * r[:, None, None] * math.sqrt(2 / 3) * np.cos(corners)
    of_r = r * np.exp(-r * r / 2)
    t = s / math.sqrt(3)
    m = np.linspace(0, k + 8 * t, 1201)
    gap = [np.abs(act(x) - act(x + apart).mean(2)).mean(1) @ of_r * (r[1] - r[0]) for x in m]
    within = special.ndtr((m + k) / t) - special.ndtr((m - k) / t)
    return float(integrate.simpson(np.array(gap) * within, x=m) / k)


@given(K, S, Q, SLOPE)
def test_relu_kinds_are_exact_for_any_range_and_shift(k, s, q, slope):
    # For a convex activation the loss is E[sigma(h)] - E[sigma(mean h)], a single integral each.
    def mean_relu(t: float) -> float:
        smeared = lambda x: x * special.ndtr(x / t) + t * density(x / t)  # noqa: E731
        knots = [-k, *(p for p in (-8 * t, -2 * t, 0, 2 * t, 8 * t) if -k < p < k), k]
        parts = [integrate.fixed_quad(smeared, a, b, n=80)[0] for a, b in itertools.pairwise(knots)]
        return math.fsum(parts) / (2 * k)

    oracle = mean_relu(s) - mean_relu(s / math.sqrt(q))
    relu = expected(model(activation="relu", k=k, s=s, q=q))
    assert relu == pytest.approx(oracle, rel=1e-6, abs=1e-11)
    leaky = expected(model(activation="leaky_relu", k=k, s=s, q=q, slope=slope))
    assert leaky == pytest.approx((1 - slope) * relu, rel=1e-12)


@given(st.floats(0.001, 2), Q, SLOPE)
def test_relu_and_leaky_relu_follow_the_formula_where_the_range_is_wide(s, q, slope):
    setting = model(activation="leaky_relu", k=10 * s, s=s, q=q, slope=slope)
    assert expected(setting) == pytest.approx(
        (1 - slope) * (q - 1) * s**2 / (4 * q * 10 * s), rel=1e-9
    )
    assert wide_limit(setting) == close_limit(setting)


@pytest.mark.parametrize("name", sorted(SMOOTH))
@settings(max_examples=12)
@given(k=st.floats(1, 40), s=st.floats(0.02, 8))
def test_two_sources_against_nested_quadrature(name, k, s):
    loss = expected(model(activation=name, k=k, s=s))
    assert loss == pytest.approx(two_sources(sigma(name), k, s), rel=CLOSE)


@pytest.mark.parametrize("name", sorted(SMOOTH))
@pytest.mark.parametrize(("k", "s"), [(10, 0.05), (10, 1), (3, 2), (30, 6)])
def test_three_sources_against_a_grid(name, k, s):
    loss = expected(model(activation=name, k=k, s=s, q=3))
    assert loss == pytest.approx(three_sources(sigma(name), k, s), rel=CLOSE)


def test_the_integrators_of_this_file_know_relu():
    for k, s in ((10, 1), (3, 2)):
        setting = model(activation="relu", k=k, s=s)
        assert two_sources(sigma("relu"), k, s) == pytest.approx(expected(setting), rel=2e-3)
        setting = dataclasses.replace(setting, q=3)
        assert three_sources(sigma("relu"), k, s) == pytest.approx(expected(setting), rel=1e-3)


@pytest.mark.parametrize("name", THEORY)
@pytest.mark.parametrize(
    ("k", "s", "q"), [(10, 0.1, 2), (4, 2, 3), (20, 1, 5), (10, 6, 8), (2, 9, 16)]
)
def test_monte_carlo_agrees_within_four_standard_errors(name, k, s, q):
    setting = model(activation=name, k=k, s=s, q=q, slope=0.2)
    mean, error = simulated(setting, 60_000, seed=7)
    assert 0 < error < 0.1 * mean
    assert abs(mean - expected(setting)) < 4 * error + CLOSE * mean


def test_unequal_weights_agree_with_monte_carlo():
    for name in THEORY:
        setting = model(activation=name, k=5, s=1.5, q=3, weights=(0.6, 0.3, 0.1))
        mean, error = simulated(setting, 100_000, seed=3)
        assert abs(mean - expected(setting)) < 4 * error + CLOSE * mean


@pytest.mark.parametrize(("name", "constant"), [("gelu", 0.18945), ("quick_gelu", 0.17492),
                                                ("silu", 0.17492)])  # fmt: skip
def test_the_constants_of_the_limit_of_small_shifts(name, constant):
    slope = lambda x: optimize.approx_fprime(np.array([x]), lambda y: float(sigma(name)(y[0])))  # noqa: E731
    second = lambda x: SMOOTH[name].bend(torch.tensor([x], dtype=torch.float64)).abs().item()  # noqa: E731
    assert SMOOTH[name].slope(np.array([0.7]))[0] == pytest.approx(slope(0.7)[0], abs=1e-6)
    peak = SMOOTH[name].peak / SMOOTH[name].gain
    pieces = ((-60, -peak), (-peak, 0), (0, peak), (peak, 60))
    total = sum(integrate.quad(second, a, b, epsabs=1e-10, limit=200)[0] for a, b in pieces)
    assert total == pytest.approx(smooth(name).total_bend(), rel=1e-7)
    assert total / 8 == pytest.approx(constant, abs=5e-6)
    setting = model(activation=name, k=60, s=0.003)
    assert close_limit(setting) * 60 / 0.003**2 == pytest.approx(constant, abs=5e-6)
    for q in (2, 5):
        setting = dataclasses.replace(setting, q=q)
        assert expected(setting) == pytest.approx(close_limit(setting), rel=CLOSE)


@pytest.mark.parametrize("name", sorted(SMOOTH))
def test_second_derivatives_are_those_of_the_librarys_activations(name):
    x = torch.linspace(-7, 7, 57, dtype=torch.float64, requires_grad=True)
    curve = {"gelu": torch.nn.functional.gelu, "silu": torch.nn.functional.silu,
             "quick_gelu": lambda v: v * torch.sigmoid(1.702 * v)}[name]  # fmt: skip
    (first,) = torch.autograd.grad(curve(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    plain = x.detach()
    np.testing.assert_allclose(SMOOTH[name].bend(plain), second, atol=1e-12)
    np.testing.assert_allclose(SMOOTH[name].slope(plain.numpy()), first.detach(), atol=1e-12)
    np.testing.assert_allclose(
        SMOOTH[name].value(plain.numpy()), ACTIVATIONS[name](plain), atol=1e-12
    )


@pytest.mark.parametrize("q", [2, 3, 8])
def test_gelu_approaches_relu_for_large_shifts(q):
    ratios = [
        expected(s) / wide_limit(s)
        for s in (
            model(activation="gelu", k=12 * s + 12, s=s, q=q) for s in (0.01, 1, 3, 10, 30, 80)
        )
    ]
    assert ratios == sorted(ratios, reverse=True), "from 1.5156 down to 1, never below"
    assert ratios[0] == pytest.approx(1.5156, abs=2e-3)
    assert 1 < ratios[-1] < 1.001


def test_what_is_left_of_gelus_excess_for_large_shifts_is_two_over_s_squared():
    excess = [
        (expected(s) / wide_limit(s) - 1) * s.s**2
        for s in (model(activation="gelu", k=800, s=s) for s in (20, 40, 80))
    ]
    assert excess == pytest.approx([2, 2, 2], rel=0.15)


@pytest.mark.parametrize("name", sorted(SMOOTH))
@settings(max_examples=15)
@given(k=st.floats(1, 40), s=st.floats(0.02, 8), q=Q)
def test_smooth_losses_lie_between_the_two_limits_in_a_wide_range(name, k, s, q):
    setting = model(activation=name, k=k + 10 * s + 10, s=s, q=q)
    loss = expected(setting)
    assert wide_limit(setting) * (1 - CLOSE) <= loss <= close_limit(setting) * (1 + CLOSE)


def test_the_papers_estimates_and_how_far_off_they_are():
    relu = model(activation="relu", k=10, s=0.1)
    assert printed(relu) / expected(relu) == pytest.approx(8 / math.sqrt(2 * math.pi), rel=1e-9)
    assert 8 / math.sqrt(2 * math.pi) == pytest.approx(3.19, abs=2e-3)
    leaky = dataclasses.replace(relu, activation="leaky_relu", slope=0.3)
    assert printed(leaky) == pytest.approx(0.7 * printed(relu))
    gelu = dataclasses.replace(relu, activation="gelu", s=0.001)
    assert printed(gelu) / expected(gelu) == pytest.approx(1.3196, abs=2e-3)
    assert printed(dataclasses.replace(relu, activation="silu")) is None
    # A loss in other units is the loss times the unit: sqrt(2 pi k) as it is set would not be.
    assert relu_formula(model(activation="relu", k=70, s=0.7)) == pytest.approx(
        7 * relu_formula(relu)
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"activation": "tanh"}, "activation tanh: is not known"),
        ({"k": 0.0}, "range K 0.0: is outside"),
        ({"k": math.nan}, "range K nan: is outside"),
        ({"s": math.inf}, "shift s inf: is outside"),
        ({"q": 1}, "sources q 1: is out of range"),
        ({"slope": -0.1}, r"slope -0.1: is outside \[0, 1\]"),
        ({"weights": (0.5, 0.6)}, "sums to 1.1"),
    ],
)
def test_bad_settings_are_refused(change, said):
    with pytest.raises(InputError, match=said):
        Setting(**({"activation": "gelu", "k": 1.0, "s": 1.0} | change))


def test_bad_draws_and_activations_are_refused():
    with pytest.raises(InputError, match="draws 1"):
        simulated(model(activation="relu", k=1, s=1), 1)
    with pytest.raises(InputError, match="smooth activation relu: is not known"):
        smooth("relu")
