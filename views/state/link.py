"""Fields of a link: the query string's keys in their order, with defaults and allowed values."""

from __future__ import annotations

import re
from dataclasses import replace

from mloss_core import METHODS, Family, InputError
from mloss_core.experiments import EXPERIMENTS
from mloss_core.fields import FIELDS as OF_RECIPE
from mloss_core.fields import Choice, Field, Number, parse_blocks
from mloss_core.runs.layout import PLAIN
from views.state import (
    compatibility_fields,
    explain_fields,
    lab_fields,
    methods_fields,
    selection,
    theory_fields,
    tour_steps,
)
from views.state.checked import Checked

NARROW = 1500  # nodes of a block: a model with fewer is drawn in finer groups
COLOURS = {"log": "log", "linear": "linear", "rank": "rank"}
BY = {"mloss": "M-Loss", "keep": "keep rate", "kept": "kept", "left": "left after the merge"}
SCORES = {"raw": "raw", "normalised": "normalised"}
LIVE = {"": "for small families", "on": "on", "off": "off"}
VIEWS = {"full": "full", "lecture": "lecture"}  # "lecture" hides what a class does not need
# Recipe fields by their keys in a link.
RECIPE = {field.link: field for field in OF_RECIPE.values() if field.link}
METHOD = replace(RECIPE["method"], choices={name: m.title for name, m in METHODS.items()})


def _check_run(value: str) -> None:
    if value and not PLAIN.fullmatch(value):
        raise ValueError("give a run's id")


def _check_saved(value: str, blocks: int | None = None) -> None:
    """Choices of blocks with names; of a model with so many blocks, where that is known."""
    for chosen in selection.named(value).values():
        try:
            parse_blocks(chosen, *([blocks] if blocks else []))
        except InputError as error:
            raise ValueError(f"{chosen[:40]} {error.problem}: {error.remedy}") from error


def _check_node(value: str, blocks: int = 1, nodes: int = 1) -> None:
    """A node in the map is written "block:node"."""
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", value)
    if value and not (match and int(match[1]) < blocks and int(match[2]) < nodes):
        raise ValueError(f"the family's nodes run from 0:0 to {blocks - 1}:{nodes - 1}")


OF_APP = (
    Checked(name="saved", label="Named choices of blocks", rule=_check_saved),
    Number(
        name="group",
        label="Nodes per group",
        help="Each cell is the mean of so many consecutive nodes; the paper uses 50.",
        default=50,
        kind=int,
        low=1,
        allowed="at least 1 node",
    ),
    Choice(
        name="colours",
        label="Colours",
        help="M-Loss is heavy-tailed: log shows the layers, linear the outliers, rank the "
        "order. Ticks show real values in all three.",
        default="log",
        choices=COLOURS,
    ),
    Choice(name="by", label="Colour", default="mloss", choices=BY),
    Choice(
        name="scores",
        label="Scores",
        help="Normalised divides each loss by the size of the merged activation (Eq. 7).",
        default="raw",
        choices=SCORES,
    ),
    Field(name="score_job", label="Job of the map"),
    Field(name="merge_job", label="Job of the merge"),
    Checked(name="reference", label="Reference run", rule=_check_run),
    Choice(
        name="experiment",
        label="Experiment",
        default=next(iter(EXPERIMENTS)),
        choices={name: f"{e.title} ({e.paper})" for name, e in EXPERIMENTS.items()},
    ),
    Field(name="experiment_job", label="Job of the experiment"),
    Checked(name="node", label="Node", rule=_check_node),
    Choice(name="view", label="View", default="full", choices=VIEWS),
    Checked(name="tour", label="Step of the tour", rule=tour_steps.check),
    Choice(name="live", label="Live", choices=LIVE),
    *theory_fields.FIELDS,
    *compatibility_fields.FIELDS,
    *explain_fields.FIELDS,
    *methods_fields.FIELDS,
    *lab_fields.FIELDS,
)
# Everything that makes up a link, in this order.
FIRST = (
    *("family", "sources", "weights", "method", "keep", "variation", "scaling", "blocks", "saved"),
    *("samples", "tokens", "seed", "precision", "inputs", "loss", "ranks", "scope"),
)
_ALL = RECIPE | {field.name: field for field in OF_APP} | {"method": METHOD}
FIELDS: dict[str, Field] = {key: _ALL[key] for key in dict.fromkeys((*FIRST, *_ALL))}


def defaults(family: Family, pool: int) -> dict[str, str]:
    """What a first visit starts from: all sources, M-TIES as the family's makers recommend.

    Args:
        pool: calibration images that there are.
    """
    tuned = family.recommended("m-ties")
    of_family = {
        "family": family.name,
        "sources": family.sources,
        "samples": min(FIELDS["samples"].default, pool),
        "tokens": family.model.tokens,
        "group": FIELDS["group"].default if family.model.nodes >= NARROW else 16,
        **{key: tuned[key] for key in ("keep", "variation", "scaling") if key in tuned},
    }
    return {key: field.format(of_family.get(key, field.default)) for key, field in FIELDS.items()}


def fields(family: Family) -> dict[str, Field]:
    """The fields, with what the family alone knows: how many blocks and nodes there are."""
    count, nodes = family.model.blocks, family.model.nodes
    blocks = replace(RECIPE["blocks"], count=count)
    pairs = replace(FIELDS["pair_block"], choices=compatibility_fields.pair_blocks(count))
    saved = replace(FIELDS["saved"], rule=lambda value: _check_saved(value, count))
    node = replace(FIELDS["node"], rule=lambda value: _check_node(value, count, nodes))
    of_family = {"blocks": blocks, "pair_block": pairs, "saved": saved, "node": node}
    return FIELDS | of_family | lab_fields.of_family(family)
