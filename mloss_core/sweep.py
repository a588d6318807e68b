"""Algorithm 1 of M-Loss in one sweep over the blocks, and every other merge as a case of it."""

from __future__ import annotations

import dataclasses
import time
from collections import ChainMap
from collections.abc import Generator, Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .architecture import c_fc
from .methods import METHODS, as_read
from .methods.keep_rates import measured_blocks, node_rates, node_wise_blocks
from .methods.matrices import after_svc
from .methods.method import Models, OwnImages, Prepared, Weights
from .methods.whole import norms
from .mloss import Layer, score_block, some_tokens
from .trim import global_threshold
from .types import PRECISIONS, BlockInputs, BlockMerged, BlockScored, Event, MergeRecipe, NodeScores
from .vit import Tower


def sweep(
    models: Models,
    recipe: MergeRecipe,
    images: Float[Tensor, "n 3 h w"] | None,
    merged: Weights,
    trace: bool = False,
    own: Sequence[OwnImages] = (),
) -> Iterator[Event]:
    """Merges block by block, yielding what is done; without node-wise blocks this is plain TIES
    (or whatever the recipe's method is).

    Args:
        images: preprocessed calibration batch; None where the method needs none.
        merged: filled as the sweep goes; with the base beyond, it is the partial model.
        trace: whether BlockInputs come, too, each before its BlockScored.
        own: each source's images, where the method looks at them.
    """
    recipe, layers = as_read(recipe), METHODS[recipe.method].layers
    if layers is not None:
        yield from layers(models, recipe, own, merged)
        return
    start = time.perf_counter()
    prepared = yield from _prepared(models, recipe, own)
    if METHODS[recipe.method].steps(recipe):  # its events have told their seconds
        start = time.perf_counter()
    yield from _by_rule(models, recipe, prepared, images, merged, trace, start)
    if prepared.finish is not None:
        prepared.finish(merged)


def _prepared(
    models: Models, recipe: MergeRecipe, own: Sequence[OwnImages]
) -> Generator[Event, None, Prepared]:
    """The method's rule, once what it depends on is known."""
    method = METHODS[recipe.method]
    if method.prepare is not None:
        prepared = yield from method.prepare(models, recipe, own)
    else:
        assert method.rule is not None, "several models are left, nothing to merge"
        prepared = Prepared(rule=method.rule)
    if recipe.after == "svc":
        prepared = dataclasses.replace(prepared, rule=after_svc(prepared.rule))
    return prepared


def _by_rule(
    models: Models,
    recipe: MergeRecipe,
    prepared: Prepared,
    images: Float[Tensor, "n 3 h w"] | None,
    merged: Weights,
    trace: bool,
    start: float,
) -> Iterator[BlockInputs | BlockScored | BlockMerged]:
    config = models.config
    merge = _Merge(models, recipe, prepared)
    trims = METHODS[recipe.method].trims
    chosen, measured = node_wise_blocks(recipe, config), measured_blocks(recipe, config)
    merged |= merge(models.stored(config.outer_names()))
    walk = _walk(models, recipe, images, merged) if measured and images is not None else None
    for block in range(config.blocks):
        stored = models.stored(config.block_names(block))
        weight, bias = c_fc(block) + ".weight", c_fc(block) + ".bias"
        layers = list(zip(stored[weight], stored[bias], strict=True))
        rows = stored.pop(weight)  # the block's nodes, of each source
        merged |= merge(stored)
        rates = scores = None
        if walk is not None and block <= max(measured):
            inputs = next(walk)  # through the blocks merged so far, and this one's attention
            if block in measured:
                if recipe.tokens is not None:
                    inputs = some_tokens(inputs, recipe.tokens, recipe.seed)
                scores = _score(block, inputs, layers, config.activation, recipe)
                if trace:
                    yield BlockInputs(block=block, inputs=inputs, layers=layers)
        if block in chosen:
            rates = node_rates(recipe, block, config.nodes, scores)
        if scores is not None and rates is not None:
            yield BlockScored(scores=scores, rates=rates, seconds=time.perf_counter() - start)
            start = time.perf_counter()
        entries = len(rows) * rows[0].shape[1]
        kept = torch.full((config.nodes,), 0 if trims else entries, device=models.device)
        merged |= merge({weight: rows}, rates, kept)
        share, by_node = _shares(kept, entries)
        seconds = time.perf_counter() - start
        yield BlockMerged(block=block, kept=share, kept_by_node=by_node, seconds=seconds)
        start = time.perf_counter()


def _walk(
    models: Models, recipe: MergeRecipe, images: Tensor, merged: Weights
) -> Iterator[Float[Tensor, "n tokens width"]]:
    """Inputs of each block's c_fc in the model merged so far, or in the base if the recipe takes
    them from there."""
    pretrained = recipe.inputs_from == "pretrained"
    weights = models.base if pretrained else ChainMap(merged, models.base)
    return Tower(models.config, weights).block_inputs(images)


def _global_thresholds(models: Models, recipe: MergeRecipe) -> list[float] | None:
    """Each source's threshold, where one trims its whole task vector."""
    if recipe.scope != "global":
        return None
    return [global_threshold(models.base, source.read, recipe.keep) for source in models.sources]


def _score(
    block: int, inputs: Tensor, layers: Sequence[Layer], act: str, recipe: MergeRecipe
) -> NodeScores:
    """M-Loss of a block as precisely as the recipe says."""
    product, squared = PRECISIONS[recipe.precision], recipe.scores == "squared"
    return score_block(block, inputs, layers, act, recipe.alpha, product, squared)


def _shares(kept: Int[Tensor, " nodes"], entries: int) -> tuple[float, Float[np.ndarray, " nodes"]]:
    """Shares kept of all nodes' entries, and of each node's, of which there are so many."""
    counts = kept.cpu().numpy()
    return float(counts.sum() / (len(counts) * entries)), counts / entries


class _Merge:
    """Base plus the rule of task vectors, a tensor at a time; see `TaskVectors`."""

    def __init__(self, models: Models, recipe: MergeRecipe, prepared: Prepared):
        self.models, self.recipe, self.rule = models, recipe, prepared.rule
        self.alpha = torch.tensor(recipe.alpha, dtype=torch.float32, device=models.device)
        self.thresholds = _global_thresholds(models, recipe)
        self.factors = _factors(models, recipe)

    def __call__(
        self,
        stored: Mapping[str, Sequence[Tensor]],
        rates: Float[np.ndarray, " rows"] | None = None,
        kept: Int[Tensor, " rows"] | None = None,
    ) -> Weights:
        """These tensors merged.

        Args:
            rates: keep rates of their rows; None where they have none of their own.
            kept: to which entries kept are added, by row.
        """
        return {name: self._tensor(name, stored[name], rates, kept) for name in stored}

    def _tensor(
        self,
        name: str,
        tensors: Sequence[Tensor],
        rates: Float[np.ndarray, " rows"] | None,
        kept: Int[Tensor, " rows"] | None,
    ) -> Tensor:
        """One of them."""
        base = self.models.base[name]
        vectors = self.models.cache.vectors(name, base, tensors, self.thresholds, kept)
        if self.factors is not None:
            vectors = dataclasses.replace(vectors, factors=self.factors, ordered=None)
        return self.rule(vectors, self.alpha, self.recipe, name, rates).add_(base)


def _factors(models: Models, recipe: MergeRecipe) -> list[float] | None:
    """What brings each task vector to the norm that all have on average; None leaves them."""
    if recipe.norms != "equal":
        return None
    sizes = norms(models)
    mean = sum(sizes) / len(sizes)
    return [mean / size if size else 0.0 for size in sizes]
