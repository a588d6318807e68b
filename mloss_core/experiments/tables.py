"""Table rows of an experiment: accuracies with intervals, seconds, memory and cost."""

from __future__ import annotations

import csv
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..architecture import ViTConfig
from ..evaluation.evaluator import mean_accuracy
from ..evaluation.paired_test import Answers
from ..fields import FIELDS
from ..methods import METHODS
from ..places import assets
from ..runs.store import RunRecord
from ..types import Accuracy, MergeRecipe
from .cost import Cost, cost, towers
from .perform import CellDone

PAPER = assets() / "paper"
NAMES = {"base": "Base", "own": "Own sources"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model of an experiment's table.

    Args:
        recipe: None for base and own sources, which nothing merged.
        answers: task -> whether each test image's answer was correct.
        seconds, peak: of merging, measured; peak in bytes, None where unknown.
        tried: settings that were tried on validation images before this one.
    """

    label: str
    recipe: MergeRecipe | None
    answers: Answers
    cost: Cost | None
    towers: int
    seconds: float | None
    peak: int | None
    tried: int = 0

    @property
    def one_model(self) -> bool:
        """Whether it is a merge that left one model."""
        return self.recipe is not None and METHODS[self.recipe.method].one_model

    @property
    def needs(self) -> str:
        """What the method was allowed to see besides the models; empty where nothing merges."""
        return METHODS[self.recipe.method].needs if self.recipe else ""

    def accuracy(self, task: str) -> Accuracy:
        """The accuracy on a task: correct and total."""
        return Accuracy(correct=int(self.answers[task].sum()), total=len(self.answers[task]))

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean over the tasks and its 95 % interval."""
        return mean_accuracy(self.answers)


def rows(cells: Sequence[CellDone], model: ViTConfig) -> list[Row]:
    """Rows of the models measured on test images, in the order of the plan, without searches."""
    table = []
    tried = Counter(done.cell.recipe.method for done in cells if done.cell.split == "val")
    for done in cells:
        cell, record = done.cell, done.record
        if cell.split != "test":
            continue
        for name in cell.beside:
            if name in NAMES and name in record.hits:
                table.append(_row(NAMES[name], None, record.hits[name], None, None, None))
        if "merged" in record.hits:
            row = row_of(cell.label, cell.recipe, record, model)
            table.append(dataclasses.replace(row, tried=tried[cell.recipe.method]))
    return table


def row_of(label: str, recipe: MergeRecipe, record: RunRecord, model: ViTConfig) -> Row:
    """The row of a finished run's own model, which was evaluated."""
    merged, price = record.hits["merged"], cost(recipe, model)
    return _row(label, recipe, merged, price, record.seconds, record.peak)


def _row(
    label: str,
    recipe: MergeRecipe | None,
    answers: Answers,
    price: Cost | None,
    seconds: float | None,
    peak: int | None,
) -> Row:
    running = towers(recipe) if recipe else 1
    return Row(
        label=label, recipe=recipe, answers=answers, cost=price, towers=running,
        seconds=seconds, peak=peak,
    )  # fmt: skip


def settings(recipe: MergeRecipe | None, reads: Sequence[str]) -> str:
    """Text of k, e and lambda, as far as the method reads them, and of what else is unusual."""
    if recipe is None:
        return ""
    words = [
        f"{FIELDS[name].symbol} = {getattr(recipe, name):g}"
        for name in ("keep", "variation", "scaling", "ridge", "rho")
        if name in reads
    ]
    words += [
        f"{name.replace('_', '-')} {getattr(recipe, name):g}"
        for name in ("off_diagonal", "steps", "rate")
        if name in reads and getattr(recipe, name) is not None
    ]
    choices = ("start", "matrices", "qkv", "rest", "after", "norms", "coefficients", "vectors")
    words += [FIELDS[name].words(getattr(recipe, name)) for name in choices if name in reads]
    return ", ".join(filter(None, words))


def percent(rate: float, low: float, high: float) -> str:
    """Text of a rate with its 95 % interval, in percent."""
    return f"{100 * rate:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def published(name: str) -> list[Mapping[str, str]]:
    """The paper's own numbers, or those of its authors' released logs: never measured here."""
    with (PAPER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
