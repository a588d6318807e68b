"""What commands share: options made from FIELDS, and what their texts mean."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import click
import torch
from tqdm import tqdm

from ..errors import UnknownName
from ..families.family import Family
from ..fields import FIELDS, Choice, Field, Number, parse_blocks, parse_weights
from ..methods import METHODS
from ..places import given
from ..recipe import published
from ..text import normal
from ..types import Event, MergeRecipe, Planned, as_shares
from .named import Command

Function = TypeVar("Function", bound=Callable[..., Any])
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Recipe fields in the order in which help lists them.
SETTINGS = (
    *("sources", "weights", "keep", "variation", "scaling", "blocks", "samples", "seed"),
    *("tokens", "precision", "inputs_from", "scores", "ranks", "scope"),
    *("matrices", "qkv", "rest", "after", "norms", "images", "start", "ridge", "off_diagonal"),
    *("steps", "rate", "rho", "coefficients", "vectors"),
)
# Of these a method may have published settings of its own.
PUBLISHED = ("keep", "variation", "scaling", "samples")


class FieldType(click.ParamType):
    """The values of a recipe's field."""

    def __init__(self, field: Field):
        self.field = field
        self.name = field.unit

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value of an option's text; a default stays as it is."""
        return self.field.parse(value) if isinstance(value, str) else value


class PlaceType(click.ParamType):
    """A path, with ~ for one's own folder, which a shell leaves as it is behind = and in quotes."""

    name = "path"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The path of an option's text; a default stays as it is."""
        return given(value) if isinstance(value, str) else value


PLACE = PlaceType()


def command(name: str | None = None) -> Callable[[Callable[..., None]], Command]:
    """Makes a function a command; the docstring is its help. Every command takes --json."""

    def decorate(function: Callable[..., None]) -> Command:
        json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
        return click.command(name, cls=Command)(json_option(function))

    return decorate


def setting(name: str, default: Any = ..., shown: str = "") -> Callable[[Function], Function]:
    """The option of a recipe's field.

    Args:
        default: instead of the field's own.
        shown: the default in words, where its value says too little.
    """
    field = FIELDS[name]
    value = field.default if default is ... else default
    # Sources, weights and blocks can be told only with the family at hand.
    parsed = FieldType(field) if isinstance(field, Number | Choice) else str
    words = f" One of {', '.join(field.choices)}." if field.choices else ""
    usual = shown or (field.format(value) if parsed is not str else value)
    return click.option(
        field.flag, name, type=parsed, default=value, metavar=field.unit.upper(),
        help=f"{field.help}{words}  [default: {usual}]",
    )  # fmt: skip


def recipe_options(function: Function) -> Function:
    """The options of every field of a recipe but family and method."""
    words = {"sources": "all", "blocks": "all", "weights": "1/q each", "tokens": "all"}
    words |= {"steps": "as published", "rate": "as published"}
    for name in reversed(SETTINGS):
        default = "all" if name in ("sources", "blocks") else ...
        if name in PUBLISHED:
            words[name] = f"{FIELDS[name].format(FIELDS[name].default)} unless published otherwise"
            default = None
        function = setting(name, default, words.get(name, ""))(function)
    return function


def varied(*names: str) -> Callable[[Function], Function]:
    """Options of fields that are as the family recommends unless given."""

    def decorate(function: Function) -> Function:
        for name in reversed(names):
            function = setting(name, None, "as the family recommends")(function)
        return function

    return decorate


def step_bar(events: Iterable[Event], hidden: bool) -> Iterator[Event]:
    """Passes a run's events on while a progress bar counts the steps that its first one plans."""
    with tqdm(unit="step", disable=hidden or None, leave=False) as bar:
        for event in events:
            if isinstance(event, Planned):
                bar.reset(event.steps)
            else:
                bar.update()
            yield event


family_option = setting("family")
sources_option = setting("sources", "all")
device_option = click.option(
    "--device", default="auto", metavar="NAME", help="auto, cpu, cuda or mps.  [default: auto]"
)
family_argument = click.argument("family", metavar="FAMILY")
part_option = click.option(
    "--part", default="", metavar="NAME", help="Which of several models in the file, such as ema."
)


def out_option(help: str, required: bool = False) -> Callable[[Function], Function]:
    """The option --out: what is written, which must not exist."""
    return click.option("--out", type=PLACE, required=required, metavar="PATH", help=help)


def recipe_of(family: Family, method: str, settings: Mapping[str, Any]) -> MergeRecipe:
    """The recipe that the options ask for; raises InputError."""
    values = dict(settings)
    values["sources"] = parse_sources(values["sources"], family)
    usual = published(method, family, values["sources"])
    for name in PUBLISHED:
        if values[name] is None:
            values[name] = usual.get(name, FIELDS[name].default)
    # A default that the method never reads must not be refused.
    if method in METHODS and "variation" not in METHODS[method].reads:
        values["variation"] = 0.0
    if values["weights"] is not None:
        values["weights"] = _shares(values["weights"])
    values["blocks"] = parse_blocks(values["blocks"], family.model.blocks)
    return MergeRecipe(family=family.name, method=method, **values)


def _shares(text: str) -> tuple[float, ...]:
    """Merging weights; those that miss a sum of 1 by their few digits are scaled, which is said."""
    weights = parse_weights(text)
    scaled = as_shares(weights)
    if scaled != weights:
        total = f"sum to {math.fsum(weights):.6g}, not 1"
        print(f"warning: --weights {text}: {total}; they were divided by it", file=sys.stderr)
    return scaled


def parse_sources(text: str, family: Family) -> tuple[str, ...]:
    """Names of sources from "all" or names with commas."""
    return family.sources if text == "all" else FIELDS["sources"].parse(text)


def parse_dtype(text: str) -> torch.dtype:
    """The dtype of that name; raises UnknownName."""
    if text not in DTYPES:
        raise UnknownName("dtype", text, DTYPES)
    return DTYPES[text]


def parse_tasks(text: str, family: Family) -> tuple[str, ...]:
    """Task names from "all" or names with commas; raises UnknownName."""
    if text == "all":
        return family.tasks
    names = normal(text).split(",")
    for name in names:
        if name not in family.tasks:
            raise UnknownName("tasks", name, ("all", *family.tasks))
    return tuple(dict.fromkeys(names))
