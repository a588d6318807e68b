"""The command `experiment`: measures cells with progress, and prints or writes the tables."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from ..analysis.compatibility.prediction import LEAST, TRIPLES
from ..atomic_files import check_output, written
from ..errors import BadValue, UnknownName
from ..experiments.experts import Grid, experts
from ..experiments.perform import CellDone, cells_of, perform, start_recipe
from ..experiments.plans import EXPERIMENTS
from ..experiments.report import report, section
from ..experiments.steps import Plan
from ..experiments.tables import rows
from ..families.family import Family, load
from ..hardware import device as devices
from ..runs.cells import Lab
from ..runs.engines import Engine
from ..text import normal
from ..training.settings import SETTINGS
from ..types import MergeRecipe
from .compatibility import judged
from .engines import Opener, engine_options
from .options import (
    Function,
    command,
    device_option,
    family_option,
    out_option,
    parse_sources,
    setting,
    sources_option,
    varied,
)

# Settings of a fine-tune that the grid of experts varies, and the option that lists their values.
GRID = {"rate": "--rates", "steps": "--steps", "batch": "--batches"}


def _grid(function: Function) -> Function:
    """The options of the experiment experts: its grid."""
    function = click.option(
        "--tasks", metavar="NAMES", help="Of experts: that they are fine-tuned on."
    )(function)
    for name, flag in reversed(GRID.items()):
        words = f"Of experts: {SETTINGS[name].label.lower()}, each of these."
        function = click.option(flag, name, metavar="LIST", help=words)(function)
    return function


@command()
@click.argument("name", metavar="NAME")
@family_option
@sources_option
@varied("keep", "variation", "scaling")
@setting("samples", None, "128")
@setting("seed", None, "42")
@_grid
@engine_options
@device_option
@out_option("The Markdown file to write.")
def experiment(
    name: str,
    family: str,
    engine: Opener,
    device: str,
    out: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Redoes a table of the paper, or all of them, and prints it in Markdown."""
    if name not in (*EXPERIMENTS, "all"):
        raise UnknownName("experiment", name, (*EXPERIMENTS, "all"))
    if out is not None:
        check_output(out)
    models = load(family)
    grid = _grid_of(name, {key: settings.pop(key) for key in (*GRID, "tasks")})
    start = _start(models, settings)
    lab = Lab(models, devices.choose(device))
    names = list(EXPERIMENTS) if name == "all" else [name]
    outcomes, of_sets = {}, ""
    with engine(lab.device) as where:
        for n in names:
            plan = experts(models, start, grid) if grid else EXPERIMENTS[n].plan(models, start)
            outcomes[n] = list(_measured(n, plan, start, lab, as_json, where))
        if name == "all":
            of_sets = _mergeability(start, lab, as_json, where)
    if name == "all":
        text = report(models, start, outcomes, lab.device.type) + of_sets
    else:
        text = "\n\n".join(section(name, models, outcomes[name])) + "\n"
    if out is not None:
        with written(out) as aside:
            aside.write_text(text, encoding="utf-8")
    if not as_json:
        print(text if out is None else f"wrote {out}")


def _mergeability(start: MergeRecipe, lab: Lab, as_json: bool, engine: Engine | None) -> str:
    """The report's section on predicting accuracy drops; empty for too few sources."""
    family = lab.family
    tested = tuple(s for s in start.sources if family.own_task(s) in family.tasks)
    if len(tested) < LEAST:
        return ""
    start = dataclasses.replace(start, sources=tested, weights=None)
    settings = family.recommended("ties") | {"variation": 0.0}
    ties = dataclasses.replace(start, method="ties", **settings)
    return "\n" + judged(ties, start, lab.evaluators["test"], TRIPLES, as_json, engine)[0]


def _start(family: Family, settings: Mapping[str, Any]) -> MergeRecipe:
    """The recipe that experiments vary: the family's recommended one, changed by the options."""
    changes = {name: value for name, value in settings.items() if value is not None}
    sources = changes.pop("sources")
    if sources != "all":
        changes["sources"] = parse_sources(sources, family)
    return start_recipe(family, **changes)


def _grid_of(name: str, given: Mapping[str, str | None]) -> Grid | None:
    """The grid of experts that the options ask for, the usual one where they leave it open; None
    where none was given. Raises BadValue for options that the experiment does not read."""
    texts = {key: text for key, text in given.items() if text is not None}
    if not texts:
        return None
    if name != "experts":
        key, text = next(iter(texts.items()))
        raise BadValue(key, text, f"is nothing that {name} reads", "leave it out")
    values = {k: tuple(map(SETTINGS[k].parse, texts[k].split(","))) for k in GRID if k in texts}
    tasks = tuple(normal(texts["tasks"]).split(",")) if "tasks" in texts else None
    return Grid(tasks=tasks, **values)


def _measured(
    name: str, plan: Plan, start: MergeRecipe, lab: Lab, as_json: bool, engine: Engine | None
) -> Iterator[CellDone]:
    total, family = cells_of(plan), lab.family
    with tqdm(total=total, unit="cell", desc=name, disable=as_json or None, leave=False) as bar:
        for event in perform(name, family, start, lab=lab, plan=plan, engine=engine):
            if isinstance(event, CellDone):
                bar.update()
                if as_json:
                    print(json.dumps(_json(name, event, family)), flush=True)
                yield event


def _json(name: str, done: CellDone, family: Family) -> dict[str, Any]:
    """A cell's outcome as one JSON object."""
    accuracies = {}
    for row in rows([dataclasses.replace(done, cell=dataclasses.replace(done.cell, split="test"))],
                    family.model):  # fmt: skip
        mean, low, high = row.mean
        tasks = {t: [row.accuracy(t).correct, row.accuracy(t).total] for t in row.answers}
        accuracies[row.label] = {"mean": mean, "low": low, "high": high, "tasks": tasks}
    return {
        "event": "CellDone", "experiment": name, "label": done.cell.label,
        "split": done.cell.split, "run": done.record.id, "cached": done.cached,
        "done": done.done, "total": done.total, "seconds": done.seconds, "models": accuracies,
    }  # fmt: skip
