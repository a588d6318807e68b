"""Translation between Hugging Face's and open_clip's tensor names of CLIP's two towers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from .lazy_tensor import Stored, fused, transposed


@dataclass(frozen=True)
class Tower:
    """The name table of one tower: Hugging Face's names and open_clip's.

    Args:
        hf_prefix, our_prefix: what every name of the tower begins with, on either side.
        outer: names outside the blocks, without .weight and .bias where a pair has both.
        projection: the matrix into the joint embedding; one is the other transposed.
    """

    hf_prefix: str
    our_prefix: str
    outer: Mapping[str, str]
    projection: tuple[str, str]


# The one table of Hugging Face's names.
IMAGE = Tower(
    hf_prefix="vision_model.",
    our_prefix="visual.",
    outer={
        "embeddings.class_embedding": "class_embedding",
        "embeddings.position_embedding.weight": "positional_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight",
        "pre_layrnorm": "ln_pre",  # the typo is Hugging Face's
        "post_layernorm": "ln_post",
    },
    projection=("visual_projection.weight", "visual.proj"),
)
TEXT = Tower(
    hf_prefix="text_model.",
    our_prefix="",
    outer={
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm": "ln_final",
    },
    projection=("text_projection.weight", "text_projection"),
)
BLOCK = {
    "layer_norm1": "ln_1",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
FUSED = "self_attn.{part}_proj", "attn.in_proj_"  # q, k and v, in this order
OUR_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
BLOCK_NAME = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def renamed(tensors: dict[str, Stored], tower: Tower) -> dict[str, Stored]:
    """A tower's tensors under open_clip's names, q, k and v fused, the projection transposed."""
    translated = {}
    for name, tensor in tensors.items():
        if name == tower.projection[0] and len(tensor.shape) == 2:
            translated[tower.projection[1]] = transposed(tensor)
            continue
        fused_name, parts = _attention(name, tensors, tower)
        if not parts:
            translated[_name(name, tower)] = tensor
        elif name == parts[0]:
            translated[fused_name] = fused([tensors[part] for part in parts])
    return translated


def their_tensors(ours: Mapping[str, Tensor], tower: Tower) -> dict[str, Tensor]:
    """A tower's tensors under Hugging Face's names, q, k and v split: the inverse of `renamed`.

    Args:
        ours: exactly the tower's tensors, by our names.
    """
    translated = {}
    for name, tensor in ours.items():
        if name == tower.projection[1]:
            translated[tower.projection[0]] = tensor.T.contiguous()
            continue
        inner = name.removeprefix(tower.our_prefix)
        block = OUR_BLOCK.fullmatch(inner)
        split, whole = FUSED
        if block and block[2].startswith(whole):
            kind = block[2].removeprefix(whole)
            start = f"{tower.hf_prefix}encoder.layers.{block[1]}."
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                translated[f"{start}{split.format(part=part)}.{kind}"] = piece.contiguous()
        else:
            translated[_their_name(inner, block, tower)] = tensor
    return translated


def _their_name(inner: str, block: re.Match[str] | None, tower: Tower) -> str:
    """Hugging Face's name of a tensor outside the projection and the fused attention."""
    if block:
        stem, _, kind = block[2].rpartition(".")
        back = {our_name: hf_name for hf_name, our_name in BLOCK.items()}
        return f"{tower.hf_prefix}encoder.layers.{block[1]}.{back[stem]}.{kind}"
    back = {our_name: hf_name for hf_name, our_name in tower.outer.items()}
    if inner in back:
        return f"{tower.hf_prefix}{back[inner]}"
    stem, _, kind = inner.rpartition(".")
    return f"{tower.hf_prefix}{back[stem]}.{kind}"


def place(name: str, tower: Tower) -> tuple[str, int | None]:
    """Our name of the tensor that holds this one, and the third of its rows where they are q, k
    and v; a name of its own where the table has none."""
    block, (split, whole) = _block(name, tower), FUSED
    parts = [split.format(part=part) for part in "qkv"]
    if block and block[2] in parts:
        start = f"{tower.our_prefix}transformer.resblocks.{block[1]}."
        return f"{start}{whole}{block[3]}", parts.index(block[2])
    return (tower.projection[1] if name == tower.projection[0] else _name(name, tower)), None


def _name(name: str, tower: Tower) -> str:
    """Our name of a tensor; its own where the table has none."""
    inner, block = name.removeprefix(tower.hf_prefix), _block(name, tower)
    if block and block[2] in BLOCK:
        return f"{tower.our_prefix}transformer.resblocks.{block[1]}.{BLOCK[block[2]]}.{block[3]}"
    stem, _, kind = inner.rpartition(".")
    if inner in tower.outer:
        return f"{tower.our_prefix}{tower.outer[inner]}"
    if stem in tower.outer and kind in ("weight", "bias"):
        return f"{tower.our_prefix}{tower.outer[stem]}.{kind}"
    return name


def _block(name: str, tower: Tower) -> re.Match[str] | None:
    inner = name.removeprefix(tower.hf_prefix)
    return BLOCK_NAME.fullmatch(inner) if inner != name else None


def _attention(name: str, tensors: Mapping[str, Stored], tower: Tower) -> tuple[str, list[str]]:
    """The fused name and its three parts, if all are there and alike; else no parts."""
    block = _block(name, tower)
    split, whole = FUSED
    if not block or block[2] not in {split.format(part=part) for part in "qkv"}:
        return "", []
    start = f"{tower.hf_prefix}encoder.layers.{block[1]}."
    parts = [f"{start}{split.format(part=part)}.{block[3]}" for part in "qkv"]
    if not _alike(tensors.get(part) for part in parts):
        return "", []
    return f"{tower.our_prefix}transformer.resblocks.{block[1]}.{whole}{block[3]}", parts


def _alike(parts: Iterable[Stored | None]) -> bool:
    kinds = {(part.shape, part.dtype) if part else None for part in parts}
    return len(kinds) == 1 and None not in kinds and () not in {k[0] for k in kinds if k}
