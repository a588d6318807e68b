"""The gap that is left after a merge: at each node, the merged model against the ensemble."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..activations import activation
from ..architecture import c_fc
from ..data.calibration import preprocess
from ..families.family import Family
from ..hardware import device as devices
from ..mloss import Layer, wide
from ..parallel import thread_map
from ..recipe import calibration_of, check
from ..types import MergeRecipe
from ..vit import Tower

PIECE = 1 << 20  # pre-activations of one piece


@dataclass(frozen=True, kw_only=True)
class BlockLeft:
    """The gap that is left at the nodes of one block, mean over tokens and images."""

    block: int
    node: Float[np.ndarray, " nodes"]


def left_after(
    recipe: MergeRecipe,
    family: Family,
    weights: Mapping[str, Tensor],
    *,
    device: str = "auto",
) -> Iterator[BlockLeft]:
    """What a merge leaves of the gap, block by block: see `node_left`. Of a plain average it is
    the paper's M-Loss (Eq. 4) along that merge.

    Args:
        recipe: whose sources, merging weights and calibration images count, whatever its method.
        weights: of the merged tower.
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        InputError: before any work, where the recipe or the files are wrong.
        OutOfMemory: the work did not fit.
    """
    check(recipe, family)
    place = devices.choose(device)
    measured = dataclasses.replace(recipe, method="m-ties", blocks=None, ranks="m-loss")
    batch = calibration_of(measured, family)
    assert batch is not None, "M-TIES on all blocks draws images"
    sources = [family.source(name) for name in recipe.sources]
    with devices.reported_memory(place.type):
        merged = {name: tensor.to(place) for name, tensor in weights.items()}
        images = preprocess(batch.images, family.model, place)
        for block, inputs in enumerate(Tower(family.model, merged).block_inputs(images)):
            weight, bias = c_fc(block) + ".weight", c_fc(block) + ".bias"
            stored = [source.read([weight, bias]) for source in sources]
            layers = [(tensors[weight], tensors[bias]) for tensors in stored]
            own = merged[weight], merged[bias]
            node = node_left(inputs, layers, own, family.model.activation, recipe.alpha)
            yield BlockLeft(block=block, node=node)


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
    nodes = len(merged[1])

    def activated(x: Tensor, layer: Layer) -> Tensor:
        w, b = (part.to(x.device, x.dtype) for part in layer)
        return sigma(F.linear(x, w, b).to(wide(x)))

    def total(x: Tensor) -> Tensor:
        gap = activated(x, merged)
        for weight, layer in zip(alpha, layers, strict=True):
            gap -= weight * activated(x, layer)
        return gap.abs_().sum(0).cpu().double()

    pieces = x.split(max(1, PIECE // nodes))
    return (torch.stack(list(thread_map(total, pieces, x.device))).sum(0) / len(x)).numpy()
