"""Link fields of the Theory page: their defaults and validation."""

from __future__ import annotations

from mloss_core.analysis.expectation import LEAST, MOST, MOST_SOURCES, THEORY

DEFAULTS = {
    "theory_activation": "gelu",
    "theory_k": "10",
    "theory_s": "1",
    "theory_q": "2",
    "theory_slope": "0.01",
    "theory_job": "",
}


def check(key: str, value: str) -> None:
    """Raises ValueError if a link's value makes no sense; sliders bring in what is merely far."""
    if key == "theory_activation" and value not in THEORY:
        raise ValueError(f"choose from {', '.join(THEORY)}")
    if key in ("theory_k", "theory_s") and not LEAST <= float(value) <= MOST:
        raise ValueError(f"it is outside {LEAST:g} to {MOST:g}")
    if key == "theory_q" and not 2 <= int(value) <= MOST_SOURCES:
        raise ValueError(f"it is outside 2 to {MOST_SOURCES}")
    if key == "theory_slope" and not 0 <= float(value) <= 1:
        raise ValueError("it is outside 0 to 1")
