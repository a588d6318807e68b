"""What a fine-tune says on its way, after `types.Planned`; each event is a step of the plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from ..types import Accuracy, Planned


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What will be done, before the first step.

    Args:
        head: "zero-shot" or "class means".
        trained, held_out: pictures.
        steps: of the whole fine-tune.
        resumed: steps that an earlier, interrupted one had done.
        a_step: seconds that a step took when it was tried; None where none is left to do.
    """

    task: str
    head: str
    trained: int
    held_out: int
    steps: int
    resumed: int
    a_step: float | None
    skipped: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def expected(self) -> float | None:
        """Seconds that the steps to come will take, about."""
        return None if self.a_step is None else self.a_step * (self.steps - self.resumed)


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """A step of the optimizer.

    Args:
        step: counted from 1.
        loss: mean cross-entropy of the step's pictures, before it.
        rate: the learning rate.
        gradient: norm of the gradient before it was clipped.
    """

    step: int
    loss: float
    rate: float
    gradient: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Looked:
    """The model after a step, on the held-out pictures, and how far it is from the base.

    Args:
        hits: for each held-out picture whether the answer was correct.
        distances: of each block, ||W - W_base|| / ||W_base|| over its tensors.
        outside: the same of what lies outside the blocks.
    """

    step: int
    hits: Bool[np.ndarray, " n"]
    distances: Float[np.ndarray, " blocks"]
    outside: float
    seconds: float

    @property
    def accuracy(self) -> Accuracy:
        """Correct and total of the held-out pictures."""
        return Accuracy(correct=int(self.hits.sum()), total=len(self.hits))


@dataclass(frozen=True, kw_only=True)
class Written:
    """A checkpoint is on disk: an image tower as any other source."""

    step: int
    path: Path
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Diverged:
    """The loss, or the model, was no longer a number: the training ends.

    Args:
        step: at which.
        kept: step of the last good checkpoint, which is the result.
    """

    step: int
    kept: int
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The fine-tune is complete.

    Args:
        weights: the image tower by open_clip's names, on the CPU, in the base's dtypes.
        metadata: what a file of it says of itself.
        step: the last that counts.
        seconds: of steps, looks and checkpoints, those of earlier parts included.
    """

    weights: dict[str, torch.Tensor]
    step: int
    device: str
    seconds: float
    metadata: dict[str, Any] = field(default_factory=dict)


TrainingEvent = Planned | Begun | Stepped | Looked | Written | Diverged | Tuned


def event_json(event: TrainingEvent) -> dict[str, Any]:
    """An event as one JSON object; arrays that are long are left out."""
    match event:
        case Planned():
            fields: dict[str, Any] = {"steps": event.steps}
        case Begun():
            fields = {"task": event.task, "head": event.head, "trained": event.trained}
            fields |= {"held_out": event.held_out, "steps": event.steps, "resumed": event.resumed}
            fields |= {"a_step": event.a_step, "skipped": list(event.skipped)}
        case Stepped():
            fields = {"step": event.step, "loss": event.loss, "rate": event.rate}
            fields |= {"gradient": event.gradient, "seconds": event.seconds}
        case Looked():
            low, high = event.accuracy.interval()
            fields = {"step": event.step, "correct": event.accuracy.correct}
            fields |= {"total": event.accuracy.total, "low": low, "high": high}
            fields |= {"distances": [float(f"{d:.6g}") for d in event.distances]}
            fields |= {"outside": event.outside, "seconds": event.seconds}
        case Written():
            fields = {"step": event.step, "path": str(event.path), "seconds": event.seconds}
        case Diverged():
            fields = {"step": event.step, "kept": event.kept, "seconds": event.seconds}
        case Tuned():
            fields = {"step": event.step, "device": event.device, **event.metadata}
            fields |= {"seconds": event.seconds}
    return {"event": type(event).__name__, **fields}
