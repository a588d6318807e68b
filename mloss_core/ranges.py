"""Range checks of a recipe's sources, weights and keep rates."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .errors import BadValue


def check_sources(sources: Sequence[str]) -> None:
    """Raises BadValue unless there are at least two sources, each named once."""
    for name in sources:
        if sources.count(name) > 1:
            raise BadValue("--sources", name, "is named twice", "name each source once")
    if len(sources) < 2:
        remedy = "merging needs at least two sources"
        raise BadValue("--sources", ",".join(sources), "is too few", remedy)


def check_weights(weights: Sequence[float], sources: int) -> None:
    """Raises BadValue unless there is one weight a source, none negative, summing to 1."""
    shown = ",".join(f"{w:g}" for w in weights)
    if len(weights) != sources:
        problem = f"has another number of weights than the {sources} sources"
        raise BadValue("--weights", shown, problem, "give one weight a source")
    if not all(math.isfinite(w) and w >= 0 for w in weights):
        raise BadValue("--weights", shown, "has a negative or non-finite weight", "use 0 to 1")
    if abs(math.fsum(weights) - 1) > 1e-6:
        total = f"sums to {math.fsum(weights):g}"
        raise BadValue("--weights", shown, total, "give weights that sum to 1")


def check_rates(keep: float, variation: float) -> None:
    """Raises BadValue unless 0 < keep <= 1 and 0 <= variation <= keep."""
    if not 0 < keep <= 1:
        raise BadValue("--keep", keep, "is outside (0, 1]", "give a share such as 0.2")
    if not 0 <= variation <= keep:
        problem = f"is outside [0, keep] = [0, {keep:g}]"
        raise BadValue("--variation", variation, problem, "lower it, or raise --keep")
