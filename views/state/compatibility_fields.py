"""Link fields of the Compatibility page: their defaults and allowed values."""

from __future__ import annotations

from mloss_core import Family
from mloss_core.analysis.compatibility.prediction import MAIN, RIVALS
from mloss_core.mloss import MEASURES

RULES = ("ties", "simple-average")  # by which the prediction study merges
DEFAULTS = {"measure": MAIN, "pair_block": "all", "rule": RULES[0], "predictor": MAIN}


def choices(family: Family) -> dict[str, tuple[str, ...]]:
    """What each of these fields may be."""
    blocks = ("all", *map(str, range(family.model.blocks)))
    predictors = (*MEASURES, *RIVALS)
    return {
        "measure": tuple(MEASURES), "pair_block": blocks, "rule": RULES, "predictor": predictors
    }  # fmt: skip
