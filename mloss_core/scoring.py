"""M-Loss of a whole block from each source's c_fc, in pieces that stay in a core's cache."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from .mloss import EPSILON, Activation, activation
from .pieces import thread_map
from .types import NodeScores

# Pre-activations of one piece, and nodes of them at the most: they and their share of the weights
# stay in a core's cache.
CHUNK = 1 << 18
NODES = 1 << 9
CHUNK_CUDA = 1 << 25
# Loss to activation below which a node is measured in doubles: fp32 would err by 1e-5 and more.
CLOSE = 2**-10
FEW = 32  # tokens that show whether many nodes are so close

Layer = tuple[Float[Tensor, "nodes width"], Float[Tensor, " nodes"]]  # a source's c_fc


def score_block(
    block: int,
    inputs: Float[Tensor, "images tokens width"],
    layers: Sequence[Layer],
    act: str,
    alpha: Sequence[float],
    product: torch.dtype = torch.float32,
    squared: bool = False,
) -> NodeScores:
    """M-Loss of one block (Eqs. 3, 4, 6, 7) from one shared input and each source's own c_fc.

    Works in pieces of some images and some nodes, a thread each and a source at a time, so that
    its memory depends neither on the number of sources nor on the number of images.

    Args:
        inputs: what the block's c_fc sees in the partly merged model (Algorithm 1, line 26).
        layers: each source's c_fc weight and bias.
        product: precision of the pre-activations; losses are never measured in less than fp32.
        squared: whether the nodes' squared losses are wanted too (the released code's).
    """
    sigma = activation(act)
    images, tokens, _ = inputs.shape
    nodes = len(layers[0][1])
    groups, chunks = pieces_of(nodes, tokens, inputs)
    sample = (inputs.flatten(0, 1)[:: 1 + images * tokens // FEW] * sigma.gain).to(product)
    close = _close(*_magnitudes(torch.float32, sample, layers, alpha, sigma))
    precision = wide(sample) if int(close.sum()) > nodes // 4 else torch.float32

    def losses(piece: tuple[slice, Tensor]) -> tuple[Tensor, Tensor]:
        some, chunk = piece
        # gain * (x w + b): the smaller factor is scaled, and weights stay as they are mapped.
        x = (chunk.flatten(0, 1) * sigma.gain).to(product)
        of_some = [(w[some], b[some]) for w, b in layers]
        merged, gap = _chunk_gap(precision, x, of_some, alpha, sigma)
        per_token = torch.stack([gap.square().sum(1), merged.square().sum(1), gap.sum(1)])
        # Squares of small losses would leave fp32's range.
        squares = [gap.to(wide(gap)).square_().sum(0)] if squared else []
        total = gap.sum(0)
        normalised = gap.div_(merged.add_(EPSILON * sigma.gain)).sum(0)
        return per_token, torch.stack([total, normalised, *squares])

    sums_of_pieces = list(thread_map(losses, itertools.product(groups, chunks), inputs.device))
    of_group = [
        sums_of_pieces[start : start + len(chunks)]
        for start in range(0, len(sums_of_pieces), len(chunks))
    ]
    sums = torch.cat([torch.stack([node for _, node in group]).sum(0) for group in of_group], 1)
    per_token = torch.stack([torch.cat([t for t, _ in group], 1) for group in of_group]).sum(0)
    node = (sums.double().cpu() / (images * tokens)).numpy()
    # Every loss was measured gain times too large; the normalised ones are ratios.
    gap_square, square, total = per_token.double().cpu()
    gap_norm, norm = gap_square.sqrt() / sigma.gain, square.sqrt() / sigma.gain
    return NodeScores(
        block=block,
        node=node[0] / sigma.gain,
        node_normalised=node[1],
        layer=float(gap_norm.mean()),
        layer_normalised=float((gap_norm / (norm + EPSILON)).mean()),
        per_image=(total.view(images, tokens).mean(1) / (nodes * sigma.gain)).numpy(),
        node_squared=node[2] / sigma.gain**2 if squared else None,
    )


def some_tokens(
    inputs: Float[Tensor, "images tokens width"], count: int, seed: int
) -> Float[Tensor, "images count width"]:
    """So many tokens of each image, drawn anew for each; the same for every device."""
    images, tokens, _ = inputs.shape
    order = np.random.default_rng(seed).random((images, tokens)).argsort(1)[:, :count]
    chosen = torch.from_numpy(np.sort(order, axis=1)).to(inputs.device)
    return inputs.take_along_dim(chosen[..., None], dim=1)


def pieces_of(
    nodes: int, tokens: int, inputs: Tensor, copies: int = 1
) -> tuple[list[slice], Sequence[Tensor]]:
    """Groups of nodes, and chunks of images, whose pre-activations fit into a cache.

    Args:
        copies: how many times they are alive at once.
    """
    images = len(inputs)
    if inputs.device.type != "cpu":
        return [slice(None)], inputs.split(max(1, CHUNK_CUDA // (tokens * nodes * copies)))
    many = min(nodes, NODES)
    at_most = torch.get_num_threads() * max(1, CHUNK // (tokens * many * copies))
    count = torch.get_num_threads() * math.ceil(images / at_most)  # as many for every thread
    groups = [slice(start, start + many) for start in range(0, nodes, many)]
    return groups, inputs.split(math.ceil(images / count))


def _chunk_gap(
    precision: torch.dtype,
    x: Float[Tensor, "t width"],
    layers: Sequence[Layer],
    alpha: Sequence[float],
    sigma: Activation,
) -> tuple[Float[Tensor, "t nodes"], Float[Tensor, "t nodes"]]:
    """Magnitudes of kernel(alpha . h), and of its distance to alpha . kernel(h), of one chunk of
    tokens; h and x are sigma's gain times what the paper calls so.

    The loss is a difference of nearly equal numbers: nodes at which the sources are so close that
    fp32's rounding would show in it are measured again in doubles, if not all are at once.
    """
    merged, gap = (m.float() for m in _magnitudes(precision, x, layers, alpha, sigma))
    if precision == torch.float32 and (nodes := _close(merged, gap).nonzero()[:, 0]).numel():
        few = [(w[nodes], b[nodes]) for w, b in layers]
        gap.index_copy_(1, nodes, _magnitudes(wide(x), x, few, alpha, sigma)[1].float())
    return merged, gap


def wide(x: Tensor) -> torch.dtype:
    """Doubles, where the device has them."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def _close(merged: Tensor, gap: Tensor) -> Bool[Tensor, " nodes"]:
    """Nodes whose sources are too close for fp32."""
    return gap.sum(0) < CLOSE * merged.sum(0)


def _magnitudes(
    dtype: torch.dtype,
    x: Tensor,
    layers: Iterable[Layer],
    alpha: Sequence[float],
    sigma: Activation,
) -> tuple[Tensor, Tensor]:
    """See `_chunk_gap`; pre-activations are rounded to x's precision, all else to dtype's.

    Rounding a pre-activation hardly moves the loss, whose slope in it is the difference of two
    nearly equal slopes of the activation.
    """
    mean_pre = mean_post = None
    for weight, (w, b) in zip(alpha, layers, strict=True):
        # One source's weights at a time in x's precision: the rest stay as they are stored.
        w, b = w.to(x.device, x.dtype), b.to(x.device, x.dtype)
        h = F.linear(x, w, b * sigma.gain).to(dtype)
        mean_pre = h * weight if mean_pre is None else mean_pre.add_(h, alpha=weight)
        h = sigma.kernel(h)
        mean_post = h.mul_(weight) if mean_post is None else mean_post.add_(h, alpha=weight)
    assert mean_pre is not None and mean_post is not None
    merged = sigma.kernel(mean_pre)
    gap = mean_post.sub_(merged).abs_()
    return merged.abs_(), gap
