"""The Markdown report docs/findings.md: a dated section for every experiment."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from ..evaluation.paired_test import RULE
from ..families.family import Family
from ..methods import METHODS
from ..text import markdown_table
from ..types import MergeRecipe
from ..version import __version__
from .claims import claims
from .expert_words import tables as expert_tables
from .perform import CellDone
from .plans import EXPERIMENTS
from .tables import Row, percent, published, rows, settings

# Heading, title, experiment, and which of its cells: one experiment may redo several tables.
SECTIONS: tuple[tuple[str, str, str, Callable[[MergeRecipe], bool]], ...] = (
    ("Table 1", "methods", "methods", lambda recipe: True),
    ("Beside Table 1", "keep rate and variation", "keep-and-variation", lambda recipe: True),
    ("Table 2", "sample size", "samples", lambda recipe: recipe.seed == 42),
    ("Table 3", "seed of the draw", "samples", lambda recipe: recipe.samples == 128),
    ("Table 4", "out of domain", "out-of-domain", lambda recipe: True),
    ("Table 5", "few blocks", "few-blocks", lambda recipe: True),
    ("Beside Table 1", "our fit of activations", "fit", lambda recipe: True),
    ("Beside the paper", "heterogeneous experts", "experts", lambda recipe: True),
    ("Controls", "rows trimmed alike, random and reversed ranks", "controls", lambda recipe: True),
)


def report(
    family: Family, start: MergeRecipe, outcomes: Mapping[str, Sequence[CellDone]], device: str
) -> str:
    """The whole report in Markdown.

    Args:
        outcomes: by experiment; those that are missing are left out.
    """
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    parts = [
        f"# What survives on the family {family.name}",
        f"Written on {today} by `python -m mloss_core experiment all --family {family.name} --out "
        f"FILE.md` (mloss_core {__version__}, torch {torch.__version__}, {device}, "
        f"{platform.machine()}). {settings_of(start)} Accuracies are percentages with 95 % "
        "intervals: Wilson's per task, and combined from those for the mean over tasks "
        f"(Newcombe's method). {RULE} Intervals of differences are bootstrapped. Settings are "
        "chosen on validation images only. What the paper or its authors' released logs say stands "
        "under *Published*, and was not measured here.",
    ]
    for heading, title, name, wanted in SECTIONS:
        if name in outcomes:
            parts += [f"## {heading}: {title}"]
            cells = [done for done in outcomes[name] if wanted(done.cell.recipe)]
            parts += list(section(name, family, cells))
    parts += [
        "## Table 6: few blocks of ViT-L/14",
        "Needs a family of ViT-L/14, which this project does not embed. With one in "
        "`$MLOSS_MODELS`: `python -m mloss_core experiment few-blocks --family NAME`.",
        _published_table("paper_table6_fewlayer_vitl14.csv"),
    ]
    return "\n\n".join(parts) + "\n"


def settings_of(start: MergeRecipe) -> str:
    """A sentence on the recipe that experiments vary."""
    return (
        f"Unless a row says otherwise: {len(start.sources)} sources, "
        f"{settings(start, METHODS[start.method].reads)}, {start.samples} calibration images, "
        f"seed {start.seed}."
    )


def section(name: str, family: Family, cells: Sequence[CellDone]) -> Iterator[str]:
    """An experiment's section: its question, table, claims and published numbers."""
    experiment, model_rows = EXPERIMENTS[name], rows(cells, family.model)
    yield f"*{experiment.question}*"
    if not model_rows:
        yield f"Nothing to measure: {family.name} has no such tasks."
        return
    if name == "experts":  # a grid, in which each row of that table would be an axis
        yield from expert_tables(family, cells)
    else:
        yield table(family, model_rows)
    yield "\n".join(f"- {line}" for line in claims(name, cells, model_rows))
    for file in experiment.published:
        if "vitl14" not in file:
            yield _published_table(file)


def table(family: Family, shown: Sequence[Row]) -> str:
    """A Markdown table of settings, accuracies with 95 % intervals, seconds, memory and cost."""
    tasks = list(shown[0].answers)
    images = {task: len(hits) for task, hits in shown[0].answers.items()}
    heads = ["model", "settings", *(f"{family.title(t)} (n = {images[t]})" for t in tasks), "mean"]
    heads += ["needs", "tried", "merging, s", "memory, MB", "blocks passed", "towers run"]
    best = max((r.mean[0] for r in shown if r.one_model), default=0.0)
    lines = []
    for row in shown:
        mean = percent(*row.mean)
        reads = METHODS[row.recipe.method].reads if row.recipe else ()
        line = [row.label, settings(row.recipe, reads)]
        accuracies = [row.accuracy(task) for task in tasks]
        line += [percent(a.rate, *a.interval()) for a in accuracies]
        line += [f"**{mean}**" if row.one_model and row.mean[0] == best else mean]
        line += [row.needs, str(row.tried or "")]
        line += ["" if row.seconds is None else f"{row.seconds:.2f}", memory(row)]
        line += [passed(row), str(row.towers)]
        lines.append(line)
    return markdown_table(heads, lines)


def memory(row: Row) -> str:
    """Measured peak of merging in MB; empty where nothing was merged, or nothing tells."""
    return f"{row.peak / 1e6:.0f}" if row.peak is not None else ""


def passed(row: Row) -> str:
    """Blocks that an image passes for M-Loss, against passing each source alone."""
    return f"{row.cost.passed} of {row.cost.apart}" if row.cost and row.cost.passed else ""


def _published_table(name: str) -> str:
    """A Markdown table of the paper's own numbers, labelled as published."""
    lines = published(name)
    origin = "the authors' released logs" if name.startswith("released") else "the paper"
    heads = list(lines[0])
    return f"*Published ({origin}, `{name}`), not measured here:*\n\n" + markdown_table(
        heads, [[str(line[head]) for head in heads] for line in lines]
    )
