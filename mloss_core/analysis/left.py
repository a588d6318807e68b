"""The gaps that are left after a merge: at each node, the merged model against the ensemble, and
against each source on the images of its own task."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..activations import Activation, activation
from ..architecture import ViTConfig, c_fc
from ..checkpoints.image_tower import Checkpoint
from ..data.calibration import preprocess
from ..families.family import Family
from ..hardware import device as devices
from ..hardware.out_of_memory import reported_memory
from ..mloss import Layer, wide
from ..parallel import thread_map
from ..recipe import calibration_of, check
from ..types import CalibrationBatch, MergeRecipe
from ..vit import Tower

PIECE = 1 << 20  # pre-activations of one piece


@dataclass(frozen=True, kw_only=True)
class BlockLeft:
    """The gaps that are left at the nodes of one block, mean over tokens and images.

    Args:
        node: merged model against the ensemble, both on one shared input; see `node_left`.
        own: merged model against each source on the source's own images, each on its own inputs;
            see `own_left`. NaN for a source whose task has no image in the batch; None where the
            images do not say their task.
    """

    block: int
    node: Float[np.ndarray, " nodes"]
    own: Float[np.ndarray, "q nodes"] | None = None


def left_after(
    recipe: MergeRecipe,
    family: Family,
    weights: Mapping[str, Tensor],
    *,
    device: str = "auto",
    own: bool = True,
) -> Iterator[BlockLeft]:
    """What a merge leaves of both gaps, block by block. `node` of a plain average is the paper's
    M-Loss (Eq. 4) along that merge.

    The images go once through the merged model, and each source's own once through the source: no
    more is held than their streams and a layer's weights.

    Args:
        recipe: whose sources, merging weights and calibration images count, whatever its method.
        weights: of the merged tower.
        device: "auto", "cpu", "cuda" or "mps".
        own: whether the gap to each source is measured, too, which takes as long again.

    Raises:
        InputError: before any work, where the recipe or the files are wrong.
        OutOfMemory: the work did not fit.
    """
    check(recipe, family)
    place, model = devices.choose(device), family.model
    batch = calibration_for(recipe, family)
    sources = [family.source(name) for name in recipe.sources]
    rows = _own_rows(recipe, family, batch) if own else None
    with reported_memory(place.type):
        merged = {name: tensor.to(place) for name, tensor in weights.items()}
        images = preprocess(batch.images, model, place)
        streams = [
            _own_inputs(model, source, images[chosen])
            for source, chosen in zip(sources, rows or (), strict=rows is not None)
        ]
        along = zip(Tower(model, merged).block_inputs(images), *streams, strict=False)
        for block, (inputs, *own_inputs) in enumerate(along):
            layers = [_layer(source.read(_names(block)), block) for source in sources]
            of_merge = _layer(merged, block)
            node = node_left(inputs, layers, of_merge, model.activation, recipe.alpha)
            gaps = [
                np.full(len(node), np.nan)
                if u is None
                else own_left(inputs[chosen], u, of_merge, layer, model.activation)
                for u, chosen, layer in zip(own_inputs, rows or (), layers, strict=False)
            ]
            yield BlockLeft(block=block, node=node, own=np.stack(gaps) if gaps else None)


def _names(block: int) -> tuple[str, str]:
    return c_fc(block) + ".weight", c_fc(block) + ".bias"


def _layer(weights: Mapping[str, Tensor], block: int) -> Layer:
    """A block's c_fc."""
    weight, bias = _names(block)
    return weights[weight], weights[bias]


def calibration_for(recipe: MergeRecipe, family: Family) -> CalibrationBatch:
    """The images that a recipe of these sources would draw, whatever its method."""
    measured = dataclasses.replace(recipe, method="m-ties", blocks=None, ranks="m-loss")
    batch = calibration_of(measured, family)
    assert batch is not None, "M-TIES on all blocks draws images"
    return batch


def _own_rows(
    recipe: MergeRecipe, family: Family, batch: CalibrationBatch
) -> list[Int[np.ndarray, " n"]] | None:
    """Which images of a batch are of each source's own task; None where nothing tells."""
    if batch.tasks is None:
        return None
    tasks = np.array(batch.tasks)
    return [np.flatnonzero(tasks == family.own_task(source)) for source in recipe.sources]


def _own_inputs(
    model: ViTConfig, source: Checkpoint, images: Float[Tensor, "n 3 h w"]
) -> Iterator[Float[Tensor, "n tokens width"] | None]:
    """What each block's c_fc sees in a source; None, again and again, without images."""
    if not len(images):
        return itertools.repeat(None)
    return Tower(model, _Read(source, images.device)).block_inputs(images)


@dataclass(frozen=True)
class _Read(Mapping[str, Tensor]):
    """A source's weights in fp32 on the device, each read whenever it is wanted: none is held."""

    source: Checkpoint
    device: torch.device

    def __getitem__(self, name: str) -> Tensor:
        return self.source.read([name])[name].to(self.device, torch.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.source.shapes)

    def __len__(self) -> int:
        return len(self.source.shapes)


def node_left(
    inputs: Float[Tensor, "images tokens width"],
    layers: Sequence[Layer],
    merged: Layer,
    act: str,
    alpha: Sequence[float],
) -> Float[np.ndarray, " nodes"]:
    """abs(sigma(W x + b) - sum alpha_i sigma(W_i x + b_i)) of each node, mean over tokens and
    images: W and b are what the merge made of the block's c_fc, W_i and b_i a source's.

    Both sides see the same x. Pre-activations are fp32, all else doubles.
    """
    sigma, x = activation(act), inputs.flatten(0, 1)

    def gap(x: Tensor) -> Tensor:
        difference = _activated(x, merged, sigma)
        for weight, layer in zip(alpha, layers, strict=True):
            difference -= weight * _activated(x, layer, sigma)
        return difference

    return _mean(gap, zip(x.split(_size(merged)), strict=True), x)


def own_left(
    inputs: Float[Tensor, "images tokens width"],
    own_inputs: Float[Tensor, "images tokens width"],
    merged: Layer,
    own: Layer,
    act: str,
) -> Float[np.ndarray, " nodes"]:
    """abs(sigma(W x + b) - sigma(W_i x_i + b_i)) of each node, mean over tokens and images: x is
    what the block's c_fc sees in the merged model, x_i what it sees in the source.

    Pre-activations are fp32, all else doubles.
    """
    sigma, size = activation(act), _size(merged)
    x, u = inputs.flatten(0, 1), own_inputs.flatten(0, 1)

    def gap(x: Tensor, u: Tensor) -> Tensor:
        return _activated(x, merged, sigma).sub_(_activated(u, own, sigma))

    return _mean(gap, zip(x.split(size), u.split(size), strict=True), x)


def _activated(x: Tensor, layer: Layer, sigma: Activation) -> Tensor:
    """A c_fc's activations."""
    w, b = (part.to(x.device, x.dtype) for part in layer)
    return sigma(F.linear(x, w, b).to(wide(x)))


def _size(layer: Layer) -> int:
    """Tokens of a piece."""
    return max(1, PIECE // len(layer[1]))


def _mean(
    gap: Callable[..., Tensor], pieces: Iterable[tuple[Tensor, ...]], x: Float[Tensor, "t width"]
) -> Float[np.ndarray, " nodes"]:
    """The mean size of `gap` over all tokens x, a piece of them at a time."""

    def total(piece: tuple[Tensor, ...]) -> Tensor:
        return gap(*piece).abs_().sum(0).cpu().double()

    return (torch.stack(list(thread_map(total, pieces, x.device))).sum(0) / len(x)).numpy()
