"""The commands convert, score, merge and evaluate."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from tqdm import tqdm

from ..atomic_files import check_output
from ..checkpoints import image_tower
from ..checkpoints.image_tower import Checkpoint, is_finite, save
from ..data.calibration import load_batch
from ..errors import BadValue, UnknownName
from ..evaluation.attempts import Attempts
from ..evaluation.evaluator import Evaluator, mean_accuracy
from ..families.family import Family, load
from ..families.sanity import doubts
from ..hardware import device as devices
from ..hardware.available import free
from ..memory_estimate import too_much
from ..methods import METHODS
from ..methods.keep_rates import UNMEASURED_RANKS
from ..parallel import thread_map
from ..places import given
from ..recipe import check
from ..run import FULL, Merge, evaluable_tasks, run
from ..runs import store
from ..runs.layout import root
from ..text import plain_table, three_digits_alike
from ..types import (
    BlockScored,
    Event,
    Finished,
    MergeRecipe,
    NodeScores,
    TaskEvaluated,
    Trained,
)
from ..vit import Tower
from . import runs as papers
from .options import (
    PLACE,
    Function,
    command,
    device_option,
    family_option,
    out_option,
    parse_dtype,
    parse_sources,
    parse_tasks,
    part_option,
    recipe_of,
    recipe_options,
    setting,
    sources_option,
    step_bar,
)

SEVERAL = tuple(name for name, method in METHODS.items() if not method.one_model)


@dataclass(frozen=True, kw_only=True)
class Call:
    """What score or merge was called with.

    Args:
        settings: the recipe's fields by name; sources, weights and blocks as text.
    """

    family: str
    method: str
    settings: dict[str, Any]
    calibration: Path | None
    dtype: str
    device: str
    out: Path
    as_json: bool


def _call_options(function: Function) -> Function:
    """The options that score and merge share."""
    for option in (
        click.option(
            "--calibration", type=PLACE, metavar="PATH",
            help="Use exactly the images of this .npz or folder.",
        ),
        click.option(
            "--dtype", default="fp32", metavar="NAME",
            help="Of what is written: fp32, fp16 or bf16.  [default: fp32]",
        ),
        out_option("The .safetensors to write.", required=True),
        recipe_options,
        device_option,
        family_option,
    ):  # fmt: skip
        function = option(function)
    return function


@command()
@click.argument("model", type=PLACE, metavar="IN")
@click.argument("out", type=PLACE, metavar="OUT")
@click.option("--dtype", metavar="NAME", help="fp32, fp16 or bf16.  [default: as it is]")
@part_option
def convert(model: Path, out: Path, dtype: str | None, part: str, as_json: bool) -> None:
    """Writes the image tower of any checkpoint, file or folder, by open_clip's names."""
    check_output(out)
    if dtype is not None:
        parse_dtype(dtype)
    converted = image_tower.convert(model, "model", part)
    _say(f"{model.name} {words}" for words in converted.said)
    tensors, about = converted.tensors, converted.about
    if dtype is not None:
        tensors = _cast(tensors, dtype)
    save(out, tensors, {**about, "dtype": dtype})
    row = {**about, "tensors": len(tensors), "bytes": out.stat().st_size, "said": converted.said}
    if as_json:
        print(json.dumps(row))
    else:
        print(f"converted {len(tensors)} tensors ({about['dialect']}) -> {out}")


@command()
@_call_options
def score(
    family: str,
    calibration: Path | None,
    dtype: str,
    device: str,
    out: Path,
    as_json: bool,
    **settings: Any,
) -> None:
    """Measures the M-Loss of every node along an M-TIES merge."""
    if settings["blocks"] == "none":
        raise BadValue("blocks", "none", "leaves nothing to score", "name a block, or all")
    if settings["ranks"] in UNMEASURED_RANKS:
        problem, remedy = "measures no M-Loss", "leave it out, or merge with it"
        raise BadValue("ranks", settings["ranks"], problem, remedy)
    call = Call(
        family=family, method="m-ties", settings=settings, calibration=calibration,
        dtype=dtype, device=device, out=out, as_json=as_json,
    )  # fmt: skip
    scores, metadata = [], {}
    for event in _events(call):
        if isinstance(event, BlockScored):
            scores.append(event.scores)
        elif isinstance(event, Finished):
            metadata = event.metadata
    squared = {f"squared.{s.block}": s.node_squared for s in scores if s.node_squared is not None}
    tensors = {name: torch.from_numpy(nodes).float() for name, nodes in squared.items()}
    _write(call, store.score_tensors(scores) | tensors, metadata)
    if not as_json:
        heads = ("block", "mean M-Loss", "95 % interval", "layer (Eq. 3)")
        print(plain_table(heads, _score_rows(scores)))


@command()
@setting("method")
@_call_options
@click.option("--card", is_flag=True, help="Also write a model card beside it, FILE.md.")
def merge(
    family: str,
    method: str,
    calibration: Path | None,
    dtype: str,
    device: str,
    out: Path,
    card: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Merges sources into one image tower."""
    if method in METHODS and not METHODS[method].one_model:
        problem = "leaves several models, nothing to write"
        if METHODS[method].per_task:
            problem = "leaves a model per task, no single one to write"
        remedy = f"choose a merging method, or measure it: mloss evaluate --method {method}"
        raise BadValue("method", method, problem, remedy)
    if card:
        check_output(out.with_suffix(".md"), "card")
    call = Call(
        family=family, method=method, settings=settings, calibration=calibration,
        dtype=dtype, device=device, out=out, as_json=as_json,
    )  # fmt: skip
    finished = next(event for event in _events(call) if isinstance(event, Finished))
    assert finished.weights is not None
    _write(call, finished.weights, finished.metadata)
    if card:
        papers.write_card(out, finished)
    if not as_json:
        print(f"merged {method} on {finished.device} in {finished.seconds:.2f} s -> {out}")


@command()
@family_option
@click.option("--model", metavar="FILE", help="An image tower of any dialect, or base.")
@click.option(
    "--method",
    metavar="NAME",
    help=f"Instead of a model, what leaves several: {', '.join(SEVERAL)}.",
)
@sources_option
@click.option(
    "--tasks", default="all", metavar="NAMES", help="all, or names with commas.  [default: all]"
)
@part_option
@device_option
def evaluate(
    family: str, model: str | None, method: str | None, sources: str, tasks: str, part: str,
    device: str, as_json: bool,
) -> None:  # fmt: skip
    """Prints the accuracy of an image tower, or of several models, on each task, with count and
    95 % interval."""
    models = load(family)
    names, place = parse_tasks(tasks, models), devices.choose(device)
    if (model is None) == (method is None):
        shown = f"{model} and {method}" if model else "neither"
        raise BadValue(
            "model", shown, "is not one of --model and --method", "give one of them; see --help"
        )
    if method is not None:
        if method not in SEVERAL:
            raise UnknownName("method", method, SEVERAL)
        recipe = MergeRecipe(family=family, method=method, sources=parse_sources(sources, models))
        events, skipped = _of_several(recipe, models, names, device)
    else:
        assert model is not None, "checked above"
        events, skipped = _of_file(model, part, models, names, place), ()
    _tell(events, names, as_json)
    if skipped:
        print(f"warning: no model for {', '.join(skipped)}: no source of theirs", file=sys.stderr)


def _tell(events: Iterable[TaskEvaluated], names: Sequence[str], as_json: bool) -> None:
    """Prints the accuracies as they come, and their average once all are there."""
    heads = ("task", "accuracy", "95 % interval", "correct")
    longest = "100.00% - 100.00%"
    widths = (max(map(len, ("average", *names))), len(heads[1]), len(longest), len(heads[3]))

    def row(*cells: str) -> None:
        # Above the bar, which goes on below.
        tqdm.write("  ".join(map(str.ljust, cells, widths)).rstrip())

    if not as_json:
        row(*heads)
    hits = {}
    for event in tqdm(events, total=len(names), disable=as_json or None, leave=False):
        hits[event.task] = event.hits
        if as_json:
            print(json.dumps(store.event_json(event)), flush=True)
            continue
        accuracy, (low, high) = event.accuracy, event.accuracy.interval()
        count = f"{accuracy.correct}/{accuracy.total}"
        row(event.task, f"{accuracy.rate:.2%}", f"{low:.2%} - {high:.2%}", count)
    mean, low, high = mean_accuracy(hits)
    if as_json:
        print(json.dumps({"event": "Average", "mean": mean, "low": low, "high": high}))
    else:
        row("average", f"{mean:.2%}", f"{low:.2%} - {high:.2%}", f"{len(hits)} tasks")


def _of_file(
    model: str, part: str, family: Family, tasks: Sequence[str], device: torch.device
) -> Iterator[TaskEvaluated]:
    """The accuracies of one image tower."""
    checkpoint = family.base()
    if model != "base":
        checkpoint = Checkpoint.open(given(model), "model", checkpoint, part)
        _say(f"{checkpoint.path.name} {words}" for words in checkpoint.said)
        checkpoint.check_config(family.base(), family.model)
        checkpoint.audit(family.model.shapes())
        checkpoint.check_finite()
    evaluator, attempts = Evaluator(family, device), Attempts()
    tower = Tower(family.model, checkpoint.load(device))
    for task in tasks:
        start = time.perf_counter()
        with attempts.of(task):
            features = evaluator.features("", lambda: tower, task)
            yield evaluator.judged("model", task, features, start)
    attempts.finish()


def _of_several(
    recipe: MergeRecipe, family: Family, tasks: Sequence[str], device: str
) -> tuple[Iterator[TaskEvaluated], tuple[str, ...]]:
    """The accuracies of a merge that leaves several models, and the tasks that have none."""
    check(recipe, family)
    possible = evaluable_tasks(recipe, tasks)
    if not possible:
        problem = f"have no model: {METHODS[recipe.method].title} has one for each source's task"
        raise BadValue("tasks", ",".join(tasks), problem, "name tasks of the sources")
    events = run(recipe, family, stages=(Merge(), FULL), device=device, tasks=possible)
    evaluated = (event for event in events if isinstance(event, TaskEvaluated))
    return evaluated, tuple(task for task in tasks if task not in possible)


def _events(call: Call) -> Iterator[Event]:
    """The run's events, printed as JSON lines or as a progress bar."""
    check_output(call.out)
    parse_dtype(call.dtype)
    family = load(call.family)
    recipe = recipe_of(family, call.method, call.settings)
    batch = load_batch(call.calibration, family.model) if call.calibration else None
    _warn(recipe, family, call.device)
    options = {"device": call.device, "calibration": batch, "keep": root()}
    events = run(recipe, family, stages=(Merge(),), **options)
    for event in step_bar(events, hidden=call.as_json):
        if call.as_json:
            print(json.dumps(store.event_json(event)), flush=True)
        elif isinstance(event, Trained) and event.note:
            _say([f"training ended early: the rate {event.note}"])
        yield event


def _warn(recipe: MergeRecipe, family: Family, name: str) -> None:
    """Warns on stderr of probable mistakes and of merges that may not fit into memory."""
    check(recipe, family)
    family.read_through(recipe.sources)  # before anybody asks for the base alone
    place = devices.choose(name)
    large = too_much(recipe, family, place, free(place))
    _say((*doubts(family, recipe.sources), *([f"this {large}"] if large else [])))


def _say(warnings: Iterable[str]) -> None:
    for words in warnings:
        print(f"warning: {words}", file=sys.stderr)


def _write(call: Call, tensors: dict[str, Tensor], metadata: dict) -> None:
    save(call.out, _cast(tensors, call.dtype), {**metadata, "dtype": call.dtype})


def _cast(tensors: Mapping[str, Tensor], word: str) -> dict[str, Tensor]:
    """The tensors cast to the named dtype; says how many values that makes zero.

    Raises:
        BadValue: a value is too large for it.
    """
    dtype = parse_dtype(word)
    cast = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    finite = thread_map(is_finite, cast.values(), torch.device("cpu"))
    lost: dict[str, int] = {}
    for (name, tensor), fits in zip(cast.items(), finite, strict=True):
        if not fits:
            large = int((~torch.isfinite(tensor)).sum())
            problem = f"cannot hold {large} values of {name}, up to {tensors[name].abs().max():.3g}"
            raise BadValue("dtype", word, problem, "use fp32 or bf16")
        if tensor is not tensors[name]:
            lost[name] = int(tensors[name].count_nonzero() - tensor.count_nonzero())
    if total := sum(lost.values()):
        worst = max(lost, key=lambda name: lost[name])
        values = sum(tensor.numel() for tensor in cast.values())
        shown = f"{total} of {values} values, most in {worst} ({lost[worst]})"
        _say([f"{word} makes {shown}, zero: they are too small for it; fp32 keeps them"])
    return cast


def _score_rows(scores: Sequence[NodeScores]) -> Iterator[tuple[str, ...]]:
    means = three_digits_alike(value for s in scores for value in s.mean_interval())
    layers = three_digits_alike(s.layer for s in scores)
    for i, s in enumerate(scores):
        mean, low, high = means[3 * i : 3 * i + 3]
        interval = f"{low} to {high}" if len(s.per_image) > 1 else "one image has none"
        yield str(s.block), mean, interval, layers[i]
