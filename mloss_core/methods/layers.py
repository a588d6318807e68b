"""Merges that see what enters each linear layer: RegMean, RegMean++ and ESM.

All three read an uncentred Gram matrix, the mean of x x^T over the tokens x of a source's own
images, one layer and one source at a time: no more activations than a chunk's are ever held.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..architecture import BLOCKS
from ..mloss import wide
from ..types import BlockMerged, MergeRecipe
from ..vit import Tower, chunks
from . import matrices
from .matrices import LAYERS, polars, pseudo_inverse, svd
from .method import Models, OwnImages, Weights
from .rules import counts, simple_average

Gram = Float[Tensor, "in in"]
Matrix = Float[Tensor, "out in"]
PROJECTION = "visual.proj"
RTOL = 1e-12  # RegMean: below it a Gram matrix in doubles has no direction
POWER = 0.15  # ESM: of the eigenvalues that scale its directions


@runtime_checkable
class Gathered(Protocol):
    """What becomes of one layer, source by source."""

    def add(self, times: float, weight: Matrix, gram: Gram, tokens: int) -> None:
        """A source's weight, as often as it counts, and the Gram matrix of its layer's inputs."""
        ...

    def merged(self) -> Matrix:
        """The layer's merged weight."""
        ...


# What becomes of a layer, from its weight's name and the base's; None leaves it to a rule.
Layer = Callable[[str, Matrix], Gathered | None]


class Regression:
    """W = (sum_i W_i G_i) (sum_i G_i)^-1 (Jin et al. 2023, RegMean).

    Written on differences from the base, which is the same where the sum can be inverted; where it
    cannot, the directions that no image has take the mean of the sources.
    """

    def __init__(self, base: Matrix, off_diagonal: float):
        self.base, self.off_diagonal = base.to(wide(base)), off_diagonal
        size = base.shape[1]
        self.gram = self.base.new_zeros(size, size)
        self.cross, self.mean = torch.zeros_like(self.base), torch.zeros_like(self.base)
        self.times = 0.0

    def add(self, times: float, weight: Matrix, gram: Gram, tokens: int) -> None:
        """See `Gathered`."""
        own = gram.to(self.gram.dtype) / tokens
        scaled = own * self.off_diagonal
        scaled.diagonal().copy_(own.diagonal())
        delta = weight.to(self.gram.dtype) - self.base
        self.gram.add_(scaled, alpha=times)
        self.cross.add_(delta @ scaled, alpha=times)
        self.mean.add_(delta, alpha=times)
        self.times += times

    def merged(self) -> Matrix:
        """See `Gathered`."""
        mean = self.mean / self.times
        left = self.cross - mean @ self.gram
        diagonal = self.gram.diagonal()
        # A diagonal that is raised leaves no direction without images.
        if self.off_diagonal < 1 and diagonal.min() > RTOL * diagonal.max():
            solved = torch.cholesky_solve(left.T, torch.linalg.cholesky(self.gram)).T
        else:
            solved = left @ pseudo_inverse(self.gram, RTOL)
        return self.base + mean + solved


class Essential:
    """Essential subspaces: TSV-M's construction on the directions in which a source's own inputs
    move its outputs (ESM; its released code, see docs/methods.md)."""

    def __init__(self, base: Matrix, sources: int):
        self.base, self.rank = base, max(1, len(base) // sources)
        self.directions: list[Tensor] = []
        self.coordinates: list[Tensor] = []
        self.sizes: list[Tensor] = []

    def add(self, times: float, weight: Matrix, gram: Gram, tokens: int) -> None:
        """See `Gathered`."""
        delta = (weight - self.base).to(wide(weight)) * times
        values, vectors = _moved(delta, gram.to(delta.dtype))
        noise = len(delta) * torch.finfo(torch.float32).eps * values[-1]
        keep = min(self.rank, int((values > noise.clamp(min=0)).sum()))
        if not keep:
            return
        values, vectors = values.flip(0)[:keep], vectors.flip(1)[:, :keep]
        size = delta.norm()
        values = values / max(1, tokens - 1)
        scale = (values / values.mean()) ** POWER
        scale = scale / scale.mean()
        self.directions.append(vectors * scale)
        self.coordinates.append((vectors.T @ delta) * size**2 * scale[:, None])
        self.sizes.append(size)

    def merged(self) -> Matrix:
        """See `Gathered`."""
        if not self.directions:
            return self.base
        directions = torch.cat(self.directions, 1)
        coordinates = torch.cat(self.coordinates) / torch.stack(self.sizes).mean() ** 2
        columns = coordinates.norm(dim=0)
        coordinates = coordinates * (columns / columns.mean()) ** 2
        scale = 2 * svd(directions)[1].mean() * svd(coordinates)[1].mean()
        left, right = polars(directions, coordinates)
        merged = scale * (left @ right)
        return self.base + merged.to(self.base.dtype)


def _moved(delta: Matrix, gram: Gram) -> tuple[Float[Tensor, " n"], Float[Tensor, "out n"]]:
    """Eigenvalues, ascending, and eigenvectors of delta gram delta^T: the directions in which the
    outputs move. Of the min(out, in) that need not be zero, where the matrix's other side is the
    smaller; an eigenvector whose value is zero is none then."""
    if len(delta) <= len(gram):
        return torch.linalg.eigh(delta @ gram @ delta.T)
    values, vectors = torch.linalg.eigh(gram)
    root = delta @ (vectors * values.clamp(min=0).sqrt())
    values, vectors = torch.linalg.eigh(root.T @ root)
    tiny = torch.finfo(values.dtype).tiny
    return values, root @ vectors / values.clamp(min=tiny).sqrt()


def regmean(
    models: Models, recipe: MergeRecipe, own: Sequence[OwnImages], merged: Weights
) -> Iterator[BlockMerged]:
    """RegMean: each layer's inputs are those in the source itself (Jin et al. 2023)."""
    yield from _merge(models, recipe, own, merged, _regression(recipe), through_merged=False)


def regmean_plus_plus(
    models: Models, recipe: MergeRecipe, own: Sequence[OwnImages], merged: Weights
) -> Iterator[BlockMerged]:
    """RegMean++: a block's inputs come through the blocks merged so far; within the block they are
    the source's own (Nguyen et al. 2025). ln_post stays the base's."""
    yield from _merge(models, recipe, own, merged, _regression(recipe), through_merged=True)


def _regression(recipe: MergeRecipe) -> Layer:
    """Every layer by regression."""
    return lambda name, base: Regression(base, recipe.off_diagonal)


def esm(
    models: Models, recipe: MergeRecipe, own: Sequence[OwnImages], merged: Weights
) -> Iterator[BlockMerged]:
    """Essential subspaces where a layer's outputs are looked at, TSV-M in all other matrices; then
    each kind of layer is scaled by its norm, squared, over the blocks (ESM's released code)."""
    q = sum(a > 0 for a in recipe.alpha)

    def layer(name: str, base: Matrix) -> Gathered | None:
        looked = name.endswith(("attn.in_proj_weight", "mlp.c_fc.weight", "mlp.c_proj.weight"))
        return Essential(base, q) if looked else None

    rest = matrices.of_matrices(matrices.tsv_m)
    yield from _merge(models, recipe, own, merged, layer, through_merged=False, rest=rest)
    _scale_by_norm(models, merged)
    for name, base in models.base.items():
        merged[name] = base + recipe.scaling * (merged[name] - base)


def _scale_by_norm(models: Models, merged: Weights) -> None:
    for kind in LAYERS:
        names = [f"{BLOCKS}{block}.{kind}" for block in range(models.config.blocks)]
        sizes = {name: float((merged[name] - models.base[name]).norm()) for name in names}
        mean = float(np.mean(list(sizes.values()))) or 1.0
        for name, size in sizes.items():
            base = models.base[name]
            merged[name] = base + (size / mean) ** 2 * (merged[name] - base)


def _merge(
    models: Models,
    recipe: MergeRecipe,
    own: Sequence[OwnImages],
    merged: Weights,
    layer: Layer,
    *,
    through_merged: bool,
    rest: matrices.Rule = simple_average,
) -> Iterator[BlockMerged]:
    """Block by block; what `layer` gives nothing for is merged by the rule `rest`.

    Args:
        through_merged: whether a block's inputs come through the blocks merged so far; else each
            source's images run through the source alone.
    """
    walk = _Walk(models, recipe, merged, layer, through_merged, rest)
    walk.embed(own)
    for block in range(models.config.blocks):
        start = time.perf_counter()
        walk.merge(block)
        if block == models.config.blocks - 1:
            walk.project()
        yield merged_block(models, block, start)


class _Walk:
    """The sources' images on their way through the blocks, and what the blocks become."""

    def __init__(
        self,
        models: Models,
        recipe: MergeRecipe,
        merged: Weights,
        layer: Layer,
        through_merged: bool,
        rest: matrices.Rule,
    ):
        self.models, self.config, self.merged, self.layer = models, models.config, merged, layer
        self.through_merged, self.rest = through_merged, rest
        self.recipe = dataclasses.replace(recipe, scaling=1.0)  # lambda comes last, if at all
        self.alpha = torch.tensor(recipe.alpha, device=models.device)
        self.times = counts(self.alpha)
        self.outer = models.stored(models.config.outer_names())
        self.streams: list[Tensor] = []

    def embed(self, own: Sequence[OwnImages]) -> None:
        """Merges what is outside the blocks, and embeds the images."""
        self.merged |= self._by_rule(self.outer)
        if self.through_merged:
            for part in ("weight", "bias"):
                name = f"visual.ln_post.{part}"
                self.merged[name] = self.models.base[name]
        for i, images in enumerate(own):
            tower = Tower(self.config, self._through(self.outer, i))
            parts = [tower.embed(c) for c in chunks(images.pixels, self.config.tokens)]
            self.streams.append(torch.cat(parts))

    def merge(self, block: int) -> None:
        """Merges a block and moves the streams through it."""
        stored = self.models.stored(self.config.block_names(block))
        layers = {n: self.layer(n, self.models.base[n]) for n in stored if n.endswith(LAYERS)}
        gathered = {n: g for n, g in layers.items() if g is not None}
        for i, stream in enumerate(self.streams):
            weights = source_weights(stored, i, self.models)
            grams, moved, tokens = _grams(Tower(self.config, weights), block, stream)
            if not self.through_merged:
                self.streams[i] = moved
            for name, into in gathered.items():
                if self.times[i] > 0:
                    into.add(self.times[i], weights[name], grams[name], tokens)
        self.merged |= self._by_rule({n: t for n, t in stored.items() if n not in gathered})
        self.merged |= {n: g.merged().to(self.models.base[n]) for n, g in gathered.items()}
        if self.through_merged:
            tower = Tower(self.config, self.merged)
            for i, stream in enumerate(self.streams):
                parts = [tower.block(block, x) for x in chunks(stream, self.config.tokens)]
                self.streams[i] = torch.cat(parts)

    def project(self) -> None:
        """The projection as one more layer, whose inputs are ln_post of the class tokens."""
        base = self.models.base[PROJECTION]
        projection = self.layer(PROJECTION, base.T)
        if projection is None:
            return
        for i, stream in enumerate(self.streams):
            tower = Tower(self.config, self._through(self.outer, i))
            x = tower.norm(stream[:, 0], "visual.ln_post")
            weight = self.outer[PROJECTION][i].to(base)
            if self.times[i] > 0:
                projection.add(self.times[i], weight.T, _gram(x), len(x))
        self.merged[PROJECTION] = projection.merged().T.to(base).contiguous()

    def _through(self, stored: Mapping[str, Sequence[Tensor]], source: int) -> Weights:
        """The weights that a source's images run through."""
        if self.through_merged:
            return self.merged
        return source_weights(stored, source, self.models)

    def _by_rule(self, stored: Mapping[str, Sequence[Tensor]]) -> Weights:
        return start_of(self.models, stored, self.rest, self.alpha, self.recipe)


def start_of(
    models: Models,
    stored: Mapping[str, Sequence[Tensor]],
    rule: matrices.Rule,
    alpha: Tensor,
    recipe: MergeRecipe,
) -> Weights:
    """Tensors merged by a rule that needs no images."""
    of = {n: models.cache.vectors(n, models.base[n], s, None, None) for n, s in stored.items()}
    return {n: rule(v, alpha, recipe, n, None) + models.base[n] for n, v in of.items()}


def source_weights(stored: Mapping[str, Sequence[Tensor]], source: int, models: Models) -> Weights:
    """A source's tensors in fp32 on the device."""
    return {n: tensors[source].to(models.device, torch.float32) for n, tensors in stored.items()}


def merged_block(models: Models, block: int, start: float) -> BlockMerged:
    """The event of a merged block whose entries all count."""
    by_node, seconds = np.ones(models.config.nodes), time.perf_counter() - start
    return BlockMerged(block=block, kept=1.0, kept_by_node=by_node, seconds=seconds)


def layer_inputs(
    tower: Tower, block: int, x: Float[Tensor, "n t width"]
) -> Generator[tuple[str, Tensor], None, Tensor]:
    """What enters each linear layer of a block, by its weight's name; returns the stream after."""
    prefix = f"{BLOCKS}{block}."
    u = tower.attention_input(block, x)
    yield prefix + "attn.in_proj_weight", u
    mixed = tower.mixed(tower.linear(u, prefix + "attn.in_proj_", ""))
    yield prefix + "attn.out_proj.weight", mixed
    x = x + tower.linear(mixed, prefix + "attn.out_proj")
    u = tower.mlp_input(block, x)
    yield prefix + "mlp.c_fc.weight", u
    hidden = tower.hidden(block, u)
    yield prefix + "mlp.c_proj.weight", hidden
    return x + tower.linear(hidden, prefix + "mlp.c_proj")


def _grams(tower: Tower, block: int, stream: Tensor) -> tuple[dict[str, Gram], Tensor, int]:
    """Sums of x x^T of a block's layers, the stream after the block, and the number of tokens."""
    grams: dict[str, Gram] = {}
    moved = []

    def through(chunk: Tensor) -> Generator[tuple[str, Tensor], None, None]:
        moved.append((yield from layer_inputs(tower, block, chunk)))

    for chunk in chunks(stream, tower.family.tokens):
        for name, x in through(chunk):
            gram = _gram(x.flatten(0, 1))
            grams[name] = grams[name].add_(gram) if name in grams else gram
    return grams, torch.cat(moved), stream.shape[0] * stream.shape[1]


def _gram(x: Float[Tensor, "tokens in"]) -> Gram:
    """The sum of x x^T in doubles: in fp32, rounding would point where no token does."""
    double = x.to(wide(x))
    return double.T @ double
