"""Published accuracies of the methods, by the family of checkpoints that they were measured on."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence

from mloss_core.experiments.tables import PAPER

FILE = "published_methods.csv"
# Families of checkpoints that papers use: own-task accuracies alone differ by two points.
FAMILIES = {
    "A": "the task-vectors checkpoints (Ilharco et al.), those of the M-Loss paper",
    "B": "tanganke/clip-vit-* on Hugging Face, those of FusionBench",
    "C": "the checkpoints of TALL masks and TSV-M, with up to 20 tasks",
    "L": "LoRA fine-tunes (KnOTS)",
}
COLUMNS = ("A", "B", "C")  # that the table of all methods shows
MODEL = "B/32"
Entry = Mapping[str, str]


def entries() -> list[Entry]:
    """All published numbers; none where their file is not here or cannot be read."""
    try:
        with (PAPER / FILE).open(encoding="utf-8", newline="") as file:
            return [{k: v or "" for k, v in row.items() if k} for row in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error):
        return []


def of_method(rows: Sequence[Entry], method: str, family: str) -> list[Entry]:
    """The numbers of a method on one family of checkpoints."""
    wanted = (method, family)
    return [row for row in rows if (row.get("method"), row.get("family")) == wanted]


def in_short(rows: Sequence[Entry], method: str, family: str) -> str:
    """ViT-B/32's accuracy of a method on one family, for a cell; empty where none is published."""
    ours = [
        row
        for row in of_method(rows, method, family)
        if MODEL in row.get("model", "").replace("-", "/") and absolute(row) and row.get("low")
    ]
    plain = [row for row in ours if not row.get("variant")] or ours[:1]
    ends = [row.get(end) or row["low"] for row in plain for end in ("low", "high")]
    return span({"low": min(ends, key=_number), "high": max(ends, key=_number)}) if ends else ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def absolute(row: Entry) -> bool:
    """Whether a number is an accuracy, not a share of the own sources' accuracy."""
    return "normal" not in row.get("measure", "").lower()


def span(row: Entry) -> str:
    """A number, or the range of those that are published."""
    low, high = row.get("low", ""), row.get("high", "")
    return low if high in ("", low) else f"{low} to {high}"
