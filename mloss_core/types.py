"""The records that pass between the library, the command line and the app.

All are frozen and keyword-only; arrays in them are NumPy and must not be written to.
Blocks and nodes count from 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from .errors import BadValue
from .fields import FIELDS
from .intervals import of_share, with_interval

# How far from 1 a sum of merging weights may be: as they are, and where they can be meant (0.333
# three times, with the rounding of doubles).
EXACT, FEW_DIGITS = 1e-6, 1e-3 + 1e-9
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def check_sources(sources: Sequence[str]) -> None:
    """Raises BadValue unless there are at least two sources, each named once."""
    for name in sources:
        if sources.count(name) > 1:
            raise BadValue("sources", name, "is named twice", "name each source once")
    if len(sources) < 2:
        remedy = "merging needs at least two sources"
        raise BadValue("sources", ",".join(sources), "is too few", remedy)


def as_shares(weights: Sequence[float]) -> tuple[float, ...]:
    """Weights divided by their sum, where that is so near 1 that they were written with few digits
    (0.3333 three times); others as they are, for `check_weights` to judge."""
    total = math.fsum(weights)
    near = EXACT < abs(total - 1) <= FEW_DIGITS
    return tuple(weight / total for weight in weights) if near else tuple(weights)


def check_weights(weights: Sequence[float], sources: int) -> None:
    """Raises BadValue unless there is one weight per source, none negative, summing to 1."""
    shown = ",".join(f"{w:g}" for w in weights)
    if len(weights) != sources:
        problem = f"has another number of weights than the {sources} sources"
        raise BadValue("weights", shown, problem, "give one weight per source")
    if not all(math.isfinite(w) and w >= 0 for w in weights):
        raise BadValue("weights", shown, "has a negative or non-finite weight", "use 0 to 1")
    if abs(math.fsum(weights) - 1) > EXACT:
        total = f"sums to {math.fsum(weights):g}"
        raise BadValue("weights", shown, total, "give weights that sum to 1")


def check_rates(keep: float, variation: float) -> None:
    """Raises BadValue unless 0 < keep <= 1 and 0 <= variation <= keep."""
    FIELDS["keep"].check(keep)
    FIELDS["variation"].check(variation)
    if variation > keep:
        problem = f"is outside [0, k] = [0, {keep:g}]"
        raise BadValue("variation", variation, problem, "lower it, or raise the base keep rate k")


@dataclass(frozen=True, kw_only=True)
class MergeRecipe:
    """What decides a merge's bytes, besides the models and the calibration images.

    Args:
        family: name of the model family.
        method: key of `mloss_core.METHODS`.
        sources: names of the sources, at least two, each once.
        weights: merging weights alpha, one per source, summing to 1; None means 1/q each.
        keep: base keep rate k, a share in (0, 1].
        variation: pruning variation e, a share in [0, k].
        scaling: lambda, the factor on the merged task vector.
        blocks: blocks that get node-wise treatment; None means all.
        samples: calibration images drawn from the family's pool.
        seed: of the draws and of random masks.
        tokens: of each image M-Loss is measured on, drawn at random; None means all.
        precision: of the products that M-Loss is measured on, "fp32" or "bf16".
        inputs_from: the model that feeds each block whose M-Loss is measured: "merged" (so far,
            Algorithm 1) or "pretrained" (the base alone, as the released code does).
        scores: what ranks the nodes: "absolute" (Eq. 4) or "squared" (the released code).
        ranks: "m-loss", or as controls "random" (drawn from the seed), "reversed", or "equal": all
            rows keep the mean rate, k - e/2.
        scope: of TIES' threshold: each "tensor", or "global", the whole task vector.
        matrices: what a rule of matrices treats as one: "published", "all" tensors of two
            dimensions, or "layers", the blocks' linear layers.
        qkv: whether queries, keys and values are one matrix ("stacked") or three ("split").
        rest: what becomes of all else: "published", the sources' "mean", or the "base".
        after: "svc" calibrates the merged matrices' singular values; "nothing" does not.
        norms: of the task vectors: as they are ("own"), or all at their mean ("equal").
        images: taken for a source's own: of its "own" task, or as controls those of the next source
            ("others"), or "noise".
        start: the merge without images that `fit` starts from.
        ridge: mu of `fit`, relative to the mean of a layer's Gram diagonal.
        off_diagonal: RegMean's factor on the Gram matrices' off-diagonal entries.
        steps, rate: of Adam; None means as published.
        rho: radius of SAMerging's perturbation; 0 leaves plain distillation.
        coefficients: trained for each "tensor" of a source, or one for the whole "source".
        vectors: what they multiply: "plain" task vectors, or "trimmed" ones (AdaMerging++).
    """

    family: str
    method: str
    sources: tuple[str, ...]
    weights: tuple[float, ...] | None = FIELDS["weights"].default
    keep: float = FIELDS["keep"].default
    variation: float = FIELDS["variation"].default
    scaling: float = FIELDS["scaling"].default
    blocks: tuple[int, ...] | None = FIELDS["blocks"].default
    samples: int = FIELDS["samples"].default
    seed: int = FIELDS["seed"].default
    tokens: int | None = FIELDS["tokens"].default
    precision: str = FIELDS["precision"].default
    inputs_from: str = FIELDS["inputs_from"].default
    scores: str = FIELDS["scores"].default
    ranks: str = FIELDS["ranks"].default
    scope: str = FIELDS["scope"].default
    matrices: str = FIELDS["matrices"].default
    qkv: str = FIELDS["qkv"].default
    rest: str = FIELDS["rest"].default
    after: str = FIELDS["after"].default
    norms: str = FIELDS["norms"].default
    images: str = FIELDS["images"].default
    start: str = FIELDS["start"].default
    ridge: float = FIELDS["ridge"].default
    off_diagonal: float = FIELDS["off_diagonal"].default
    steps: int | None = FIELDS["steps"].default
    rate: float | None = FIELDS["rate"].default
    rho: float = FIELDS["rho"].default
    coefficients: str = FIELDS["coefficients"].default
    vectors: str = FIELDS["vectors"].default

    def __post_init__(self) -> None:
        check_sources(self.sources)
        if self.weights is not None:
            check_weights(self.weights, len(self.sources))
        for name, entry in FIELDS.items():
            entry.check(getattr(self, name))
        check_rates(self.keep, self.variation)

    @property
    def alpha(self) -> tuple[float, ...]:
        """The merging weights, 1/q each unless given."""
        return self.weights or (1 / len(self.sources),) * len(self.sources)


@dataclass(frozen=True, kw_only=True)
class CalibrationBatch:
    """The unlabeled images that M-Loss is measured on, uint8, N x H x W x 3.

    Args:
        tasks: the task of each image; None where nothing tells.
    """

    images: UInt8[np.ndarray, "n h w 3"]
    sha256: str
    tasks: tuple[str, ...] | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class NodeScores:
    """M-Loss of one block on the calibration batch.

    Args:
        node: Eq. 4 per node, mean over tokens and images.
        node_normalised: Eq. 7 per node, likewise.
        layer: Eq. 3, mean over tokens and images.
        layer_normalised: Eq. 6, likewise.
        per_image: mean of Eq. 4 over the nodes and tokens of each image.
        node_squared: the square of Eq. 4's loss of each token, averaged likewise: what the
            released code ranks by; None unless a recipe does.
    """

    block: int
    node: Float[np.ndarray, " nodes"]
    node_normalised: Float[np.ndarray, " nodes"]
    layer: float
    layer_normalised: float
    per_image: Float[np.ndarray, " images"]
    node_squared: Float[np.ndarray, " nodes"] | None = None

    def mean_interval(self) -> tuple[float, float, float]:
        """Mean node M-Loss of the block and its 95 % interval over calibration images."""
        mean, low, high = with_interval(self.per_image).tolist()
        return mean, low, high


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Correct answers out of total; never a bare float.

    Raises:
        BadValue: there was nothing to answer, or more is correct than that.
    """

    correct: int
    total: int

    def __post_init__(self) -> None:
        shown = f"{self.correct} of {self.total}"
        if self.total < 1:
            raise BadValue("accuracy", shown, "is of no images", "evaluate on one image or more")
        if not 0 <= self.correct <= self.total:
            problem = "counts more correct answers than images, or fewer than none"
            raise BadValue("accuracy", shown, problem, "count each image once")

    @property
    def rate(self) -> float:
        """Share of correct answers, in [0, 1]."""
        return self.correct / self.total

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % score interval of the rate (Wilson 1927)."""
        return of_share(self.correct, self.total)


@runtime_checkable
class MergedModel(Protocol):
    """Anything that embeds images for a task: shared weights, weights per task, or an ensemble."""

    def features(self, images: Float[Tensor, "n 3 h w"], task: str) -> Float[Tensor, "n d"]:
        """Image embeddings, not normalised."""
        ...


@dataclass(frozen=True, kw_only=True)
class Planned:
    """The first event of all work: how many steps follow; see `progress`."""

    steps: int


@dataclass(frozen=True, kw_only=True)
class BlockInputs:
    """What M-Loss of a block is measured on; the one event whose tensors stay on their device.

    Args:
        inputs: of the block's c_fc, at the tokens that are measured.
        layers: each source's c_fc weight and bias.
    """

    block: int
    inputs: Float[Tensor, "images tokens width"]
    layers: Sequence[tuple[Float[Tensor, "nodes width"], Float[Tensor, " nodes"]]]


@dataclass(frozen=True, kw_only=True)
class BlockScored:
    """M-Loss of a block is known; `rates` are the keep rates it leads to, one per node."""

    scores: NodeScores
    rates: Float[np.ndarray, " nodes"]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class BlockMerged:
    """All tensors of the block are merged.

    Args:
        kept: share of the sources' c_fc.weight entries that the method kept, counted.
        kept_by_node: the same of each node's; None where there is no model for all tasks.
    """

    block: int
    kept: float
    kept_by_node: Float[np.ndarray, " nodes"] | None = field(default=None, compare=False)
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A step of what precedes a merge: of an optimizer, or a source that was looked at.

    Args:
        loss: summed over the tasks; None where nothing is minimised.
        note: what ended the training early.
        coefficients: mean over the tensors of each block, now and then.
    """

    step: int
    steps: int
    loss: float | None
    seconds: float
    note: str = ""
    coefficients: Float[np.ndarray, "sources blocks"] | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class TaskEvaluated:
    """A model was evaluated on a task.

    Args:
        model: "merged", "base", "own" (the task's own source), "ties" or "ensembling".
        task: name of the task.
        block: last merged block of a partial model (base beyond); None for a whole model.
        hits: for each image whether the answer was correct.
        stage: of the run that this belongs to, see `run.Evaluate`.
    """

    model: str
    task: str
    block: int | None
    hits: Bool[np.ndarray, " n"]
    seconds: float
    stage: str = "full"

    @property
    def accuracy(self) -> Accuracy:
        """Correct and total of these images."""
        return Accuracy(correct=int(self.hits.sum()), total=len(self.hits))


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A source, or the merged model, has embedded some of a task's images: a place to stop.

    Args:
        done, total: images embedded so far, and in all; a step is over where they are equal.
    """

    source: str
    task: str
    seconds: float
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The run is complete.

    Args:
        weights: the merged image tower by open_clip's names (fp32, on the CPU); None for
            methods that leave no single model.
        metadata: recipe, source hashes and version, as stored in a merged file.
        seconds: wall time of merging alone, evaluation not counted.
        device: where the tensors were.
        peak: bytes that merging took at its peak, measured; None where that is unknown.
    """

    weights: dict[str, torch.Tensor] | None
    metadata: dict[str, object] = field(default_factory=dict)
    seconds: float
    device: str
    peak: int | None = None


Event = (
    Planned
    | BlockInputs
    | BlockScored
    | BlockMerged
    | Trained
    | TaskEvaluated
    | Embedded
    | Finished
)


def progress(events: Iterable[object]) -> float:
    """Share of the planned steps that are done, from 0 to 1; 0 before anything is planned.

    Each event after the last `Planned` is a step, but for an `Embedded` that is only on its way.
    """
    steps, done, part = 0, 0, 0.0
    for event in events:
        if isinstance(event, Planned):
            steps, done, part = event.steps, 0, 0.0
        elif isinstance(event, Embedded) and event.done < event.total:
            part = event.done / event.total
        else:
            done, part = done + 1, 0.0
    return min(1.0, (done + part) / steps) if steps else 0.0
