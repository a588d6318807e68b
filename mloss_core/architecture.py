"""The model family: architecture, tensor names and preprocessing that all its models share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import BadFile

BLOCKS = "visual.transformer.resblocks."  # before a block's number, in open_clip's names


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """The image tower's architecture, in the words of open_clip's model config.

    Blocks and nodes count from 0; a node is one row of a block's `mlp.c_fc`.
    """

    name: str
    embed_dim: int
    image_size: int
    patch_size: int
    width: int
    blocks: int
    heads: int
    nodes: int
    activation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any]) -> ViTConfig:
        """Reads open_clip's model config plus `mean` and `std`; raises BadFile on a missing key."""
        try:
            vision = config["vision_cfg"]
            width = int(vision["width"])
            head_width = int(vision.get("head_width", 64))
            if width % head_width or int(vision["image_size"]) % int(vision["patch_size"]):
                raise ValueError("width or image_size leaves a rest")
            if len(config["mean"]) != 3 or len(config["std"]) != 3 or min(config["std"]) <= 0:
                raise ValueError("mean and std need three numbers, std above 0")
            return cls(
                name=name,
                embed_dim=int(config["embed_dim"]),
                image_size=int(vision["image_size"]),
                patch_size=int(vision["patch_size"]),
                width=width,
                blocks=int(vision["layers"]),
                heads=width // head_width,
                nodes=int(width * vision.get("mlp_ratio", 4.0)),
                activation="quick_gelu" if config["quick_gelu"] else "gelu",
                mean=tuple(float(m) for m in config["mean"]),
                std=tuple(float(s) for s in config["std"]),
            )
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise BadFile(
                "family.json of", name, f"is not a model config ({error!r})", "see docs/format.md"
            ) from error

    @property
    def tokens(self) -> int:
        """The number of tokens per image: its patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    def block_names(self, block: int) -> dict[str, tuple[int, ...]]:
        """Tensor names of one residual block, in the order data meets them, with their shapes."""
        prefix, w, n = f"{BLOCKS}{block}.", self.width, self.nodes
        return {
            prefix + "ln_1.weight": (w,),
            prefix + "ln_1.bias": (w,),
            prefix + "attn.in_proj_weight": (3 * w, w),
            prefix + "attn.in_proj_bias": (3 * w,),
            prefix + "attn.out_proj.weight": (w, w),
            prefix + "attn.out_proj.bias": (w,),
            prefix + "ln_2.weight": (w,),
            prefix + "ln_2.bias": (w,),
            prefix + "mlp.c_fc.weight": (n, w),
            prefix + "mlp.c_fc.bias": (n,),
            prefix + "mlp.c_proj.weight": (w, n),
            prefix + "mlp.c_proj.bias": (w,),
        }

    def outer_names(self) -> dict[str, tuple[int, ...]]:
        """Tensor names outside the blocks (embeddings, outer norms, projection), with shapes."""
        w, p = self.width, self.patch_size
        return {
            "visual.class_embedding": (w,),
            "visual.positional_embedding": (self.tokens, w),
            "visual.conv1.weight": (w, 3, p, p),
            "visual.ln_pre.weight": (w,),
            "visual.ln_pre.bias": (w,),
            "visual.ln_post.weight": (w,),
            "visual.ln_post.bias": (w,),
            "visual.proj": (w, self.embed_dim),
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of an image tower of this family, by open_clip's name."""
        names = self.outer_names()
        for block in range(self.blocks):
            names |= self.block_names(block)
        return names


def c_fc(block: int) -> str:
    """Name of the linear before a block's activation; its rows are the block's nodes."""
    return f"{BLOCKS}{block}.mlp.c_fc"
