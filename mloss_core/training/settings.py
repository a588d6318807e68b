"""The settings of a fine-tune, in one table, and the rate at each of its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import BadValue
from ..fields import Blocks, Choice, Field, Number

# Checks, options of the command line and widgets are loops over this table.
SETTINGS: dict[str, Field] = {
    entry.name: entry
    for entry in (
        Number(
            name="rate", label="Learning rate", default=1e-4, unit="rate", flag="--lr", low=0,
            above=True, allowed="a rate above 0, such as 1e-4",
            help="The highest learning rate: after the warm-up, before it falls as a cosine.",
        ),
        Number(
            name="steps", label="Steps", default=200, unit="steps", flag="--steps", kind=int,
            low=1, high=1_000_000, allowed="1 to 1,000,000 steps",
            help="Steps of the optimizer.",
        ),
        Number(
            name="batch", label="Batch size", default=32, unit="pictures", flag="--batch",
            kind=int, low=1, high=4096, allowed="1 to 4096 pictures",
            help="Pictures in a step.",
        ),
        Number(
            name="decay", label="Weight decay", default=0.1, unit="factor", flag="--weight-decay",
            low=0, allowed="0 or more, such as 0.1",
            help="Pulls matrices towards zero by this times the rate in each step; gains, biases "
            "and other vectors are left alone.",
        ),
        Number(
            name="warm_up", label="Warm-up", default=None, unit="steps", flag="--warm-up",
            kind=int, low=0, optional=True, allowed="0 or more steps, fewer than all",
            help="Steps in which the rate rises; a tenth of all unless given.",
        ),
        Blocks(
            name="blocks", label="Blocks trained", default=None, unit="blocks", flag="--blocks",
            help="Blocks that are trained; the others stay as in the base.",
        ),
        Choice(
            name="outside", label="Outside the blocks", default="trained", flag="--outside",
            choices={"trained": "trained, too", "frozen": "as in the base"},
            help="What becomes of embeddings, outer norms and the projection.",
        ),
        Choice(
            name="optimizer", label="Optimizer", default="adamw", flag="--optimizer",
            choices={"adamw": "AdamW", "sgd": "SGD with momentum 0.9"},
            help="What turns gradients into steps.",
        ),
        Number(
            name="seed", label="Seed", default=0, unit="number", flag="--seed", kind=int, low=0,
            high=2**32 - 1, allowed="a whole number from 0",
            help="Of the order of the pictures.",
        ),
        Number(
            name="checkpoints", label="Checkpoints", default=8, unit="number",
            flag="--checkpoints", kind=int, low=1, high=1000, allowed="1 to 1000 checkpoints",
            help="How often the model is written on the way, evenly.",
        ),
    )
}  # fmt: skip
LOOKS = 3  # at the held-out pictures, from one checkpoint to the next


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """What decides a fine-tune's bytes, besides the base, the pictures and their head.

    Args:
        rate: the highest learning rate, above 0.
        steps: of the optimizer.
        batch: pictures in a step.
        decay: weight decay of matrices.
        warm_up: steps in which the rate rises; None means a tenth of all.
        blocks: that are trained; None means all.
        outside: whether what lies outside the blocks is "trained" or "frozen".
        optimizer: "adamw" or "sgd" (momentum 0.9).
        seed: of the order of the pictures.
        checkpoints: how often the model is written on the way.

    Raises:
        InputError: a value is out of its range, or nothing would be trained.
    """

    rate: float = SETTINGS["rate"].default
    steps: int = SETTINGS["steps"].default
    batch: int = SETTINGS["batch"].default
    decay: float = SETTINGS["decay"].default
    warm_up: int | None = SETTINGS["warm_up"].default
    blocks: tuple[int, ...] | None = SETTINGS["blocks"].default
    outside: str = SETTINGS["outside"].default
    optimizer: str = SETTINGS["optimizer"].default
    seed: int = SETTINGS["seed"].default
    checkpoints: int = SETTINGS["checkpoints"].default

    def __post_init__(self) -> None:
        for name, entry in SETTINGS.items():
            entry.check(getattr(self, name))
        if self.warm >= self.steps:
            problem = f"leaves nothing of {self.steps} steps"
            raise BadValue("warm_up", self.warm_up, problem, "give fewer steps than all")
        if self.blocks == () and self.outside == "frozen":
            remedy = "name a block, or train what is outside"
            raise BadValue("blocks", "none", "leaves nothing to train", remedy)

    @property
    def warm(self) -> int:
        """Steps of warm-up, a tenth of all unless given."""
        return self.steps // 10 if self.warm_up is None else self.warm_up

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 1: r s / (w + 1) in the w steps of
        warm-up, then r (1 + cos(pi (s - 1 - w) / (n - w))) / 2."""
        before, warm = step - 1, self.warm
        if before < warm:
            return self.rate * step / (warm + 1)
        return self.rate * (1 + math.cos(math.pi * (before - warm) / (self.steps - warm))) / 2

    def written_at(self) -> tuple[int, ...]:
        """Steps after which a checkpoint is written, the last one among them."""
        return _evenly(self.steps, self.checkpoints)

    def looked_at(self) -> tuple[int, ...]:
        """Steps after which the held-out pictures are looked at: 0, checkpoints, and between."""
        between = _evenly(self.steps, LOOKS * self.checkpoints)
        return tuple(sorted({0, *between, *self.written_at()}))


def _evenly(steps: int, times: int) -> tuple[int, ...]:
    return tuple(sorted({max(1, round(steps * i / times)) for i in range(1, times + 1)}))
