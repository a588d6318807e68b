"""What a merging method is: a row of METHODS, and the few shapes that its work can have."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..architecture import ViTConfig
from ..checkpoints.image_tower import Checkpoint
from ..tensor_cache import TensorCache
from ..trim import TaskVectors
from ..types import BlockMerged, Event, MergedModel, MergeRecipe

Weights = dict[str, Tensor]
Rates = Float[np.ndarray, " rows"]
# The task vectors of one tensor, merging weights, recipe, the tensor's name, keep rates of its rows
# -> the merged task vector.
Rule = Callable[[TaskVectors, Tensor, MergeRecipe, str, Rates | None], Tensor]


@dataclass(frozen=True, kw_only=True)
class Models:
    """The models of a merge: the base's weights on the device, sources read a block at a time.

    Args:
        cache: what an earlier merge of these sources has left for this one.
        state: the file where training keeps how far it is; None where nothing is to be resumed.
    """

    config: ViTConfig
    base: Weights
    sources: Sequence[Checkpoint]
    device: torch.device
    cache: TensorCache = field(default_factory=TensorCache)
    state: Path | None = None

    def stored(self, names: Mapping[str, object]) -> dict[str, list[Tensor]]:
        """These tensors of every source as they are stored."""
        return self.cache.read(self.sources, list(names), self.device)


@dataclass(frozen=True, kw_only=True)
class OwnImages:
    """What a source's own task gives a method: unlabeled images, and what they are classed by.

    Args:
        pixels: preprocessed calibration images of the task.
        head: its zero-shot head, times the family's logit scale; None for methods that read none.
    """

    pixels: Float[Tensor, "n 3 h w"]
    head: Float[Tensor, "classes embed"] | None = None

    def logits(self, features: Float[Tensor, "n embed"]) -> Float[Tensor, "n classes"]:
        """Cosine similarities to the classes times the logit scale."""
        assert self.head is not None, "methods that need it say so"
        return F.normalize(features, dim=-1) @ self.head.T


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A rule that could be written down only after a look at whole models or images.

    Args:
        finish: changes the merged weights once all are there; None where nothing is left to do.
    """

    rule: Rule
    finish: Callable[[Weights], None] | None = None


# What precedes a rule: it may take long, so that it says how far it is.
Prepare = Callable[[Models, MergeRecipe, Sequence[OwnImages]], Generator[Event, None, Prepared]]
# A merge that sees what enters each linear layer; it fills the weights block by block.
Layers = Callable[[Models, MergeRecipe, Sequence[OwnImages], Weights], Iterator[BlockMerged]]


@runtime_checkable
class SeveralModels(MergedModel, Protocol):
    """A merge that leaves several models, of which each image needs some."""

    def prepare(self, recipe: MergeRecipe) -> Iterator[Event]:
        """What has to be computed before `features`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Method:
    """A merging method: its paper, settings and work, of which it has one kind.

    Args:
        paper: who published it, and where.
        reads: fields of MergeRecipe that change its result, besides family and sources.
        explanation: one line, shown in the app.
        formula: what it computes of task vectors t_i, in LaTeX.
        rule: from the task vectors of one tensor to the merged one.
        prepare: what gives the rule, where whole models or images decide it.
        layers: what merges where inputs of each linear layer decide.
        several: what builds the models, where more than one is left.
        node_wise: whether chosen blocks are trimmed row by row, by M-Loss.
        trims: whether it counts the entries of task vectors that it keeps.
        drops: whether entries are dropped at random, by the seed.
        per_task: whether each task has a model of its own, and only where its source is merged.
        own_images: whether it looks at unlabeled images of each source's own task.
        heads: whether it reads their zero-shot heads, too.
        trains: whether it takes steps of an optimizer.
        whole: whether nothing is final before the last tensor is merged.
        defaults: published settings, where they differ from the fields' own.
        steps: events that precede the merge, for a recipe; see `types.progress`.
        revision: raised where the same recipe gives other bytes than before, so that what was
            measured then is not taken for what it would be now.
    """

    title: str
    paper: str
    reads: tuple[str, ...]
    explanation: str
    formula: str
    rule: Rule | None = None
    prepare: Prepare | None = None
    layers: Layers | None = None
    several: Callable[[Models, MergeRecipe], SeveralModels] | None = None
    node_wise: bool = False
    trims: bool = False
    drops: bool = False
    per_task: bool = False
    own_images: bool = False
    heads: bool = False
    trains: bool = False
    whole: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    steps: Callable[[MergeRecipe], int] = lambda recipe: 0
    revision: int = 0

    @property
    def one_model(self) -> bool:
        """Whether one model for all tasks comes out."""
        return self.rule is not None or self.prepare is not None or self.layers is not None

    @property
    def needs(self) -> str:
        """What it needs besides the models."""
        if self.trains:
            return "training on unlabeled images"
        return "unlabeled images" if self.own_images or self.node_wise else "nothing"
