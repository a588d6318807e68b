"""The commands convert, score, merge and evaluate."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from ..atomic_files import check_output
from ..checkpoints.image_tower import Checkpoint, convert, save
from ..data.calibration import load_batch
from ..evaluation.evaluator import Evaluator, mean_accuracy
from ..families import family as zoo
from ..families.sanity import doubts
from ..hardware import device
from ..hardware.available import free
from ..memory_estimate import too_much
from ..methods import METHODS
from ..methods.keep_rates import UNMEASURED_RANKS
from ..recipe import check
from ..run import run
from ..runs import store
from ..types import BlockMerged, BlockScored, Event, Finished, MergeRecipe, NodeScores
from ..vit import Tower
from . import arguments
from . import runs as papers


def convert_file(args: argparse.Namespace) -> None:
    """Converts an image tower of any dialect to safetensors with open_clip's names."""
    check_output(args.out)
    if args.dtype is not None:
        arguments.parse_dtype(args.dtype)
    tensors, about = convert(args.model, "IN")
    if args.dtype is not None:
        tensors = _cast(tensors, args.dtype)
    save(args.out, tensors, {**about, "dtype": args.dtype})
    row = {**about, "tensors": len(tensors), "bytes": args.out.stat().st_size}
    if args.json:
        print(json.dumps(row))
    else:
        print(f"converted {len(tensors)} tensors ({about['dialect']}) -> {args.out}")


def score(args: argparse.Namespace) -> None:
    """Writes every block's node scores to a safetensors file, one tensor `block.<l>` each."""
    args.method = "m-ties"
    if args.blocks == "none":
        raise arguments.BadValue(
            "--blocks", "none", "leaves nothing to score", "name a block, or all"
        )
    if args.ranks in UNMEASURED_RANKS:
        problem, remedy = "measures no M-Loss", "leave it out, or merge with it"
        raise arguments.BadValue("--ranks", args.ranks, problem, remedy)
    scores, metadata = [], {}
    for event in _events(args):
        if isinstance(event, BlockScored):
            scores.append(event.scores)
        elif isinstance(event, Finished):
            metadata = event.metadata
    squared = {f"squared.{s.block}": s.node_squared for s in scores if s.node_squared is not None}
    tensors = {name: torch.from_numpy(nodes).float() for name, nodes in squared.items()}
    _write(args, store.score_tensors(scores) | tensors, metadata)
    if not args.json:
        _table(("block", "mean M-Loss", "95 % interval", "layer (Eq. 3)"), _score_rows(scores))


def merge(args: argparse.Namespace) -> None:
    """Merges the sources and writes the merged image tower."""
    if args.method in METHODS and METHODS[args.method].rule is None:
        problem = "leaves several models, nothing to write"
        if METHODS[args.method].per_task:
            problem = "leaves a model a task, no single one to write; the app shows its accuracy"
        raise arguments.BadValue("--method", args.method, problem, "choose a merging method")
    if args.card:
        check_output(args.out.with_suffix(".md"), "--card")
    finished = next(event for event in _events(args) if isinstance(event, Finished))
    assert finished.weights is not None
    _write(args, finished.weights, finished.metadata)
    if args.card:
        papers.write_card(args, finished)
    if not args.json:
        print(
            f"merged {args.method} on {finished.device} in {finished.seconds:.2f} s -> {args.out}"
        )


def evaluate(args: argparse.Namespace) -> None:
    """Prints the accuracy of an image tower on each task, with count and 95 % interval."""
    family = zoo.load(args.family)
    tasks = arguments.parse_tasks(args.tasks, family)
    place = device.choose(args.device)
    if args.model == "base":
        checkpoint = family.base()
    else:
        checkpoint = Checkpoint.open(arguments.Path(args.model), "--model")
        checkpoint = checkpoint.completed(family.base())
        checkpoint.audit(family.model.shapes())
        checkpoint.check_finite()
    evaluator = Evaluator(family, place)
    tower = Tower(family.model, checkpoint.load(place))
    hits, rows = {}, []
    for task in tqdm(tasks, disable=args.json or None, leave=False):
        start = time.perf_counter()
        event = evaluator.judged("model", task, evaluator.features("", lambda: tower, task), start)
        hits[task] = event.hits
        low, high = event.accuracy.interval()
        count = f"{event.accuracy.correct}/{event.accuracy.total}"
        rows.append((task, f"{event.accuracy.rate:.1%}", f"{low:.1%} - {high:.1%}", count))
        if args.json:
            print(json.dumps(store.event_json(event)), flush=True)
    mean, low, high = mean_accuracy(hits)
    if args.json:
        print(json.dumps({"event": "Average", "mean": mean, "low": low, "high": high}))
    else:
        rows.append(("average", f"{mean:.1%}", f"{low:.1%} - {high:.1%}", f"{len(tasks)} tasks"))
        _table(("task", "accuracy", "95 % interval", "correct"), rows)


def _events(args: argparse.Namespace) -> Iterator[Event]:
    """The run's events, printed as JSON lines or as a progress bar."""
    check_output(args.out)
    arguments.parse_dtype(args.dtype)
    family = zoo.load(args.family)
    recipe = arguments.recipe_of(args, family)
    batch = load_batch(args.calibration, family.model) if args.calibration else None
    _warn(recipe, family, args.device)
    with tqdm(
        total=family.model.blocks, unit="block", disable=args.json or None, leave=False
    ) as bar:
        for event in run(recipe, family, device=args.device, calibration=batch):
            if args.json:
                print(json.dumps(store.event_json(event)), flush=True)
            elif isinstance(event, BlockMerged):
                bar.update()
            yield event


def _warn(recipe: MergeRecipe, family: zoo.Family, name: str) -> None:
    """Warns on stderr of probable mistakes and of merges that may not fit into memory."""
    check(recipe, family)
    place = device.choose(name)
    large = too_much(recipe, family, place, free(place))
    for words in (*doubts(family, recipe.sources), *([f"this {large}"] if large else [])):
        print(f"warning: {words}", file=sys.stderr)


def _write(args: argparse.Namespace, tensors: dict[str, Tensor], metadata: dict) -> None:
    save(args.out, _cast(tensors, args.dtype), {**metadata, "dtype": args.dtype})


def _cast(tensors: dict[str, Tensor], word: str) -> dict[str, Tensor]:
    """The tensors cast to the named dtype; raises BadValue where one overflows."""
    dtype = arguments.parse_dtype(word)
    cast = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    for name, tensor in cast.items():
        if not torch.isfinite(tensor).all():
            problem = f"cannot hold {name}, whose values are too large"
            raise arguments.BadValue("--dtype", word, problem, "use fp32 or bf16")
    return cast


def _score_rows(scores: Sequence[NodeScores]) -> Iterator[tuple[str, ...]]:
    for s in scores:
        mean, low, high = s.mean_interval()
        yield str(s.block), f"{mean:.5f}", f"{low:.5f} - {high:.5f}", f"{s.layer:.4f}"


def _table(heads: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> None:
    lines = [heads, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    for line in lines:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )
