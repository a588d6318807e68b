"""SMILE (Tang et al. 2024): the base, with a low-rank expert of each source, chosen token by token.

Not one model: every linear layer keeps all sources' experts, and routes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..architecture import BLOCKS
from ..types import BlockMerged, MergeRecipe
from ..vit import Tower, chunks
from .layers import merged_block
from .matrices import LAYERS, svd
from .method import Models

RANK, GATE = 128, 1  # published: of an expert, and directions that route


class Smile:
    """Base, experts and routers; only linear layers of blocks have experts.

    A source's score at a token x is ||V_i[:, :GATE]^T x||; softmax over the sources, and the best
    one adds U_i S_i V_i^T x and its bias's change.
    """

    def __init__(self, models: Models, recipe: MergeRecipe):
        self.models, self.sources = models, recipe.sources
        self.down: dict[str, Float[Tensor, "q rank in"]] = {}
        self.up: dict[str, Float[Tensor, "q out rank"]] = {}
        self.bias: dict[str, Float[Tensor, "q out"]] = {}
        self.tower = Tower(models.config, models.base, self._experts)

    def prepare(self, recipe: MergeRecipe) -> Iterator[BlockMerged]:
        """The experts of each block; required before `features`."""
        for block in range(self.models.config.blocks):
            start = time.perf_counter()
            for part in LAYERS:
                self._decompose(f"{BLOCKS}{block}.{part}")
            yield merged_block(self.models, block, start)

    def features(self, images: Float[Tensor, "n 3 h w"], task: str) -> Float[Tensor, "n embed"]:
        """Image embeddings, not normalised; the same for every task."""
        return self.tower.features(images)

    def routes(
        self, images: Float[Tensor, "n 3 h w"]
    ) -> Iterator[dict[str, Int[Tensor, "n tokens"]]]:
        """Block by block, which source each of LAYERS gives a token to, the class token first.

        The last block's layers are given all tokens, too; `features` needs its class token alone.
        """
        chosen: dict[str, list[Tensor]] = {}

        def noted(name: str, x: Tensor) -> Tensor:
            chosen.setdefault(name, []).append(self._chosen(name, x))
            return self._experts(name, x)

        tower = Tower(self.models.config, self.models.base, noted)
        tokens = self.models.config.tokens
        stream = torch.cat([tower.embed(chunk) for chunk in chunks(images, tokens)])
        for block in range(self.models.config.blocks):
            stream = torch.cat([tower.block(block, chunk) for chunk in chunks(stream, tokens)])
            yield {part: torch.cat(chosen.pop(f"{BLOCKS}{block}.{part}")) for part in LAYERS}

    def _decompose(self, name: str) -> None:
        bias = name.removesuffix("weight") + "bias"
        stored = self.models.stored({name: (), bias: ()})
        base, downs, ups, biases = self.models.base, [], [], []
        for weight, offset in zip(stored[name], stored[bias], strict=True):
            u, s, v = svd(weight.to(base[name]) - base[name])
            ups.append((u[:, :RANK] * s[:RANK]).clone())
            downs.append(v[:RANK].clone())
            biases.append(offset.to(base[bias]) - base[bias])
        self.up[name], self.down[name] = torch.stack(ups), torch.stack(downs)
        self.bias[name] = torch.stack(biases)

    def _chosen(self, name: str, x: Float[Tensor, "*n in"]) -> Int[Tensor, "*n"]:
        """The source of each token."""
        gate = self.down[name][:, :GATE]
        scores = torch.linalg.vector_norm(torch.einsum("qgi,...i->...qg", gate, x), dim=-1)
        return F.softmax(scores, dim=-1).argmax(-1)

    def _experts(self, name: str, x: Float[Tensor, "*n in"]) -> Float[Tensor, "*n out"]:
        flat, chosen = x.flatten(0, -2), self._chosen(name, x).flatten()
        out = flat.new_zeros(len(flat), self.up[name].shape[1])
        for i in range(len(self.sources)):
            tokens = (chosen == i).nonzero()[:, 0]
            inner = flat[tokens] @ self.down[name][i].T
            out[tokens] = inner @ self.up[name][i].T + self.bias[name][i]
        return out.unflatten(0, x.shape[:-1])
