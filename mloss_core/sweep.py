"""Algorithm 1 of M-Loss in one sweep over the blocks, and every other merge as a case of it."""

from __future__ import annotations

import time
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .architecture import ViTConfig, c_fc
from .checkpoints.image_tower import Checkpoint
from .methods import METHODS
from .methods.keep_rates import measured_blocks, node_rates, node_wise_blocks
from .mloss import Layer, score_block, some_tokens
from .tensor_cache import TensorCache
from .trim import global_threshold
from .types import PRECISIONS, BlockInputs, BlockMerged, BlockScored, MergeRecipe, NodeScores
from .vit import Tower

Weights = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Models:
    """The models of a merge: the base's weights on the device, sources read a block at a time.

    Args:
        cache: what an earlier merge of these sources has left for this one.
    """

    config: ViTConfig
    base: Weights
    sources: Sequence[Checkpoint]
    device: torch.device
    cache: TensorCache = field(default_factory=TensorCache)


def sweep(
    models: Models,
    recipe: MergeRecipe,
    images: Float[Tensor, "n 3 h w"] | None,
    merged: Weights,
    trace: bool = False,
) -> Iterator[BlockInputs | BlockScored | BlockMerged]:
    """Merges block by block, yielding what is done; without node-wise blocks this is plain TIES
    (or whatever the recipe's method is).

    Args:
        images: preprocessed calibration batch; None where the method needs none.
        merged: filled as the sweep goes; with the base beyond, it is the partial model.
        trace: whether BlockInputs come, too, each before its BlockScored.
    """
    config, start = models.config, time.perf_counter()
    trims = "keep" in METHODS[recipe.method].reads
    chosen, measured = node_wise_blocks(recipe, config), measured_blocks(recipe, config)
    thresholds = _global_thresholds(models, recipe)
    merged |= _merge(models, recipe, _stored(models, config.outer_names()), None, thresholds)
    walk = _walk(models, recipe, images, merged) if measured and images is not None else None
    for block in range(config.blocks):
        stored = _stored(models, config.block_names(block))
        weight, bias = c_fc(block) + ".weight", c_fc(block) + ".bias"
        layers = list(zip(stored[weight], stored[bias], strict=True))
        rows = stored.pop(weight)  # the block's nodes, of each source
        merged |= _merge(models, recipe, stored, None, thresholds)
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
        merged |= _merge(models, recipe, {weight: rows}, rates, thresholds, kept)
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
    if recipe.scope != "global" or "scope" not in METHODS[recipe.method].reads:
        return None
    return [global_threshold(models.base, source.read, recipe.keep) for source in models.sources]


def _stored(models: Models, names: Mapping[str, object]) -> dict[str, list[Tensor]]:
    """These tensors of every source as they are stored."""
    return models.cache.read(models.sources, list(names), models.device)


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


def _merge(
    models: Models,
    recipe: MergeRecipe,
    stored: Mapping[str, Sequence[Tensor]],
    rates: Float[np.ndarray, " rows"] | None,
    thresholds: Sequence[float] | None,
    kept: Int[Tensor, " rows"] | None = None,
) -> Weights:
    """Base plus the method's rule of task vectors, a tensor at a time; see `TaskVectors`."""
    rule = METHODS[recipe.method].rule
    assert rule is not None, "several models are left, nothing to merge"
    alpha = torch.tensor(recipe.alpha, dtype=torch.float32, device=models.device)
    merged = {}
    for name, tensors in stored.items():
        vectors = models.cache.vectors(name, models.base[name], tensors, thresholds, kept)
        merged[name] = rule(vectors, alpha, recipe, name, rates).add_(models.base[name])
    return merged
