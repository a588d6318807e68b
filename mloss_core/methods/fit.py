"""Our merge by fitting activations: every linear layer in closed form, along the merge.

docs/fit.md derives it from Eqs. 3 to 5 of M-Loss.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..architecture import BLOCKS
from ..mloss import wide
from ..types import BlockMerged, MergeRecipe
from ..vit import Tower, chunks
from . import matrices, rules
from .layers import merged_block, source_weights, start_of
from .matrices import of_matrices, pseudo_inverse
from .method import Models, OwnImages, Rule, Weights

Matrix = Float[Tensor, "out in1"]  # the bias is its last column
STARTS: dict[str, Rule] = {
    "iso-c": of_matrices(matrices.iso_c),
    "tsv-m": of_matrices(matrices.tsv_m),
    "wudi-closed": of_matrices(matrices.wudi_closed, "layers", "base"),
    "ties": rules.ties,
    "simple-average": rules.simple_average,
}
# Of the weights of task vectors at a node, relative to the mean of their own Gram's diagonal;
# chosen on validation images of the demo family among 0.01, 0.03, 0.1, 0.3 and 1.
NODE_RIDGE = 0.1
IMAGES = 64  # of a task at which penalties count as they are; with fewer they count for more
ROWS = 256  # nodes whose task vectors are held at once

# Of a source, on a chunk of its images: inputs and targets of a layer.
Pairs = Iterator[tuple[Tensor, Tensor]]


class NormalEquations:
    """G = sum x x^T and C = sum y x^T over tokens, x with a one at its end for the bias."""

    def __init__(self) -> None:
        self.gram: Tensor | None = None
        self.cross: Tensor | None = None

    def add(self, x: Float[Tensor, "*n in"], y: Float[Tensor, "*n out"], weight: float) -> None:
        """Adds tokens, each counted `weight` times."""
        x = F.pad(x.flatten(0, -2), (0, 1), value=1.0)
        y = y.flatten(0, -2)
        if self.gram is None or self.cross is None:
            size, double = x.shape[1], wide(x)
            self.gram = x.new_zeros(size, size, dtype=double)
            self.cross = x.new_zeros(y.shape[1], size, dtype=double)
        self.gram.add_(x.T @ x, alpha=weight)
        self.cross.add_(y.T @ x, alpha=weight)


def fit(
    models: Models, recipe: MergeRecipe, own: Sequence[OwnImages], merged: Weights
) -> Iterator[BlockMerged]:
    """W = argmin sum_i ||W x_i - y_i||^2 + penalties, layer by layer along the merge.

    x_i enters the layer in the merged model, on images of source i's task; y_i is what the source
    has there: its queries, keys and values, its pre-activations, and for out_proj and c_proj its
    residual stream less the merged one, so that errors of earlier layers are repaired. The penalty
    draws a node towards the start plus a combination of its task vectors, and less strongly that
    combination towards none.
    """
    config, alpha = models.config, torch.tensor(recipe.alpha, device=models.device)
    rule = STARTS[recipe.start]
    outer = models.stored(config.outer_names())
    merged |= start_of(models, outer, rule, alpha, recipe)
    members = [i for i, weight in enumerate(recipe.alpha) if weight > 0]
    ours, at_source = {}, {}
    for i in members:
        pixels, towers = own[i].pixels, (merged, source_weights(outer, i, models))
        ours[i], at_source[i] = (
            torch.cat([Tower(config, w).embed(c) for c in chunks(pixels, config.tokens)])
            for w in towers
        )
    # A penalty is worth a number of images: it counts for the more, the fewer there are.
    strength = IMAGES / sum(recipe.alpha[i] * len(own[i].pixels) for i in members)
    for block in range(config.blocks):
        begun = time.perf_counter()
        stored = models.stored(config.block_names(block))
        merged |= start_of(models, stored, rule, alpha, recipe)
        step = _Block(models, recipe, block, stored, merged, strength)
        step.run(ours, at_source)
        yield merged_block(models, block, begun)


class _Block:
    """One block's four layers, fitted one after the other.

    Streams are by source: `ours` through the merge so far, `at_source` through the source itself.
    """

    def __init__(
        self,
        models: Models,
        recipe: MergeRecipe,
        block: int,
        stored: Mapping[str, Sequence[Tensor]],
        merged: Weights,
        strength: float,
    ):
        self.models, self.recipe, self.block, self.stored = models, recipe, block, stored
        self.merged, self.config = merged, models.config
        self.tower = Tower(self.config, merged)
        # Of the last block's stream only the class token goes on.
        self.last = block == self.config.blocks - 1
        self.strength = strength

    def run(self, ours: dict[int, Tensor], at_source: dict[int, Tensor]) -> None:
        """Fits the block and moves both streams through it."""
        mixed: dict[int, Tensor] = {}
        halfway: dict[int, Tensor] = {}

        def source(i: int) -> Tower:
            return Tower(self.config, source_weights(self.stored, i, self.models))

        def attention(i: int) -> Pairs:
            tower, after = source(i), []
            for x, s in self._chunks(ours[i], at_source[i]):
                qkv = tower.qkv(self.block, s)
                yield self.tower.attention_input(self.block, x), qkv
                out = tower.linear(tower.mixed(qkv), f"{BLOCKS}{self.block}.attn.out_proj")
                after.append(s + out)
            halfway[i] = torch.cat(after)

        def output(i: int) -> Pairs:
            mixed[i] = torch.cat(
                [self.tower.mixed(self.tower.qkv(self.block, x)) for x in self._split(ours[i])]
            )
            yield self._class(mixed[i]), self._class(halfway[i] - ours[i])

        def pre_activations(i: int) -> Pairs:
            tower, after = source(i), []
            for x, s in self._chunks(ours[i], halfway[i]):
                inputs = tower.mlp_input(self.block, s)
                h = tower.linear(inputs, f"{BLOCKS}{self.block}.mlp.c_fc")
                yield self._class(self.tower.mlp_input(self.block, x)), self._class(h)
                after.append(tower.mlp(self.block, s, inputs))
            at_source[i] = torch.cat(after)

        def activations(i: int) -> Pairs:
            for x, s in self._chunks(ours[i], at_source[i]):
                hidden = self.tower.hidden(self.block, self.tower.mlp_input(self.block, x))
                yield self._class(hidden), self._class(s - x)

        self._fit("attn.in_proj_weight", "attn.in_proj_bias", attention, ours)
        self._fit("attn.out_proj.weight", "attn.out_proj.bias", output, ours)
        for i, x in ours.items():
            ours[i] = x + self.tower.linear(mixed[i], f"{BLOCKS}{self.block}.attn.out_proj")
        mixed.clear()
        self._fit("mlp.c_fc.weight", "mlp.c_fc.bias", pre_activations, ours)
        self._fit("mlp.c_proj.weight", "mlp.c_proj.bias", activations, ours)
        for i, x in ours.items():
            parts = [self.tower.mlp(self.block, c, self.tower.mlp_input(self.block, c))
                     for c in self._split(x)]  # fmt: skip
            ours[i] = torch.cat(parts)

    def _split(self, x: Tensor) -> Iterator[Tensor]:
        return chunks(x, self.config.tokens)

    def _chunks(self, x: Tensor, s: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self._split(x), self._split(s), strict=True)

    def _class(self, x: Tensor) -> Tensor:
        return x[:, :1] if self.last else x

    def _fit(
        self, weight: str, bias: str, pairs: Callable[[int], Pairs], ours: Mapping[int, Tensor]
    ) -> None:
        """Fits one layer to all sources' pairs, each source counting by its merging weight."""
        equations = NormalEquations()
        for i, stream in ours.items():
            tokens = len(stream) * (1 if self.last and "in_proj" not in weight else stream.shape[1])
            for x, y in pairs(i):
                equations.add(x, y, self.recipe.alpha[i] / tokens)
        assert equations.gram is not None and equations.cross is not None
        names = tuple(f"{BLOCKS}{self.block}.{part}" for part in (weight, bias))
        start = _joined(*(self.merged[n] for n in names))
        deltas = [self._delta(names, i) for i in ours]
        fitted = solve(
            equations.gram, equations.cross, start, deltas, self.recipe.ridge, self.strength
        )
        self.merged[names[0]] = fitted[:, :-1].to(start.dtype).contiguous()
        self.merged[names[1]] = fitted[:, -1].to(start.dtype).contiguous()

    def _delta(self, names: tuple[str, ...], i: int) -> Callable[[slice], Matrix]:
        """Rows of a source's task vector, with the bias at their end."""
        base = self.models.base

        def of(rows: slice) -> Matrix:
            parts = (self.stored[n][i][rows].to(base[n]) - base[n][rows] for n in names)
            return _joined(*parts)

        return of


def _joined(weight: Tensor, bias: Tensor) -> Matrix:
    return torch.cat([weight, bias[:, None]], 1)


def solve(
    gram: Float[Tensor, "in1 in1"],
    cross: Matrix,
    start: Matrix,
    deltas: Sequence[Callable[[slice], Matrix]],
    ridge: float,
    strength: float = 1.0,
) -> Matrix:
    """The layer of least squares with both penalties, in doubles.

    First each node's combination of its task vectors, c_j = argmin ||(S_j + c_j D_j) x - y_j||^2 +
    mu' |c_j|^2; then W = argmin ||W x - y||^2 + mu ||W - S - c D||^2. mu is `ridge` times the mean
    of the Gram's diagonal, mu' NODE_RIDGE times that of the Grams of D_j x.

    Args:
        gram, cross: means of x x^T and y x^T over tokens.
        deltas: each source's task vector, by rows.
        strength: of both penalties.
    """
    start = start.to(gram.dtype)
    towards = start + _combined(gram, cross - start @ gram, deltas, strength)
    penalty = strength * ridge * gram.diagonal()[:-1].mean()
    ridged = gram + penalty * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    left = cross - towards @ gram
    factor, failed = torch.linalg.cholesky_ex(ridged)
    if int(failed):  # as where nothing enters the layer but its bias
        return towards + left @ pseudo_inverse(ridged)
    return towards + torch.cholesky_solve(left.T, factor).T


def _combined(
    gram: Tensor, left: Matrix, deltas: Sequence[Callable[[slice], Matrix]], strength: float
) -> Matrix:
    """sum_i c_ji D_ij of every node j, fitted to what the start leaves."""
    single, pieces = (
        gram.float(),
        [slice(start, start + ROWS) for start in range(0, len(left), ROWS)],
    )

    def stacked(rows: slice) -> Float[Tensor, "rows q in1"]:
        return torch.stack([delta(rows) for delta in deltas], 1)

    grams, crosses = [], []
    for rows in pieces:
        d = stacked(rows)
        grams.append(((d @ single) @ d.mT).to(gram.dtype))
        crosses.append(d.to(gram.dtype) @ left[rows][:, :, None])
    own, cross = torch.cat(grams), torch.cat(crosses)
    mean = own.diagonal(dim1=1, dim2=2).mean()
    if not mean > 0:  # sources are the base here
        return torch.zeros_like(left)
    ridge = (
        strength * NODE_RIDGE * mean * torch.eye(len(deltas), dtype=own.dtype, device=own.device)
    )
    c = torch.linalg.solve(own + ridge, cross)
    parts = [(stacked(rows).mT.to(gram.dtype) @ c[rows])[:, :, 0] for rows in pieces]
    return torch.cat(parts)
