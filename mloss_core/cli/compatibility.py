"""The command `compatibility`: measures compatibility and whether it predicts accuracy drops."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from ..analysis.compatibility import report, words
from ..analysis.compatibility.ensemble_gap import GapMeasured, ensemble_gap
from ..analysis.compatibility.prediction import (
    DropMeasured,
    Study,
    check_studied,
    gathered,
    sets_of,
    study,
)
from ..analysis.compatibility.sets import Compatibility, compatibility_sets, losses_of_sets
from ..analysis.compatibility.sign_conflict import SignsCounted, conflict
from ..analysis.task_vectors import Geometry, geometry
from ..atomic_files import check_output, written
from ..errors import BadValue
from ..evaluation.evaluator import Evaluator
from ..families import family as zoo
from ..families.family import Family
from ..hardware import device as devices
from ..methods import METHODS
from ..recipe import check
from ..types import MergeRecipe


def compatibility(args: argparse.Namespace) -> None:
    """Prints the section of the findings in Markdown, or every number as JSON lines."""
    if args.out:
        check_output(args.out)
    family = zoo.load(args.family)
    recipe = _recipe(args, family, args.method)
    check(recipe, family)
    if METHODS[recipe.method].rule is None:
        problem, remedy = "leaves several models, nothing to judge", "choose a merging method"
        raise BadValue("method", args.method, problem, remedy)
    evaluator = Evaluator(family, devices.choose(args.device))
    m_ties = _recipe(args, family, "m-ties")
    text, rows = judged(recipe, m_ties, evaluator, args.triples, args.json)
    if args.out:
        with written(args.out) as aside:
            aside.write_text(text, encoding="utf-8")
    if args.json:
        _print_rows(*rows)
    else:
        print(text, end="")


def judged(
    recipe: MergeRecipe, m_ties: MergeRecipe, evaluator: Evaluator, triples: int, as_json: bool
) -> tuple[str, tuple[Any, ...]]:
    """The report section in Markdown, and every number as the arguments of `_print_rows`.

    Args:
        recipe: how sets are merged.
        m_ties: of the M-TIES whose distance to the ensemble is measured beside that of TIES.
        triples: random ones, beside all pairs.
        as_json: whether no progress is shown.

    Raises:
        BadValue: nothing could be learned, see `check_studied`.
    """
    family = evaluator.family
    check_studied(recipe, family, triples)
    sets = len(sets_of(len(recipe.sources), triples, recipe.seed))
    events = list(_shown(as_json, study(recipe, evaluator, triples), sets, "set"))
    losses = losses_of_sets(
        m_ties, family, compatibility_sets(m_ties), device=evaluator.device.type
    )
    blocks = tuple(_shown(as_json, losses, family.model.blocks, "block"))
    set_losses = Compatibility(sources=recipe.sources, blocks=blocks)
    moved = geometry(family, recipe.sources)
    outcomes = gathered(recipe, triples, moved, events)
    tasks = family.own_tasks(recipe.sources)
    shown = _shown(as_json, ensemble_gap(m_ties, evaluator, tasks), len(tasks), "task")
    gaps = [event for event in shown if isinstance(event, GapMeasured)]
    signs = conflict(e for e in events if isinstance(e, SignsCounted))
    title = family.about.get("title", family.name)
    text = report.markdown(title, recipe, set_losses, outcomes, gaps)
    return text, (set_losses, moved, signs, outcomes, gaps)


def _recipe(args: argparse.Namespace, family: Family, method: str) -> MergeRecipe:
    """The recipe of a method: the family's recommended settings, unless others are given."""
    given = {k: v for k in ("keep", "scaling") if (v := getattr(args, k)) is not None}
    values: dict[str, Any] = {"variation": 0.0} | family.recommended(method) | given
    if method != "m-ties":
        values["variation"] = 0.0
    elif args.variation is not None:
        values["variation"] = args.variation
    sources = family.sources if args.sources == "all" else tuple(args.sources.split(","))
    fields: dict[str, Any] = {"sources": sources, "samples": args.samples, "seed": args.seed}
    return MergeRecipe(family=family.name, method=method, **fields, **values)


def _shown(as_json: bool, events: Iterator[Any], total: int, unit: str) -> Iterator[Any]:
    """Passes the events on while a progress bar counts those of the unit."""
    counted = {"block": object, "set": DropMeasured, "task": GapMeasured}[unit]
    with tqdm(total=total, unit=unit, disable=as_json or None, leave=False) as bar:
        for event in events:
            if isinstance(event, counted):
                bar.update()
            yield event


def _print_rows(
    set_losses: Compatibility,
    moved: Geometry,
    signs: Float[np.ndarray, "q q"] | None,
    outcomes: Study,
    gaps: Sequence[GapMeasured],
) -> None:
    """Prints every number as JSON lines."""
    for kind, rows in (
        ("Pair", report.pair_rows(set_losses, moved, signs)),
        ("Whole", report.whole_rows(set_losses)),
        ("LeftOut", report.left_out_rows(set_losses)),
        ("Set", report.set_rows(outcomes)),
        ("Correlation", report.correlation_rows(outcomes)),
        ("EnsembleGap", report.gap_rows(gaps)),
    ):
        for row in rows:
            print(json.dumps({"event": kind, **row}))
    for what, size in words.SIZES.items():
        part = outcomes.of_size(size)
        if len(part.sets):
            print(
                json.dumps({"event": "Said", "sets": what, "words": words.prediction(part, what)})
            )
