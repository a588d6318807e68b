"""The command `experiment`: measures cells with progress, and prints or writes the tables."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from ..analysis.compatibility.prediction import LEAST, TRIPLES
from ..atomic_files import check_output, written
from ..errors import UnknownName
from ..experiments.perform import CellDone, count, perform, start_recipe
from ..experiments.plans import EXPERIMENTS
from ..experiments.report import report, section
from ..experiments.tables import rows
from ..families import family as zoo
from ..families.family import Family
from ..hardware import device
from ..runs.cells import Lab
from ..types import MergeRecipe
from .compatibility import judged


def experiment(args: argparse.Namespace) -> None:
    """Measures one experiment, or all, and prints its Markdown or writes it to --out."""
    if args.name not in (*EXPERIMENTS, "all"):
        raise UnknownName("experiment", args.name, (*EXPERIMENTS, "all"))
    if args.out is not None:
        check_output(args.out)
    family = zoo.load(args.family)
    start = _start(args, family)
    lab = Lab(family, device.choose(args.device))
    names = list(EXPERIMENTS) if args.name == "all" else [args.name]
    outcomes = {name: list(_measured(name, family, start, lab, args.json)) for name in names}
    place = lab.device.type
    if args.name == "all":
        text = report(family, start, outcomes, place) + _mergeability(start, lab, args.json)
    else:
        text = "\n\n".join(section(args.name, family, outcomes[args.name])) + "\n"
    if args.out is not None:
        with written(args.out) as aside:
            aside.write_text(text, encoding="utf-8")
    if not args.json:
        print(text if args.out is None else f"wrote {args.out}")


def _mergeability(start: MergeRecipe, lab: Lab, as_json: bool) -> str:
    """The report's section on predicting accuracy drops; empty for too few sources."""
    family = lab.family
    tested = tuple(s for s in start.sources if family.own_task(s) in family.tasks)
    if len(tested) < LEAST:
        return ""
    start = dataclasses.replace(start, sources=tested, weights=None)
    settings = family.recommended("ties") | {"variation": 0.0}
    ties = dataclasses.replace(start, method="ties", **settings)
    return "\n" + judged(ties, start, lab.evaluators["test"], TRIPLES, as_json)[0]


def _start(args: argparse.Namespace, family: Family) -> MergeRecipe:
    """The recipe that experiments vary: the family's recommended one, changed by the arguments."""
    changes: dict[str, Any] = {
        name: getattr(args, name)
        for name in ("keep", "variation", "scaling", "samples", "seed")
        if getattr(args, name) is not None
    }
    if args.sources != "all":
        changes["sources"] = tuple(args.sources.split(","))
    return start_recipe(family, **changes)


def _measured(
    name: str, family: Family, start: MergeRecipe, lab: Lab, as_json: bool
) -> Iterator[CellDone]:
    total = count(name, family, start)
    with tqdm(total=total, unit="cell", desc=name, disable=as_json or None, leave=False) as bar:
        for event in perform(name, family, start, lab=lab):
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
