"""What a task is to this build: its classes, its prompt and a way to draw labelled pictures for a split."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Draw = Callable[[str, int, np.random.Generator], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One classification task; `draw(split, count, rng)` gives uint8 pictures and labels of train, val or test."""

    name: str
    title: str
    kind: str  # "source", "out-of-domain", or "broad": seen in pretraining only and not shipped
    template: str
    classes: list[str]
    origin: str
    draw: Draw
    train: int = 12_000
    test: int = 500
    val: int = 250
    weight: float = 1.0  # share of the pretraining batches

    def prompts(self) -> list[str]:
        """The class prompts, in label order."""
        return [self.template.format(name) for name in self.classes]
