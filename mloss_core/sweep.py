"""Algorithm 1 of M-Loss in one sweep over the blocks, and every other merge as a case of it."""

from __future__ import annotations

import time
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .architecture import ViTConfig, c_fc
from .checkpoints.image_tower import Checkpoint
from .methods import METHODS
from .methods.keep_rates import measured_blocks, node_rates, node_wise_blocks
from .mloss import Layer, score_block, some_tokens
from .tensor_cache import TensorCache
from .trim import TaskVectors, global_threshold
from .types import PRECISIONS, BlockMerged, BlockScored, MergeRecipe, NodeScores
from .vit import Tower, chunks

Weights = dict[str, Tensor]
# Inputs of a block's c_fc, at the tokens that are measured, and each source's weight and bias.
Look = Callable[[Float[Tensor, "images tokens width"], Sequence[Layer]], None]


def sweep(
    family: ViTConfig,
    base: Weights,
    sources: Sequence[Checkpoint],
    recipe: MergeRecipe,
    images: Float[Tensor, "n 3 h w"] | None,
    merged: Weights,
    desk: TensorCache | None = None,
    look: Look | None = None,
) -> Iterator[BlockScored | BlockMerged]:
    """Merges block by block, yielding what is done; without node-wise blocks this is plain TIES
    (or whatever the recipe's method is).

    The calibration images' residual stream is carried through the merged blocks, so that no
    block is ever computed twice (Algorithm 1, lines 24-26); or through the base's, if the recipe
    takes its inputs from there.

    Args:
        base: the base's weights on the device.
        sources: read from their files a block at a time.
        images: preprocessed calibration batch; None where the method needs none.
        merged: filled as the sweep goes; with the base beyond, it is the partial model.
        desk: what an earlier merge of these sources has left for this one.
        look: is shown what M-Loss of each block is about to be measured on.
    """
    desk = desk or TensorCache()
    # The model that feeds the blocks whose M-Loss is measured.
    tower = Tower(family, base if recipe.inputs_from == "pretrained" else ChainMap(merged, base))
    chosen, measured = node_wise_blocks(recipe, family), measured_blocks(recipe, family)
    start = time.perf_counter()
    device, thresholds = _device(base), None
    if _is_global(recipe):
        thresholds = [global_threshold(base, source.read, recipe.keep) for source in sources]
    merged |= _merge(
        desk, base, desk.read(sources, family.outer_names(), device), recipe, None, thresholds
    )
    stream = tower.embed(images) if measured and images is not None else None
    for block in range(family.blocks):
        stored = desk.read(sources, family.block_names(block), device)
        weight, bias = c_fc(block) + ".weight", c_fc(block) + ".bias"
        layers = list(zip(stored[weight], stored[bias], strict=True))
        nodes = {weight: stored.pop(weight)}
        merged |= _merge(desk, base, stored, recipe, None, thresholds)
        rates = inputs = scores = None
        if stream is not None and block in measured:
            stream = _over(stream, lambda x, b=block: tower.attend(b, x))
            inputs = tower.mlp_input(block, stream)
            at = _measured_at(inputs, recipe)
            if look is not None:
                look(at, layers)
            scores = _scored(block, at, layers, family.activation, recipe)
        if block in chosen:
            rates = node_rates(recipe, block, family.nodes, scores)
        if scores is not None and rates is not None:
            yield BlockScored(scores=scores, rates=rates, seconds=time.perf_counter() - start)
            start = time.perf_counter()
        merged |= _merge(desk, base, nodes, recipe, rates, thresholds)
        if stream is not None:
            stream = _carry(tower, block, stream, inputs) if block < max(measured) else None
        kept = _kept(recipe, TaskVectors(base[weight], nodes[weight], thresholds), rates)
        yield BlockMerged(block=block, kept=kept, seconds=time.perf_counter() - start)
        start = time.perf_counter()


def _is_global(recipe: MergeRecipe) -> bool:
    """Whether one threshold trims a source's whole task vector."""
    return recipe.scope == "global" and "scope" in METHODS[recipe.method].reads


def _kept(
    recipe: MergeRecipe, vectors: TaskVectors, rates: Float[np.ndarray, " rows"] | None
) -> float:
    """Share of c_fc.weight that is kept: its mean keep rate, or counted after a global trim."""
    if rates is not None:
        return float(np.mean(rates))
    if vectors.thresholds is not None:
        return vectors.reaching(vectors.limits(recipe.keep))
    return recipe.keep if "keep" in METHODS[recipe.method].reads else 1.0


def _measured_at(inputs: Tensor, recipe: MergeRecipe) -> Tensor:
    """The inputs at as many tokens as the recipe says."""
    return inputs if recipe.tokens is None else some_tokens(inputs, recipe.tokens, recipe.seed)


def _scored(
    block: int, inputs: Tensor, layers: Sequence[Layer], act: str, recipe: MergeRecipe
) -> NodeScores:
    """M-Loss of a block as precisely as the recipe says."""
    product, squared = PRECISIONS[recipe.precision], recipe.scores == "squared"
    return score_block(block, inputs, layers, act, recipe.alpha, product, squared)


def _merge(
    desk: TensorCache,
    base: Weights,
    stored: Mapping[str, Sequence[Tensor]],
    recipe: MergeRecipe,
    rates: Float[np.ndarray, " rows"] | None,
    thresholds: Sequence[float] | None,
) -> Weights:
    """Base plus the method's rule of task vectors, a tensor at a time."""
    rule = METHODS[recipe.method].rule
    assert rule is not None, "several models are left, nothing to merge"
    alpha = torch.tensor(recipe.alpha, dtype=torch.float32, device=_device(base))
    merged = {}
    for name, tensors in stored.items():
        change = rule(
            desk.vectors(name, base[name], tensors, thresholds), alpha, recipe, name, rates
        )
        merged[name] = change.add_(base[name])
    return merged


def _carry(tower: Tower, block: int, stream: Tensor, inputs: Tensor | None) -> Tensor:
    """The stream after the merged block; from its mlp input where that is known already."""
    if inputs is None:
        return _over(stream, lambda x: tower.block(block, x))
    both = zip(_pieces(tower, stream), _pieces(tower, inputs), strict=True)
    return torch.cat([tower.mlp(block, x, u) for x, u in both])


def _pieces(tower: Tower, x: Tensor) -> Iterator[Tensor]:
    return chunks(x, tower.family.tokens)


def _over(x: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([step(piece) for piece in chunks(x, x.shape[1])])


def _device(weights: Weights) -> torch.device:
    return next(iter(weights.values())).device
