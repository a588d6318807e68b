"""Link fields of the Explain page."""

from __future__ import annotations

from mloss_core.fields import Choice
from mloss_core.runs.layout import PLAIN
from views.state.checked import Checked

TABS = {
    "why": "Why is this node high?",
    "source": "Which source causes it?",
    "runs": "Before, along, or another run",
    "blocks": "Which blocks?",
}
PLACES = {"token": "a typical token", "mean": "the mean pre-activations"}
# Maps to compare, besides the runs that are kept.
WHEN = {"along": "along the merge (Algorithm 1)", "before": "before the merge (the base's inputs)"}


def _check_map(value: str) -> None:
    if value not in WHEN and not PLAIN.fullmatch(value):
        raise ValueError(f"choose from {', '.join(WHEN)}, or give a run's id")


FIELDS = (
    Choice(name="explain", label="Explanation", default="why", choices=TABS),
    Choice(
        name="gap_at",
        label="Drawn at",
        help="Typical: the token whose gap is nearest to the node's M-Loss, which is the mean gap "
        "of all tokens. Mean: each source's pre-activation averaged over all tokens; there the "
        "sources' differences partly cancel, so that the gap is smaller.",
        default="token",
        choices=PLACES,
    ),
    Checked(name="compared", label="First map", default="along", rule=_check_map),
    Checked(name="against", label="Second map", default="before", rule=_check_map),
)
