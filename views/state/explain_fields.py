"""Link fields of the explanation below the heatmap: defaults, allowed values and validation."""

from __future__ import annotations

from mloss_core.runs.layout import PLAIN

TABS = {
    "why": "Why is this node high?",
    "source": "Which source causes it?",
    "runs": "Before, along, or another run",
}
PLACES = {"token": "a typical token", "mean": "the mean pre-activations"}
# Maps to compare, besides the runs that are kept.
WHEN = {"along": "along the merge (Algorithm 1)", "before": "before the merge (the base's inputs)"}
DEFAULTS = {"explain": "why", "gap_at": "token", "compared": "along", "against": "before"}


def choices() -> dict[str, tuple[str, ...]]:
    """The fields that are one of a few words."""
    return {"explain": tuple(TABS), "gap_at": tuple(PLACES)}


def check(key: str, value: str) -> None:
    """Raises ValueError if a link's value makes no sense."""
    if key in ("compared", "against") and value not in WHEN and not PLAIN.fullmatch(value):
        raise ValueError(f"choose from {', '.join(WHEN)}, or give a run's id")
