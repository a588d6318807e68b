"""CLIP's image tower on a plain state dict: embed -> blocks -> head.

Written on tensors rather than on open_clip's modules (whose names and results are the law,
see tests/test_vit.py) for three reasons: a partly merged model is just another mapping of
names to tensors, the residual stream can be carried on block by block, and the app starts
without importing open_clip, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .activations import activation
from .architecture import BLOCKS, ViTConfig

# Tokens a forward pass takes at a time: what a core's cache likes, and what keeps a GPU busy.
ROWS = 1 << 12
ROWS_CUDA = 1 << 17


@dataclass(frozen=True)
class Tower:
    """An image tower: an architecture and its weights by open_clip's names.

    Args:
        added: what a linear layer gets besides, from its weight's name and its input.
    """

    family: ViTConfig
    weights: Mapping[str, Tensor]
    added: Callable[[str, Tensor], Tensor] | None = None

    def embed(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n tokens width"]:
        """The embedded tokens, patches and class token with positions, after ln_pre."""
        x = F.conv2d(images, self.weights["visual.conv1.weight"], stride=self.family.patch_size)
        x = x.flatten(2).transpose(1, 2)  # n, patches, width
        first = self.weights["visual.class_embedding"].expand(len(x), 1, -1)
        x = torch.cat([first, x], dim=1) + self.weights["visual.positional_embedding"]
        return self.norm(x, "visual.ln_pre")

    def attend(
        self, block: int, x: Float[Tensor, "n tokens width"], class_only: bool = False
    ) -> Float[Tensor, "n queries width"]:
        """The stream after the block's attention; only the class token's if class_only."""
        mixed = self.mixed(self.qkv(block, x), class_only)
        kept = x[:, :1] if class_only else x
        return kept + self.linear(mixed, f"{BLOCKS}{block}.attn.out_proj")

    def attention_input(
        self, block: int, x: Float[Tensor, "n t width"]
    ) -> Float[Tensor, "n t width"]:
        """The input of the block's in_proj: ln_1 of the stream."""
        return self.norm(x, f"{BLOCKS}{block}.ln_1")

    def qkv(self, block: int, x: Float[Tensor, "n t width"]) -> Float[Tensor, "n t three_widths"]:
        """Queries, keys and values of the stream that enters the block."""
        return self.linear(self.attention_input(block, x), f"{BLOCKS}{block}.attn.in_proj_", "")

    def mixed(
        self, qkv: Float[Tensor, "n t three_widths"], class_only: bool = False
    ) -> Float[Tensor, "n queries width"]:
        """Values mixed by attention: the input of out_proj."""
        # n, tokens, 3 * width -> 3, n, heads, tokens, width / heads
        qkv = qkv.unflatten(2, (3, self.family.heads, -1)).permute(2, 0, 3, 1, 4)
        query = qkv[0, :, :, :1] if class_only else qkv[0]
        mixed = F.scaled_dot_product_attention(query, qkv[1], qkv[2])
        return mixed.transpose(1, 2).flatten(2)

    def mlp_input(self, block: int, x: Float[Tensor, "n t width"]) -> Float[Tensor, "n t width"]:
        """The input of the block's c_fc: ln_2 of the stream after attention."""
        return self.norm(x, f"{BLOCKS}{block}.ln_2")

    def mlp(
        self, block: int, x: Float[Tensor, "n t width"], inputs: Float[Tensor, "n t width"]
    ) -> Float[Tensor, "n t width"]:
        """The stream after the block, from the stream after attention and its mlp_input."""
        hidden = self.hidden(block, inputs)
        return self.linear(hidden, f"{BLOCKS}{block}.mlp.c_proj").add_(x)

    def hidden(self, block: int, inputs: Float[Tensor, "n t width"]) -> Float[Tensor, "n t nodes"]:
        """The block's activations from its mlp_input: the input of c_proj."""
        sigma = activation(self.family.activation)
        return sigma.overwriting(self.linear(inputs, f"{BLOCKS}{block}.mlp.c_fc"))

    def block(
        self, block: int, x: Float[Tensor, "n tokens width"], class_only: bool = False
    ) -> Float[Tensor, "n t width"]:
        """The stream after one residual block."""
        x = self.attend(block, x, class_only)
        return self.mlp(block, x, self.mlp_input(block, x))

    def head(
        self, x: Float[Tensor, "n tokens width"], first_block: int = 0
    ) -> Float[Tensor, "n embed"]:
        """Image embeddings from the stream that enters first_block; not normalised.

        In the last block only the class token goes on: nothing else reaches the projection.
        """
        last = self.family.blocks - 1
        for block in range(first_block, last + 1):
            x = self.block(block, x, class_only=block == last)
        return self.norm(x[:, 0], "visual.ln_post") @ self.weights["visual.proj"]

    def block_inputs(
        self, images: Float[Tensor, "n 3 h w"]
    ) -> Iterator[Float[Tensor, "n tokens width"]]:
        """What each block's c_fc sees, block by block.

        Between a yield and the next, the block's weights may change: the stream goes on through
        whatever they are by then. That is how a merge carries its images along (Algorithm 1, lines
        24-26), and no block is computed twice.
        """
        tokens = self.family.tokens
        stream = torch.cat([self.embed(chunk) for chunk in chunks(images, tokens)])
        for block in range(self.family.blocks):
            stream = torch.cat([self.attend(block, x) for x in chunks(stream, tokens)])
            inputs = self.mlp_input(block, stream)
            yield inputs
            both = zip(chunks(stream, tokens), chunks(inputs, tokens), strict=True)
            stream = torch.cat([self.mlp(block, x, u) for x, u in both])

    def features(
        self, images: Float[Tensor, "n 3 h w"], task: str = ""
    ) -> Float[Tensor, "n embed"]:
        """Image embeddings, not normalised; the same for every task."""
        parts = [self.head(self.embed(chunk)) for chunk in chunks(images, self.family.tokens)]
        return torch.cat(parts)

    def norm(self, x: Tensor, name: str) -> Tensor:
        """LayerNorm of that name."""
        weight, bias = self.weights[name + ".weight"], self.weights[name + ".bias"]
        return F.layer_norm(x, weight.shape, weight, bias, eps=1e-5)

    def linear(self, x: Tensor, name: str, dot: str = ".") -> Tensor:
        """The linear layer of that name, with what the model adds to it."""
        y = F.linear(x, self.weights[f"{name}{dot}weight"], self.weights[f"{name}{dot}bias"])
        return y if self.added is None else y.add_(self.added(f"{name}{dot}weight", x))


def chunks(x: Float[Tensor, "n *rest"], tokens: int) -> Iterator[Float[Tensor, "c *rest"]]:
    """Chunks of whole images of about ROWS tokens each."""
    rows = ROWS if x.device.type == "cpu" else ROWS_CUDA
    return iter(x.split(max(1, rows // tokens)))
