"""The command `compatibility`: measures compatibility and whether it predicts accuracy drops."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from ..analysis.compatibility import report, words
from ..analysis.compatibility.ensemble_gap import GapMeasured, ensemble_gap
from ..analysis.compatibility.prediction import (
    TRIPLES,
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
from ..families.family import Family, load
from ..hardware import device as devices
from ..methods import METHODS
from ..recipe import check
from ..runs.engines import Engine
from ..types import MergeRecipe
from .engines import Opener, engine_options
from .options import (
    command,
    device_option,
    family_option,
    out_option,
    parse_sources,
    setting,
    sources_option,
    varied,
)


@command()
@family_option
@sources_option
@setting("method", "ties")
@varied("keep", "variation", "scaling")
@setting("samples")
@setting("seed")
@click.option(
    "--triples", type=int, default=TRIPLES, metavar="NUMBER",
    help=f"Random triples that are merged beside all pairs.  [default: {TRIPLES}]",
)  # fmt: skip
@engine_options
@device_option
@out_option("Also write the section to this Markdown file.")
def compatibility(
    family: str,
    method: str,
    triples: int,
    engine: Opener,
    device: str,
    out: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Measures whether M-Loss predicts what merges of three or more sources lose."""
    if out:
        check_output(out)
    models = load(family)
    recipe = _recipe(models, method, settings)
    check(recipe, models)
    if not METHODS[recipe.method].one_model:
        problem, remedy = "leaves several models, nothing to judge", "choose a merging method"
        raise BadValue("method", method, problem, remedy)
    evaluator = Evaluator(models, devices.choose(device))
    m_ties = _recipe(models, "m-ties", settings)
    with engine(evaluator.device) as where:
        text, rows = judged(recipe, m_ties, evaluator, triples, as_json, where)
    if out:
        with written(out) as aside:
            aside.write_text(text, encoding="utf-8")
    if as_json:
        _print_rows(*rows)
    else:
        print(text, end="")


def judged(
    recipe: MergeRecipe,
    m_ties: MergeRecipe,
    evaluator: Evaluator,
    triples: int,
    as_json: bool,
    engine: Engine | None = None,
) -> tuple[str, tuple[Any, ...]]:
    """The report section in Markdown, and every number as the arguments of `_print_rows`.

    Args:
        recipe: how sets are merged.
        m_ties: of the M-TIES whose distance to the ensemble is measured beside that of TIES.
        triples: random ones, beside all pairs.
        as_json: whether no progress is shown.
        engine: where sets are merged and evaluated; None for this process.

    Raises:
        BadValue: nothing could be learned, see `check_studied`.
    """
    family = evaluator.family
    check_studied(recipe, family, triples)
    sets = len(sets_of(len(recipe.sources), triples, recipe.seed))
    events = list(_shown(as_json, study(recipe, evaluator, triples, engine), sets, "set"))
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


def _recipe(family: Family, method: str, settings: Mapping[str, Any]) -> MergeRecipe:
    """The recipe of a method: the family's recommended settings, unless others are given."""
    given = {name: value for name, value in settings.items() if value is not None}
    given["sources"] = parse_sources(given["sources"], family)
    values: dict[str, Any] = {"variation": 0.0} | family.recommended(method) | given
    if method != "m-ties":
        values["variation"] = 0.0
    return MergeRecipe(family=family.name, method=method, **values)


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
