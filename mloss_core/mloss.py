"""M-Loss: how far "average, then activate" is from "activate, then average".

Equations are those of M-Loss (Wang et al., AAAI 2026). Each is computed per token and then
averaged over tokens and images. One kernel, `_gap`, serves all: a merge is one row of merging
weights, sets of sources are a matrix of them, a single node is a layer of one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from .activations import Activation, activation
from .errors import BadValue
from .parallel import thread_map
from .types import NodeScores, check_rates, check_weights

EPSILON = 1e-4
# Loss to activation below which a node is measured in doubles: fp32 would err by 1e-5 and more.
CLOSE = 2**-10
FEW = 64  # tokens and nodes that show whether many nodes are so close
# Pre-activations of one piece, and nodes of them at the most: they and their share of the weights
# stay in a core's cache.
CHUNK = 3 << 17
NODES = 1 << 9
CHUNK_CUDA = 1 << 25

Layer = tuple[Float[Tensor, "nodes width"], Float[Tensor, " nodes"]]  # a source's c_fc
Alphas = Float[np.ndarray, "sets q"]
# A source's pre-activations, by its number, at some of the nodes.
PreActivations = Callable[[int, slice | Tensor], Float[Tensor, "tokens nodes"]]


@dataclass(frozen=True)
class Gap:
    """Both sides of M-Loss at every token and node, for each row of merging weights.

    Args:
        size: abs(sigma(alpha . h) - alpha . sigma(h)).
        merged: abs(sigma(alpha . h)).
        gain: what both are multiplied by, see `Activation`.
    """

    size: Float[Tensor, "sets tokens nodes"]
    merged: Float[Tensor, "sets tokens nodes"]
    gain: float = 1.0


def token_gap(
    h: Float[Tensor, "q *tokens nodes"],
    act: str,
    weights: Sequence[float] | Alphas | None = None,
) -> Gap:
    """The gap of every token and node, before anything is averaged; h is left as it is.

    Args:
        h: pre-activations of q sources.
        act: name of the activation, a key of ACTIVATIONS.
        weights: merging weights alpha that sum to 1, or a row of them for each set of sources; None
            means 1/q each (Remark 1).

    Raises:
        BadValue: the weights are not one per source, or do not sum to 1.
        UnknownName: no such activation.
    """
    sigma = activation(act)
    alphas = np.atleast_2d(np.full(len(h), 1 / len(h)) if weights is None else np.array(weights))
    for row in alphas:
        check_weights(row.tolist(), len(h))
    tokens = h.reshape(len(h), -1, h.shape[-1])
    return _careful_gap(lambda i, nodes: tokens[i][:, nodes] * sigma.gain, alphas, sigma, tokens)


def node_mloss(
    gap: Gap,
    *,
    normalised: bool = False,
    squared: bool = False,
    eps: float = EPSILON,
    tokens: int | None = None,
) -> Float[Tensor, "sets nodes"]:
    """Node-level M-Loss, mean over tokens (Eq. 4; Eq. 7 if normalised), in doubles.

    Args:
        normalised: divide each token's loss by abs(sigma(alpha . h)) + eps.
        squared: square each token's loss first, which is what the authors' released code ranks by.
        tokens: of the whole batch that this is a piece of: the pieces' losses add up to its mean.
    """
    loss = gap.size
    if normalised:
        loss = loss / (gap.merged + eps * gap.gain)
    if squared:  # squares of small losses would leave fp32's range
        loss = loss.to(wide(loss)).square_()
    unit = 1.0 if normalised else gap.gain**2 if squared else gap.gain
    return loss.sum(1).cpu().double() / (unit * (tokens or loss.shape[1]))


def node_sums(gap: Gap) -> Float[Tensor, "3 sets tokens"]:
    """Over the nodes, for each token: the loss, its square, and the square of sigma(alpha . h).

    Groups of nodes add up to the layer's.
    """
    sums = (gap.size.sum(2), gap.size.square().sum(2), gap.merged.square().sum(2))
    unit = torch.tensor([gap.gain, gap.gain**2, gap.gain**2], dtype=torch.float64)
    return torch.stack(sums).cpu().double() / unit[:, None, None]


def layer_mloss(
    sums: Float[Tensor, "3 sets tokens"], *, normalised: bool = False, eps: float = EPSILON
) -> Float[Tensor, "sets tokens"]:
    """Layer-level M-Loss of each token (Eq. 3; Eq. 6 if normalised), from its `node_sums`."""
    _, gap_square, merged_square = sums
    loss = gap_square.sqrt()
    return loss / (merged_square.sqrt() + eps) if normalised else loss


def keep_rates(
    scores: Float[np.ndarray, " nodes"], keep: float, variation: float, *, reverse: bool = False
) -> Float[np.ndarray, " nodes"]:
    """Keep rate of every node, k_j = k - e * RankNorm(score_j) (Algorithm 1, line 15).

    RankNorm is rank / (nodes - 1); equal scores are ordered by node index.

    Args:
        scores: node M-Loss; the higher, the fewer parameters are kept.
        keep: base keep rate k, in (0, 1].
        variation: pruning variation e, in [0, k].
        reverse: the same ranks from the other end, as a control: the highest score keeps most.

    Raises:
        BadValue: rates out of range, or scores that are missing or not finite.
    """
    check_rates(keep, variation)
    scores = np.asarray(scores)
    if scores.ndim != 1 or scores.size == 0 or not np.isfinite(scores).all():
        problem = f"of shape {scores.shape} are missing or not finite"
        raise BadValue("scores", "", problem, "compute them first; none are ever invented")
    rank = np.empty(scores.size, dtype=np.int64)
    rank[np.argsort(scores, kind="stable")] = np.arange(scores.size)
    if reverse:
        rank = scores.size - 1 - rank
    return keep - variation * (rank / max(1, scores.size - 1))


# What M-Loss of a whole block can mean, in the order of SetLosses: the paper's equations.
MEASURES = {
    "node": "mean over the nodes (Eq. 4)",
    "layer": "layer (Eq. 3)",
    "normalised": "normalised layer (Eq. 6)",
}


@dataclass(frozen=True, kw_only=True)
class SetLosses:
    """M-Loss of sets of sources in one block, image by image.

    Args:
        per_image: in the order of MEASURES, each a mean over the tokens of each image.
        seconds: wall time of the block.
    """

    block: int
    per_image: Float[np.ndarray, "3 sets images"]
    seconds: float

    def of(self, measure: str) -> Float[np.ndarray, "sets images"]:
        """One of the MEASURES."""
        return self.per_image[list(MEASURES).index(measure)]


# What can be measured of every node, and how `node_mloss` is asked for it.
BY_NODE: dict[str, dict[str, bool]] = {
    "node": {},
    "node_normalised": {"normalised": True},
    "node_squared": {"squared": True},
}


@dataclass(frozen=True, kw_only=True)
class BlockLosses:
    """M-Loss of one block, for each row of merging weights.

    Args:
        per_image: in the order of MEASURES, each a mean over the tokens of each image.
        node, node_normalised: Eqs. 4 and 7 of every node; None unless asked for.
        node_squared: of the released code, likewise.
    """

    per_image: Float[np.ndarray, "3 sets images"]
    node: Float[np.ndarray, "sets nodes"] | None = None
    node_normalised: Float[np.ndarray, "sets nodes"] | None = None
    node_squared: Float[np.ndarray, "sets nodes"] | None = None


def block_losses(
    inputs: Float[Tensor, "images tokens width"],
    layers: Sequence[Layer],
    act: str,
    alphas: Alphas,
    *,
    product: torch.dtype = torch.float32,
    by_node: Sequence[str] = (),
) -> BlockLosses:
    """M-Loss of one block from one shared input and each source's own c_fc.

    Works in pieces of some images and some nodes, a thread each and a source at a time, so that
    its memory depends neither on the number of sources nor on the number of images.

    Args:
        inputs: what the block's c_fc sees.
        layers: each source's c_fc weight and bias.
        alphas: merging weights of each set, zero for the sources that are not in it.
        product: precision of the pre-activations; losses are never measured in less than fp32.
        by_node: what is wanted of every node, keys of BY_NODE.
    """
    sigma = activation(act)
    images, tokens, _ = inputs.shape
    nodes, total = len(layers[0][1]), images * tokens
    copies = 1 if len(alphas) == 1 else sum(alphas.shape)
    groups, chunks = _pieces(nodes, tokens, inputs, copies)

    def scaled(part: Tensor) -> Tensor:
        return (part.to(inputs) * sigma.gain).to(product)

    def some(rows: slice) -> list[Layer]:
        # gain * (x w + b): the smaller factors are scaled, and weights stay as they are mapped.
        return [(w[rows], scaled(b[rows])) for w, b in layers]

    sample = scaled(inputs.flatten(0, 1)[:: 1 + total // FEW])
    few = _c_fc(sample, some(slice(None, None, 1 + nodes // FEW)))
    close = _close(_gap(few, alphas, sigma)).double().mean() > 0.25

    def losses(piece: tuple[list[Layer], Tensor]) -> tuple[Tensor, list[Tensor]]:
        group, chunk = piece
        x = scaled(chunk.flatten(0, 1))
        h = _c_fc(x, group)
        gap = _gap(h, alphas, sigma, wide(x)) if close else _careful_gap(h, alphas, sigma, x)
        return node_sums(gap), [node_mloss(gap, tokens=total, **BY_NODE[n]) for n in by_node]

    pieces = list(thread_map(losses, itertools.product(map(some, groups), chunks), inputs.device))
    of_group = [pieces[start : start + len(chunks)] for start in range(0, len(pieces), len(chunks))]
    sums = torch.stack([torch.cat([s for s, _ in group], 2) for group in of_group]).sum(0)
    of_nodes = {
        name: torch.cat([torch.stack([n[i] for _, n in group]).sum(0) for group in of_group], 1)
        for i, name in enumerate(by_node)
    }
    measures = [sums[0] / nodes, layer_mloss(sums), layer_mloss(sums, normalised=True)]
    per_image = torch.stack(measures).view(3, len(alphas), images, tokens).mean(3).numpy()
    return BlockLosses(per_image=per_image, **{name: n.numpy() for name, n in of_nodes.items()})


def score_block(
    block: int,
    inputs: Float[Tensor, "images tokens width"],
    layers: Sequence[Layer],
    act: str,
    alpha: Sequence[float],
    product: torch.dtype = torch.float32,
    squared: bool = False,
) -> NodeScores:
    """M-Loss of one block and its nodes (Eqs. 3, 4, 6, 7) for one merge; see `block_losses`.

    Args:
        inputs: what the block's c_fc sees in the partly merged model (Algorithm 1, line 26).
        squared: whether the nodes' squared losses are wanted too (the released code's).
    """
    by_node = ("node", "node_normalised", *(["node_squared"] * squared))
    alphas = np.array([alpha])
    losses = block_losses(inputs, layers, act, alphas, product=product, by_node=by_node)
    assert losses.node is not None and losses.node_normalised is not None
    mean, layer, layer_normalised = losses.per_image[:, 0]
    return NodeScores(
        block=block,
        node=losses.node[0],
        node_normalised=losses.node_normalised[0],
        layer=float(layer.mean()),
        layer_normalised=float(layer_normalised.mean()),
        per_image=mean,
        node_squared=losses.node_squared[0] if losses.node_squared is not None else None,
    )


def some_tokens(
    inputs: Float[Tensor, "images tokens width"], count: int, seed: int
) -> Float[Tensor, "images count width"]:
    """So many tokens of each image, drawn anew for each; the same for every device."""
    images, tokens, _ = inputs.shape
    order = np.random.default_rng(seed).random((images, tokens)).argsort(1)[:, :count]
    chosen = torch.from_numpy(np.sort(order, axis=1)).to(inputs.device)
    return inputs.take_along_dim(chosen[..., None], dim=1)


def wide(x: Tensor) -> torch.dtype:
    """Doubles, where the device has them."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def _c_fc(x: Float[Tensor, "t width"], layers: Sequence[Layer]) -> PreActivations:
    """A source's pre-activations, or a multiple if x and the biases are multiples."""

    def of_source(i: int, nodes: slice | Tensor) -> Tensor:
        # One source's weights at a time in x's precision: the rest stay as they are stored.
        w, b = (part[nodes] for part in layers[i])
        return F.linear(x, w.to(x), b)

    return of_source


def _gap(
    h: PreActivations,
    alphas: Alphas,
    sigma: Activation,
    dtype: torch.dtype = torch.float32,
    nodes: slice | Tensor = slice(None),
) -> Gap:
    """The gap for each row of merging weights, a source at a time; h is sigma's gain times what the
    paper calls so, and so is the gap.

    Pre-activations are rounded to their own precision, all else to dtype's. Rounding a
    pre-activation hardly moves the loss, whose slope in it is the difference of two nearly equal
    slopes of the activation.
    """
    members = np.flatnonzero(alphas.any(0)).tolist()
    if len(alphas) == 1:  # a source at a time: nothing grows with their number
        mean_pre, mean_post = (torch.tensor(0.0, dtype=dtype) for _ in range(2))
        for i, weight in zip(members, alphas[0, members].tolist(), strict=True):
            pre = h(i, nodes).to(dtype)
            mean_pre = mean_pre.add_(pre, alpha=weight) if mean_pre.ndim else pre * weight
            post = sigma.kernel(pre)  # may overwrite pre
            mean_post = mean_post.add_(post, alpha=weight) if mean_post.ndim else post.mul_(weight)
        mean_pre, mean_post = mean_pre[None], mean_post[None]
    else:
        pre = torch.stack([h(i, nodes).to(dtype) for i in members])
        weights = torch.from_numpy(alphas[:, members]).to(pre)
        mean_pre = torch.tensordot(weights, pre, 1)
        mean_post = torch.tensordot(weights, sigma.kernel(pre), 1)
    merged = sigma.kernel(mean_pre)
    return Gap(mean_post.sub_(merged).abs_(), merged.abs_(), sigma.gain)


def _close(gap: Gap) -> Bool[Tensor, "sets nodes"]:
    """Nodes whose sources are too close for fp32."""
    return gap.size.sum(1) < CLOSE * gap.merged.sum(1)


def _careful_gap(h: PreActivations, alphas: Alphas, sigma: Activation, like: Tensor) -> Gap:
    """The gap in `like`'s precision, at least fp32, and in doubles where fp32 would show.

    The loss is a difference of nearly equal numbers: nodes at which the sources of a set are so
    close that fp32's rounding would show in it are measured again.
    """
    precision = torch.promote_types(like.dtype, torch.float32)
    gap = _gap(h, alphas, sigma, precision)
    if precision == wide(like):
        return gap
    for s, close in enumerate(_close(gap)):
        if (nodes := close.nonzero()[:, 0]).numel():
            precise = _gap(h, alphas[s : s + 1], sigma, wide(like), nodes)
            gap.size[s].index_copy_(1, nodes, precise.size[0].to(precision))
    return gap


def _pieces(
    nodes: int, tokens: int, inputs: Tensor, copies: int
) -> tuple[list[slice], Sequence[Tensor]]:
    """Groups of nodes, and chunks of images, of which so many copies fit into a cache."""
    images = len(inputs)
    if inputs.device.type != "cpu":
        return [slice(None)], inputs.split(max(1, CHUNK_CUDA // (tokens * nodes * copies)))
    many = min(nodes, NODES)
    at_most = torch.get_num_threads() * max(1, CHUNK // (tokens * many * copies))
    count = torch.get_num_threads() * math.ceil(images / at_most)  # as many for every thread
    groups = [slice(start, start + many) for start in range(0, nodes, many)]
    return groups, inputs.split(math.ceil(images / count))
