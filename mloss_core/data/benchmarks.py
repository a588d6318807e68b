"""The paper's tasks by torchvision's names: classes and prompts, from assets/benchmarks.toml."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

from ..places import assets

TABLE = assets() / "benchmarks.toml"
ALIASES = {"cars": "StanfordCars", "flowers": "Flowers102"}  # what others call them


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A task that the field evaluates on.

    Args:
        kind: "source" or "out-of-domain", in the paper.
        classes: as prompts name them, in the order of torchvision's labels.
        templates: prompts with {} for the class.
        files: what torchvision reads; empty where it has no such dataset.
    """

    kind: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    files: str = ""


@functools.cache
def benchmarks() -> Mapping[str, Benchmark]:
    """All benchmarks of the table, by torchvision's name."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return {
        name: Benchmark(
            kind=entry["kind"],
            classes=tuple(entry["classes"]),
            templates=tuple(entry["templates"]),
            files=entry.get("files", ""),
        )
        for name, entry in table.items()
    }


def alike(name: str) -> str | None:
    """The benchmark that a source of this name was probably fine-tuned on; None if it is none."""
    plain = re.sub("[^a-z0-9]", "", name.lower())
    names = {benchmark.lower(): benchmark for benchmark in benchmarks()}
    return names.get(plain) or ALIASES.get(plain)
