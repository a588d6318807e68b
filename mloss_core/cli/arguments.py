"""The command line's argument parser, and functions that turn argument text into values."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

import torch

from ..analysis.compatibility.prediction import TRIPLES
from ..architecture import ViTConfig
from ..errors import BadValue, InputError, UnknownName
from ..families.family import Family
from ..methods import METHODS
from ..types import CHOICES, MergeRecipe

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises InputError, one line, instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError with argparse's words and where to find help."""
        raise InputError("command line", "", message, f"see {self.prog} --help")


def build_parser() -> Parser:
    """The parser of `python -m mloss_core`."""
    parser = Parser(prog="python -m mloss_core", description="Score, merge and evaluate models.")
    commands = parser.add_subparsers(dest="command", required=True)
    families = commands.add_parser("families", help="list the families found")
    convert = commands.add_parser("convert", help="write any dialect's image tower as ours")
    score = commands.add_parser("score", help="M-Loss of every node along an M-TIES merge")
    merge = commands.add_parser("merge", help="merge sources into one image tower")
    evaluate = commands.add_parser("evaluate", help="accuracy of an image tower")
    heads = commands.add_parser("heads", help="zero-shot heads from the base's text tower")
    fetch = commands.add_parser("fetch", help="download a family's base and datasets")
    pool = commands.add_parser("pool", help="calibration images from the tasks' validation images")
    experiment = commands.add_parser("experiment", help="redo a table of the paper")
    compatible = commands.add_parser("compatibility", help="whether M-Loss predicts mergeability")
    rerun = commands.add_parser("rerun", help="do a finished run again and compare the bytes")
    export = commands.add_parser("export", help="a run's model as another library's folder")
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="print JSON lines")
    families.add_argument(
        "--init", type=Path, metavar="FOLDER", help="write a family.toml for a folder of models"
    )
    convert.add_argument("model", type=Path, metavar="IN", help="a checkpoint, file or folder")
    convert.add_argument("out", type=Path, metavar="OUT", help="the .safetensors to write")
    convert.add_argument("--dtype", help="fp32, fp16 or bf16 (as it is)")
    for command in (heads, fetch, pool):
        command.add_argument("family", metavar="FAMILY", help="name of the family")
    pool.add_argument("--each", type=int, default=64, help="images of each task (64)")
    fetch.add_argument("--tasks", default="all", help="all, none, or names with commas (all)")
    for command in (score, merge, evaluate, experiment, compatible):
        command.add_argument("--family", default="demo", help="name of the family (demo)")
        command.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (auto)")
    for command in (score, merge):
        _recipe_arguments(command)
    _run_arguments(rerun, export)
    merge.add_argument("--card", action="store_true", help="write a model card beside it, FILE.md")
    merge.add_argument("--method", default="m-ties", help="a merging method (m-ties)")
    evaluate.add_argument("--model", required=True, help="an image tower of any dialect, or base")
    evaluate.add_argument("--tasks", default="all", help="all, or names with commas (all)")
    _experiment_arguments(experiment)
    _compatibility_arguments(compatible)
    return parser


def _compatibility_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of compatibility; merge settings default to the family's."""
    command.add_argument("--sources", default="all", help="three or more, with commas (all)")
    command.add_argument("--method", default="ties", help="how sets are merged (ties)")
    for name in ("keep", "variation", "scaling"):
        command.add_argument(f"--{name}", type=float, help="as for merge (the recommended one)")
    command.add_argument("--samples", type=int, default=128, help="calibration images drawn (128)")
    command.add_argument("--seed", type=int, default=42, help="of images and of triples (42)")
    command.add_argument(
        "--triples", type=int, default=TRIPLES, help=f"random triples, with pairs ({TRIPLES})"
    )
    command.add_argument("--out", type=Path, metavar="FILE.md", help="also write the section")


def _run_arguments(rerun: argparse.ArgumentParser, export: argparse.ArgumentParser) -> None:
    """Adds the arguments of the commands rerun and export."""
    for command in (rerun, export):
        command.add_argument("run", metavar="RUN", help="a run's id: the name of its folder")
    rerun.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (auto)")
    export.add_argument("--out", type=Path, required=True, help="the folder to write")
    export.add_argument(
        "--as", dest="format", default="hugging-face", help="hugging-face (the only one yet)"
    )


def _recipe_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments that score and merge share."""
    default = MergeRecipe(family="demo", method="m-ties", sources=("a", "b"))
    for name, meaning in (
        ("keep", "base keep rate k, a share in (0, 1]"),
        ("variation", "pruning variation e, a share in [0, k]"),
        (
            "scaling",
            "lambda, the factor on the merged task vector; lambda / q a task",
        ),
        ("samples", "calibration images drawn"),
        ("seed", "of the draw, and of random masks"),
    ):
        value = getattr(default, name)
        help_text = f"{meaning} ({value:g})"
        command.add_argument(f"--{name}", type=type(value), default=value, help=help_text)
    command.add_argument("--tokens", type=int, help="tokens of an image that are measured (all)")
    precision = "of the measured products: fp32 or bf16 (fp32)"
    command.add_argument("--precision", default=default.precision, help=precision)
    for name, meaning in (
        ("inputs_from", "the model that feeds the measured blocks"),
        ("scores", "what ranks the nodes"),
        ("ranks", "what decides the keep rates; the others are controls, equal trims rows alike"),
        ("scope", "of TIES' threshold"),
    ):
        usual, *others = CHOICES[name]
        help_text = f"{meaning}: {usual} or {', '.join(others)} ({usual})"
        command.add_argument(f"--{name.replace('_', '-')}", default=usual, help=help_text)
    command.add_argument("--sources", default="all", help="names with commas (all)")
    command.add_argument("--weights", help="merging weights with commas (1/q each)")
    command.add_argument("--blocks", default="all", help="node-wise blocks: all, none, 0,8-10")
    command.add_argument(
        "--calibration", type=Path, help="use exactly the images of this .npz or folder"
    )
    command.add_argument("--dtype", default="fp32", help="of what is written: fp32, fp16, bf16")
    command.add_argument("--out", type=Path, required=True, help="the .safetensors to write")


def _experiment_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of experiment: its name and the recipe that it varies."""
    command.add_argument("name", metavar="NAME", help="an experiment, or all")
    for name, kind in (("keep", float), ("variation", float), ("scaling", float)):
        meaning = "of the recipe that is varied (as the family recommends)"
        command.add_argument(f"--{name}", type=kind, help=meaning)
    command.add_argument("--samples", type=int, help="calibration images (128)")
    command.add_argument("--seed", type=int, help="of the draw (42)")
    command.add_argument("--sources", default="all", help="names with commas (all)")
    command.add_argument("--out", type=Path, help="the Markdown file to write")


def recipe_of(args: argparse.Namespace, family: Family) -> MergeRecipe:
    """The recipe that the arguments ask for; raises InputError."""
    method = getattr(args, "method", "m-ties")
    # A default that the method never reads must not be refused.
    unread = method in METHODS and "variation" not in METHODS[method].reads
    sources = family.sources if args.sources == "all" else tuple(args.sources.split(","))
    return MergeRecipe(
        family=family.name,
        method=method,
        sources=sources,
        weights=parse_weights(args.weights) if args.weights is not None else None,
        keep=args.keep,
        variation=0.0 if unread else args.variation,
        scaling=args.scaling,
        blocks=parse_blocks(args.blocks, family.model),
        samples=args.samples,
        seed=args.seed,
        tokens=args.tokens,
        precision=args.precision,
        **{name: getattr(args, name) for name in CHOICES},
    )


def parse_blocks(text: str, model: ViTConfig) -> tuple[int, ...] | None:
    """Block numbers of "all" (None), "none", or a list such as "0,8-10"; raises BadValue."""
    if text == "all":
        return None
    if text == "none":
        return ()
    chosen: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise BadValue("--blocks", text, f"has a part {part!r}", "write all, none or 0,8-10")
        low, high = int(first), int(last if dash else first)
        if high < low:
            raise BadValue(
                "--blocks", text, f"has the reversed range {part}", "put the lower first"
            )
        if high >= model.blocks:
            problem = f"names block {high}"
            raise BadValue("--blocks", text, problem, f"blocks are 0 to {model.blocks - 1}")
        chosen.update(range(low, high + 1))
    return tuple(sorted(chosen))


def parse_weights(text: str) -> tuple[float, ...]:
    """Merging weights from numbers with commas; raises BadValue."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise BadValue("--weights", text, "is not numbers with commas", "write 0.5,0.5") from error


def parse_dtype(text: str) -> torch.dtype:
    """The dtype of that name; raises UnknownName."""
    if text not in DTYPES:
        raise UnknownName("--dtype", text, DTYPES)
    return DTYPES[text]


def parse_tasks(text: str, family: Family) -> tuple[str, ...]:
    """Task names from "all" or names with commas; raises UnknownName."""
    if text == "all":
        return family.tasks
    for name in text.split(","):
        if name not in family.tasks:
            raise UnknownName("--tasks", name, ("all", *family.tasks))
    return tuple(dict.fromkeys(text.split(",")))
