"""Link fields of the Explain page."""

from __future__ import annotations

from mloss_core.fields import Choice, Field, Number
from mloss_core.runs.layout import PLAIN
from views.state.checked import Checked

TABS = {
    "why": "Why is this node high?",
    "source": "Which source causes it?",
    "runs": "Before, along, or another run",
    "blocks": "Which blocks?",
    "left": "What is left",
    "alignment": "Alignment",
    "routing": "Routing",
}
PLACES = {"token": "a typical token", "mean": "the mean pre-activations"}
# Maps to compare, besides the runs that are kept.
WHEN = {"along": "along the merge (Algorithm 1)", "before": "before the merge (the base's inputs)"}
# Leading directions of a matrix, on either side of it.
SIDES = {"left": "what it writes (left)", "right": "what it reads (right)"}
PARTS = ("in_proj", "out_proj", "c_fc", "c_proj")  # a block's matrices


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
    Field(
        name="left_of",
        label="Each on its own task",
        help="The gap between the merged model and a source on the images of the source's own "
        "task, each on its own inputs.",
    ),
    Choice(
        name="side",
        label="Directions",
        help="Left singular vectors span what a matrix writes; right ones, what it reads.",
        default="left",
        choices=SIDES,
    ),
    Choice(
        name="matrix",
        label="Matrix",
        default="c_fc",
        choices={part: part for part in PARTS},
    ),
    Choice(
        name="layer",
        label="Linear layer",
        help="Each linear layer of a block routes anew.",
        default="all",
        choices={"all": "all four", **{part: part for part in PARTS}},
    ),
    Number(
        name="picture",
        label="Picture",
        help="Of the calibration images, task by task.",
        default=0,
        kind=int,
        low=0,
        allowed="a whole number from 0",
    ),
)
