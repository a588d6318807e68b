"""Query-string fields of a link: their order, defaults and validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mloss_core import METHODS, Family
from mloss_core.cli.arguments import parse_blocks, parse_weights
from mloss_core.experiments import EXPERIMENTS
from mloss_core.runs.layout import PLAIN
from mloss_core.types import CHOICES
from views.state import compatibility_fields as compatibility_choices
from views.state import explain_fields as why_choice
from views.state import selection
from views.state import theory_fields as theory_choice
from views.state import tour_steps as tour

# Everything that makes up a link: its text form in the URL, in this order.
FIELDS = (
    "family", "sources", "weights", "method", "keep", "variation", "scaling", "blocks", "saved",
    "samples", "tokens", "seed", "inputs", "loss", "ranks", "scope",
    "group", "colours", "scores", "score_job", "merge_job", "reference",
    "experiment", "experiment_job", "node", "view", "tour",
    "live",
    *theory_choice.DEFAULTS, *compatibility_choices.DEFAULTS, *why_choice.DEFAULTS,
)  # fmt: skip
# Fields of a recipe whose values are words, by their keys in a link ("scores" is the heatmap's).
WORDS = {"inputs": "inputs_from", "loss": "scores", "ranks": "ranks", "scope": "scope"}
COLOURS = ("log", "linear", "rank")
SCORES = ("raw", "normalised")
LIVE = ("", "on", "off")  # "": on for small families
VIEWS = ("full", "lecture")  # "lecture" hides what a class does not need


def defaults(family: Family, pool: int) -> dict[str, str]:
    """What a first visit starts from: all sources, M-TIES as the family's makers recommend.

    Args:
        pool: calibration images that there are.
    """
    tuned = family.recommended("m-ties")
    return {
        "family": family.name,
        "sources": ",".join(family.sources),
        "weights": "",
        "method": "m-ties",
        "keep": f"{tuned.get('keep', 0.2):g}",
        "variation": f"{tuned.get('variation', 0.1):g}",
        "scaling": f"{tuned.get('scaling', 1.0):g}",
        "blocks": "all",
        "saved": "",
        "samples": str(min(128, pool)),
        "tokens": str(family.model.tokens),
        "seed": "42",
        **{key: CHOICES[field][0] for key, field in WORDS.items()},
        "group": "50" if family.model.nodes >= 1500 else "16",
        "colours": COLOURS[0],
        "scores": SCORES[0],
        "score_job": "",
        "merge_job": "",
        "reference": "",
        "experiment": next(iter(EXPERIMENTS)),
        "experiment_job": "",
        "node": "",
        "view": VIEWS[0],
        "tour": "",
        "live": LIVE[0],
        **theory_choice.DEFAULTS,
        **compatibility_choices.DEFAULTS,
        **why_choice.DEFAULTS,
    }


def check_field(key: str, chosen: Mapping[str, str], family: Family) -> None:
    """Raises InputError or ValueError if one field of a link makes no sense by itself."""
    value = chosen[key]
    if key in ("keep", "variation", "scaling"):
        float(value)
    elif key in ("samples", "tokens", "seed", "group"):
        if int(value) < (0 if key == "seed" else 1):
            raise ValueError("it is below the least")
    elif key == "blocks":
        parse_blocks(value, family.model)
    elif key == "saved":
        for blocks in selection.named(value).values():
            parse_blocks(blocks, family.model)
    elif key == "weights" and value:
        parse_weights(value)
    elif key == "reference" and value and not PLAIN.fullmatch(value):
        raise ValueError("it is no run's id")
    elif key == "node" and value:
        _check_node(value, family)
    elif key == "tour":
        tour.check(value)
    elif key in (words := _words(family)):
        allowed = words[key]
        if value not in allowed:
            raise ValueError(f"choose from {', '.join(allowed)}")
    else:
        theory_choice.check(key, value)
        why_choice.check(key, value)


def _check_node(value: str, family: Family) -> None:
    """A node in the map is written "block:node"."""
    block, node = (int(part) for part in value.split(":"))
    if not (0 <= block < family.model.blocks and 0 <= node < family.model.nodes):
        most = f"{family.model.blocks - 1}:{family.model.nodes - 1}"
        raise ValueError(f"the family's nodes run from 0:0 to {most}")


def _words(family: Family) -> Mapping[str, Sequence[str]]:
    """The fields that are one of a few words."""
    allowed: dict[str, Sequence[str]] = {
        "colours": COLOURS, "scores": SCORES, "view": VIEWS, "method": tuple(METHODS),
        "experiment": tuple(EXPERIMENTS), "live": LIVE, **why_choice.choices(),
    }  # fmt: skip
    recipe = {key: CHOICES[field] for key, field in WORDS.items()}
    return allowed | recipe | compatibility_choices.choices(family)
