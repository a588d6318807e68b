"""The commands heads, pool and fetch, which prepare a family."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
from tqdm import tqdm

from ..data.datasets import datasets_root
from ..errors import BadFile, UnknownName
from ..families import download
from ..families.download import can_fetch, fetch_base, fetch_dataset
from ..families.family import load, task_names
from ..families.folders import find
from ..families.heads import FILE, make_heads
from ..families.layouts import TOML, layout
from ..families.pool import FILE as POOL
from ..families.pool import make_pool
from .options import command, family_argument


@command()
@family_argument
def heads(family: str, as_json: bool) -> None:
    """Makes zero-shot heads from the base's text tower."""
    models = load(family)
    loose = models.parts.heads
    prompts = {task: models.prompts(task) for task in models.tasks if task not in loose}
    if not prompts or models.text_file is None:
        problem = "has no task that lacks a head"
        raise BadFile("family", models.folder, problem, f"name tasks in its {TOML}")
    path, total = models.folder / FILE, sum(len(p.classes) for p in prompts.values())
    activation, width = models.model.activation, models.model.embed_dim
    with tqdm(total=total, unit="class", disable=as_json or None, leave=False) as bar:
        steps = make_heads(path, models.name, prompts, models.text_file, activation, width)
        for done in steps:
            bar.update(done - bar.n)
    if as_json:
        print(json.dumps({"written": str(path), "tasks": list(prompts), "classes": total}))
    else:
        print(f"made heads of {len(prompts)} tasks, {total} classes -> {path}")


@command()
@family_argument
@click.option(
    "--each", type=int, default=64, metavar="IMAGES", help="Images of each task.  [default: 64]"
)
def pool(family: str, each: int, as_json: bool) -> None:
    """Makes calibration images from the tasks' validation images."""
    models = load(family)
    steps = make_pool(models, each)
    done = list(tqdm(steps, unit="task", disable=as_json or None, leave=False))
    path = models.folder / POOL
    if as_json:
        print(json.dumps({"written": str(path), "tasks": done}))
    else:
        print(f"took up to {each} images of each of {len(done)} tasks -> {path}")


@command()
@family_argument
@click.option(
    "--tasks", default="all", metavar="NAMES",
    help="all, none, or names with commas.  [default: all]",
)  # fmt: skip
def fetch(family: str, tasks: str, as_json: bool) -> None:
    """Downloads a family's base and the datasets of its tasks."""
    folder = find(family)
    for what, place, get in _wanted(folder, tasks):
        with contextlib.redirect_stdout(sys.stderr):  # torchvision prints what it does
            new = get()
        if as_json:
            print(json.dumps({"fetched": what, "place": str(place), "new": new}), flush=True)
        else:
            print(f"{what:16} {'fetched' if new else 'was there'} -> {place}", flush=True)


def _wanted(folder: Path, selection: str) -> Iterator[tuple[str, Path, Callable[[], bool]]]:
    """Downloads of a family: name, place and function of each."""
    parts = layout(folder)
    task_names(folder, parts)  # raises for a bad family.toml
    named = {task["name"]: task["dataset"] for task in parts.about["tasks"] if "dataset" in task}
    # Pictures in tasks/ go before the dataset, so that there is nothing to fetch for them.
    needed = [task for task in named if not (folder / "tasks" / task).is_dir()]
    chosen = {"all": needed, "none": []}.get(selection, selection.split(","))
    for task in chosen:
        if task not in named:
            raise UnknownName("tasks", task, ("all", "none", *named))
    base, root = str(parts.about.get("base", "")), datasets_root(folder)
    if base and (download.pretrained(base) or not (parts.base and parts.base.exists())):
        yield base, folder / base, partial(fetch_base, folder, base)
    for task in sorted(chosen, key=lambda task: not can_fetch(named[task])):
        place = root if named[task] != "RESISC45" else folder / "tasks" / task
        yield named[task], place, partial(fetch_dataset, place, named[task])
