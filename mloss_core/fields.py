"""The fields of a recipe, in one table: what each is called, what it may be, how it is written.

MergeRecipe's checks, the app's widgets and links, the options of the command line, model cards and
summaries are loops over this table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from .errors import BadValue, UnknownName, shown
from .text import normal

MOST_BLOCKS = 1000  # in any model: a range of blocks must not fill the memory


@dataclass(frozen=True, kw_only=True)
class Field:
    """One setting, which people give as text: in a link, in a widget or as an option.

    Args:
        name: what the library calls it; of a recipe's fields the name of the attribute.
        label: what the app calls it.
        help: what it does, in one or two sentences.
        default: its value unless given.
        unit: what is counted or given; it stands for the value in an option's help.
        flag: its option of the command line; empty where there is none.
        link: its key in a link; empty where there is none.
        symbol: its letter in formulas and summaries.
        choices: where it is one of a few words, each word and what the app calls it; the first
            is the usual one. Empty also where the words are known only elsewhere: the methods.
    """

    name: str
    label: str
    help: str = ""
    default: Any = ""
    unit: str = "name"
    flag: str = ""
    link: str = ""
    symbol: str = ""
    choices: Mapping[str, str] = field(default_factory=dict)

    def parse(self, text: str) -> Any:
        """The value that a text stands for; raises InputError, which names this field."""
        return text

    def format(self, value: Any) -> str:
        """The text that `parse` reads as this value."""
        return str(value)

    def check(self, value: Any) -> None:
        """Raises InputError unless the value is possible by itself."""

    def words(self, value: Any) -> str:
        """An unusual value in words; empty where the value says enough by itself."""
        return ""

    def summary(self, value: Any) -> str:
        """The value in a few words of a summary; empty where it goes without saying."""
        return ""


@dataclass(frozen=True, kw_only=True)
class Number(Field):
    """A number within bounds.

    Args:
        kind: float, or int for whole numbers.
        low, high: the least and the highest value.
        above: whether the value must be above `low`.
        allowed: what may be given, in words.
        optional: whether None, an empty text, is a value, too.
    """

    kind: type = float
    low: int | float = -math.inf
    high: int | float = math.inf
    above: bool = False
    allowed: str
    optional: bool = False

    def parse(self, text: str) -> Any:
        if self.optional and not text:
            return None
        try:
            value = self.kind(text)
        except ValueError as error:
            problem = "is not a whole number" if self.kind is int else "is not a number"
            raise BadValue(self.name, text, problem, f"give {self.allowed}") from error
        self.check(value)
        return value

    def format(self, value: Any) -> str:
        if value is None:
            return ""
        # As short as it can be without changing the number.
        if self.kind is float and float(short := f"{value:g}") == value:
            return short
        return str(value)

    def check(self, value: Any) -> None:
        if value is None and self.optional:
            return
        number = cast(float, value)
        least = number > self.low if self.above else number >= self.low
        # A whole number can be too large to be tested as a float.
        if least and number <= self.high and (self.kind is int or math.isfinite(number)):
            return
        if self.kind is int:
            problem = f"is below {self.low:g}" if number < self.low else "is too large"
        elif math.isfinite(self.high):
            problem = f"is outside {'(' if self.above else '['}{self.low:g}, {self.high:g}]"
        elif math.isfinite(number):
            problem = f"is not above {self.low:g}" if self.above else f"is below {self.low:g}"
        else:
            problem = "is not a finite number"
        raise BadValue(self.name, value, problem, f"give {self.allowed}")

    def summary(self, value: Any) -> str:
        return f"{self.symbol} = {value:g}" if self.symbol and value is not None else ""


@dataclass(frozen=True, kw_only=True)
class Choice(Field):
    """One of a few words.

    Args:
        unusual: what a summary says of words other than the usual one.
    """

    unusual: Mapping[str, str] = field(default_factory=dict)

    def parse(self, text: str) -> str:
        self.check(text)
        return text

    def check(self, value: Any) -> None:
        if self.choices and value not in self.choices:
            raise UnknownName(self.name, value, filter(None, self.choices))

    def summary(self, value: Any) -> str:
        return self.words(value)

    def words(self, value: Any) -> str:
        return self.unusual.get(value, "")


@dataclass(frozen=True, kw_only=True)
class Names(Field):
    """Several names, with commas between them."""

    def parse(self, text: str) -> tuple[str, ...]:
        return tuple(name for name in normal(text).split(",") if name)

    def format(self, value: Any) -> str:
        return ",".join(value)


@dataclass(frozen=True, kw_only=True)
class Weights(Field):
    """Numbers with commas between them, one per source; empty, or None, for equal ones."""

    def parse(self, text: str) -> tuple[float, ...] | None:
        return parse_weights(text) if text else None

    def format(self, value: Any) -> str:
        return "" if value is None else ",".join(map(repr, value))


@dataclass(frozen=True, kw_only=True)
class Blocks(Field):
    """Block numbers; None for all.

    Args:
        count: how many blocks the model has.
    """

    count: int = MOST_BLOCKS

    def parse(self, text: str) -> tuple[int, ...] | None:
        return parse_blocks(text, self.count)

    def format(self, value: Any) -> str:
        return "all" if value is None else ",".join(map(str, value)) or "none"

    def summary(self, value: Any) -> str:
        return "" if value is None else f"blocks {self.format(value)}"


def parse_blocks(text: str, count: int = MOST_BLOCKS) -> tuple[int, ...] | None:
    """Block numbers of "all" (None), "none", or a list such as "0,8-10"; raises BadValue.

    Args:
        count: how many blocks the model has.
    """
    if text == "all":
        return None
    if text == "none":
        return ()
    chosen: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(part) > 19:
            problem = f"has a part {shown(part)!r}"
            raise BadValue("blocks", text, problem, "write all, none or 0,8-10")
        low, high = int(first), int(last if dash else first)
        if high < low:
            raise BadValue("blocks", text, f"has the reversed range {part}", "put the lower first")
        if high >= count:
            raise BadValue("blocks", text, f"names block {high}", f"blocks are 0 to {count - 1}")
        chosen.update(range(low, high + 1))
    return tuple(sorted(chosen))


def parse_weights(text: str) -> tuple[float, ...]:
    """Merging weights from numbers with commas; raises BadValue."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise BadValue("weights", text, "is not numbers with commas", "write 0.5,0.5") from error


FIELDS: dict[str, Field] = {
    entry.name: entry
    for entry in (
        Field(
            name="family",
            label="Family",
            help="The family of models: a folder with a base and its fine-tunes.",
            default="demo",
            flag="--family",
            link="family",
        ),
        Choice(
            name="method",
            label="Method",
            help="How the sources are merged.",
            default="m-ties",
            flag="--method",
            link="method",
        ),
        Names(
            name="sources",
            label="Sources",
            help="The fine-tuned models to merge: two or more, each once.",
            default=(),
            unit="names",
            flag="--sources",
            link="sources",
        ),
        Weights(
            name="weights",
            label="Merging weights",
            help="The share of each source in the merge, in the sources' order, summing to 1. "
            "Equal weights are simple averaging.",
            default=None,
            unit="numbers",
            flag="--weights",
            link="weights",
        ),
        Number(
            name="keep",
            label="Base keep rate k",
            help="Share of each task vector's entries that is kept, in (0, 1]: the largest "
            "changes, or with DARE random ones.",
            default=0.2,
            unit="share",
            flag="--keep",
            link="keep",
            symbol="k",
            low=0,
            high=1,
            above=True,
            allowed="a share above 0 and at most 1, such as 0.2",
        ),
        Number(
            name="variation",
            label="Pruning variation e",
            help="A share in [0, k]. In each block the node of the highest M-Loss keeps k - e, "
            "the node of the lowest keeps k.",
            default=0.1,
            unit="share",
            flag="--variation",
            link="variation",
            symbol="e",
            low=0,
            high=1,
            allowed="a share from 0 to k, such as 0.1",
        ),
        Number(
            name="scaling",
            label="Scaling λ",
            help="Factor on the merged task vector before it is added to the base.",
            default=1.0,
            unit="factor",
            flag="--scaling",
            link="scaling",
            symbol="λ",
            allowed="a finite number, such as 1",
        ),
        Blocks(
            name="blocks",
            label="Blocks trimmed by M-Loss",
            help="Blocks that are trimmed node by node, by M-Loss; the others are trimmed as in "
            "plain TIES. Few are often enough: the paper uses 0, 8, 9, 10 of 12.",
            default=None,
            unit="blocks",
            flag="--blocks",
            link="blocks",
        ),
        Number(
            name="samples",
            label="Calibration images",
            help="Unlabeled images that M-Loss is measured on, drawn evenly over the sources' "
            "tasks. 128 as in the paper.",
            default=128,
            unit="images",
            flag="--samples",
            link="samples",
            kind=int,
            low=1,
            allowed="at least 1 image",
        ),
        Number(
            name="seed",
            label="Seed",
            help="Of the draw of images, of DARE's random masks and of random ranks.",
            default=42,
            unit="number",
            flag="--seed",
            link="seed",
            kind=int,
            low=0,
            high=2**63 - 1,
            allowed="a whole number from 0 to 2^63 - 1",
        ),
        Number(
            name="tokens",
            label="Tokens per image",
            help="M-Loss is measured on so many tokens of each image, drawn at random. A quarter "
            "of them gives nearly the same ranks in about half the time.",
            default=None,
            unit="tokens",
            flag="--tokens",
            link="tokens",
            kind=int,
            low=1,
            allowed="at least 1 token, or leave it out for all",
            optional=True,
        ),
        Choice(
            name="precision",
            label="Precision of the measured products",
            help="Of the products that M-Loss is measured on. bf16 is faster only where the "
            "processor computes in it.",
            default="fp32",
            flag="--precision",
            link="precision",
            choices={"fp32": "fp32", "bf16": "bf16"},
            unusual={"bf16": "measured in bf16"},
        ),
        Choice(
            name="inputs_from",
            label="Inputs of a block come from",
            help="The model that the calibration images run through on their way to each block.",
            default="merged",
            flag="--inputs-from",
            link="inputs",
            choices={
                "merged": "the model merged so far (paper)",
                "pretrained": "the base (released code)",
            },
            unusual={"pretrained": "inputs from the base"},
        ),
        Choice(
            name="scores",
            label="Nodes are ranked by",
            help="What ranks the nodes of a block. Squares give a few large gaps more say. The "
            "heatmap always shows Eq. 4.",
            default="absolute",
            flag="--scores",
            link="loss",
            choices={
                "absolute": "M-Loss, Eq. 4 (paper)",
                "squared": "squared M-Loss (released code)",
            },
            unusual={"squared": "squared scores"},
        ),
        Choice(
            name="ranks",
            label="Ranks",
            help="What decides the keep rates. The first three deal the same rates to different "
            "nodes. With equal ranks every row gets their mean, k - e/2: it is trimmed alike.",
            default="m-loss",
            flag="--ranks",
            link="ranks",
            choices={
                "m-loss": "by M-Loss: high keeps less",
                "random": "control: drawn at random, nothing measured",
                "reversed": "control: reversed, high keeps most",
                "equal": "control: rows trimmed alike, nothing measured",
            },
            unusual={
                "random": "random ranks",
                "reversed": "reversed ranks",
                "equal": "rows trimmed alike",
            },
        ),
        Choice(
            name="scope",
            label="Scope of k",
            help="Whether k of every tensor is kept, or k of all entries together: then more "
            "where fine-tuning changed more.",
            default="tensor",
            flag="--scope",
            link="scope",
            choices={"tensor": "each tensor", "global": "whole task vector"},
            unusual={"global": "global trim"},
        ),
        Choice(
            name="matrices",
            label="Matrices",
            help="Which tensors a rule of matrices treats as such: those of its publication, all "
            "of two dimensions, or the linear layers of the blocks.",
            default="published",
            flag="--matrices",
            link="matrices",
            choices={
                "published": "as published",
                "all": "all of two dimensions",
                "layers": "linear layers of blocks",
            },
            unusual={"all": "all matrices", "layers": "linear layers only"},
        ),
        Choice(
            name="qkv",
            label="Queries, keys, values",
            help="One matrix, as stored and as published, or three.",
            default="stacked",
            flag="--qkv",
            link="qkv",
            choices={"stacked": "one matrix", "split": "three"},
            unusual={"split": "q, k, v split"},
        ),
        Choice(
            name="rest",
            label="All other tensors",
            help="What becomes of tensors that a rule of matrices does not treat.",
            default="published",
            flag="--rest",
            link="rest",
            choices={
                "published": "as published",
                "mean": "mean of the sources",
                "base": "stay the base's",
            },
            unusual={"mean": "rest averaged", "base": "rest from the base"},
        ),
        Choice(
            name="after",
            label="After the merge",
            help="SVC scales each singular direction of the merged matrices back to what the "
            "sources have there, where several count it twice.",
            default="nothing",
            flag="--after",
            link="after",
            choices={"nothing": "nothing", "svc": "calibrate singular values (SVC)"},
            unusual={"svc": "then SVC"},
        ),
        Choice(
            name="norms",
            label="Norms of the task vectors",
            help="As they are, or all scaled to their mean. Unequal norms let one source drown "
            "the others, worst in methods of singular values.",
            default="own",
            flag="--norms",
            link="norms",
            choices={"own": "as they are", "equal": "all at their mean"},
            unusual={"equal": "norms made equal"},
        ),
        Choice(
            name="images",
            label="Images of a source",
            help="Which images a method takes for those of a source's task: its own, or as "
            "controls those of the next source's task, or noise.",
            default="own",
            flag="--images",
            link="images",
            choices={
                "own": "of its own task",
                "others": "control: of the next source's task",
                "noise": "control: random pixels",
            },
            unusual={"others": "images of other tasks", "noise": "images of noise"},
        ),
        Choice(
            name="start",
            label="Starts from",
            help="The merge without images that the fit starts from.",
            default="iso-c",
            flag="--start",
            link="start",
            choices={
                "iso-c": "Iso-C",
                "tsv-m": "TSV-M",
                "wudi-closed": "WUDI, closed form",
                "ties": "TIES",
                "simple-average": "simple average",
            },
            unusual={
                "tsv-m": "from TSV-M",
                "wudi-closed": "from WUDI",
                "ties": "from TIES",
                "simple-average": "from the average",
            },
        ),
        Number(
            name="ridge",
            label="Ridge μ",
            help="How strongly the fit is drawn to what it starts from, relative to the mean of a "
            "layer's Gram diagonal: more where images are few.",
            default=10.0,
            unit="factor",
            flag="--ridge",
            link="ridge",
            symbol="μ",
            low=1e-3,  # below it Gram matrices of fp32 activations are rounded by more
            high=1e12,
            allowed="a number from 0.001 to 1e12, such as 10",
        ),
        Number(
            name="off_diagonal",
            label="Off-diagonal factor",
            help="On the off-diagonal entries of RegMean's Gram matrices: 1 is plain regression, 0 "
            "weighs each input alone.",
            default=0.95,
            unit="factor",
            flag="--off-diagonal",
            link="offdiagonal",
            low=0,
            high=1,
            allowed="a factor from 0 to 1, such as 0.95",
        ),
        Number(
            name="steps",
            label="Steps of the optimizer",
            help="Empty means as published: WUDI 300, AdaMerging 500, SAMerging 1000.",
            default=None,
            unit="steps",
            flag="--steps",
            link="steps",
            kind=int,
            low=1,
            high=1_000_000,
            allowed="at least 1 step, or leave it out",
            optional=True,
        ),
        Number(
            name="rate",
            label="Learning rate",
            help="Adam's. Empty means as published: WUDI 0.00001, the others 0.001.",
            default=None,
            unit="rate",
            flag="--rate",
            link="rate",
            low=0,
            above=True,
            allowed="a rate above 0, such as 0.001",
            optional=True,
        ),
        Number(
            name="rho",
            label="Radius ρ of SAM",
            help="How far the coefficients are perturbed, relative to each; 0 is plain "
            "distillation, the control.",
            default=0.07,
            unit="radius",
            flag="--rho",
            link="rho",
            symbol="ρ",
            low=0,
            allowed="a radius from 0, such as 0.07",
        ),
        Choice(
            name="coefficients",
            label="Coefficients",
            help="One for each tensor of a source, or one for the whole source.",
            default="tensor",
            flag="--coefficients",
            link="coefficients",
            choices={"tensor": "one per tensor", "source": "one per source"},
            unusual={"source": "one coefficient per source"},
        ),
        Choice(
            name="vectors",
            label="Task vectors",
            help="Plain ones, or each tensor trimmed to its share k first (AdaMerging++).",
            default="plain",
            flag="--vectors",
            link="vectors",
            choices={"plain": "plain", "trimmed": "trimmed (++)"},
            unusual={"trimmed": "trimmed vectors (++)"},
        ),
    )
}

# Fields that choose between the paper's own way, which is the default, and others.
WAYS = (
    *("inputs_from", "scores", "ranks", "scope"),
    *("matrices", "qkv", "rest", "after", "norms", "images", "coefficients", "vectors"),
)
