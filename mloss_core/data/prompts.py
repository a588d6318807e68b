"""Class names and prompt templates of a task's zero-shot head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .benchmarks import benchmarks

PLAINEST = ("a photo of a {}.",)


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """A task's classes as prompts name them, in label order, and templates with {} for one."""

    classes: tuple[str, ...]
    templates: tuple[str, ...]

    def as_json(self) -> dict[str, list[str]]:
        """The prompts as JSON, as heads.safetensors stores them."""
        return {"classes": list(self.classes), "templates": list(self.templates)}


def prompts_of(task: Mapping[str, Any], classes: Sequence[str]) -> Prompts:
    """The prompts of a task of family.toml or family.json.

    Args:
        classes: names as folders have them, with `_` for a space.
    """
    if "templates" in task:
        templates = tuple(task["templates"])
    elif "template" in task:
        templates = (task["template"],)
    else:
        benchmark = benchmarks().get(task.get("dataset", ""))
        templates = benchmark.templates if benchmark else PLAINEST
    return Prompts(classes=tuple(map(spoken, classes)), templates=templates)


def spoken(name: str) -> str:
    """A class folder's name as a prompt spells it."""
    return name.replace("_", " ").strip()
