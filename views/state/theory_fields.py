"""Link fields of the Theory page."""

from __future__ import annotations

from mloss_core.analysis.expectation import LEAST, MOST, MOST_SOURCES
from mloss_core.fields import Choice, Field, Number

ACTIVATIONS = {
    "relu": "ReLU",
    "leaky_relu": "leaky ReLU",
    "gelu": "GELU",
    "quick_gelu": "QuickGELU",
    "silu": "SiLU",
}

# The sliders bring in what is merely far.
FIELDS = (
    Choice(
        name="theory_activation",
        label="Activation",
        help="The bent function between a node's pre-activation and its output.",
        default="gelu",
        choices=ACTIVATIONS,
    ),
    Number(
        name="theory_k",
        label="Range K",
        help="The base's pre-activation is anywhere between -K and K.",
        default=10.0,
        low=LEAST,
        high=MOST,
        allowed=f"a number from {LEAST:g} to {MOST:g}",
    ),
    Number(
        name="theory_s",
        label="Shift s",
        help="How far a source's pre-activation lies from the base's: a standard deviation.",
        default=1.0,
        low=LEAST,
        high=MOST,
        allowed=f"a number from {LEAST:g} to {MOST:g}",
    ),
    Number(
        name="theory_q",
        label="Sources q",
        help="How many models are averaged.",
        default=2,
        kind=int,
        low=2,
        high=MOST_SOURCES,
        allowed=f"a whole number from 2 to {MOST_SOURCES}",
    ),
    Number(
        name="theory_slope",
        label="Slope",
        help="Of leaky ReLU below zero. With slope 1 it is a straight line.",
        default=0.01,
        low=0,
        high=1,
        allowed="a number from 0 to 1",
    ),
    Field(name="theory_job", label="Job of the theory"),
)
