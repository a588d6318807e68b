"""Link fields of the Compatibility page."""

from __future__ import annotations

from mloss_core import METHODS
from mloss_core.analysis.compatibility.prediction import MAIN
from mloss_core.analysis.compatibility.words import TITLES
from mloss_core.fields import Choice
from mloss_core.mloss import MEASURES

RULES = ("ties", "simple-average")  # by which the prediction study merges
FIELDS = (
    Choice(
        name="measure",
        label="M-Loss of a block",
        help="Eq. 3 is the length of the gap over all nodes of a layer, Eq. 6 the same divided "
        "by the length of the merged activation, Eq. 4 the mean gap of a node.",
        default=MAIN,
        choices={name: words[0].upper() + words[1:] for name, words in MEASURES.items()},
    ),
    Choice(
        name="pair_block",
        label="Blocks",
        help="Of which block M-Loss and sign conflict are shown; cosines are of all tensors.",
        default="all",
        choices={"all": "all blocks"},
    ),
    Choice(
        name="rule",
        label="Merged by",
        default=RULES[0],
        choices={rule: METHODS[rule].title for rule in RULES},
    ),
    Choice(name="predictor", label="Known before", default=MAIN, choices=TITLES),
)


def pair_blocks(count: int) -> dict[str, str]:
    """The words of `pair_block` for a model of so many blocks."""
    return {"all": "all blocks", **{str(b): f"block {b}" for b in range(count)}}
