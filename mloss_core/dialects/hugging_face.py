"""Hugging Face's names of CLIP's two towers, and ours of the same tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from .stored import Stored, fused, transposed


@dataclass(frozen=True)
class Tower:
    """How Hugging Face names a tower, and what we call the same.

    Args:
        theirs, ours: what every name of the tower begins with.
        outer: names outside the blocks, without .weight and .bias where a pair has both.
        projection: the matrix into the joint embedding; ours is theirs transposed.
    """

    theirs: str
    ours: str
    outer: Mapping[str, str]
    projection: tuple[str, str]


# The one table of Hugging Face's names.
IMAGE = Tower(
    theirs="vision_model.",
    ours="visual.",
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
    theirs="text_model.",
    ours="",
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
    """Renames, fuses q, k and v, and transposes the projection."""
    found = {}
    for name, tensor in tensors.items():
        if name == tower.projection[0] and len(tensor.shape) == 2:
            found[tower.projection[1]] = transposed(tensor)
            continue
        fused_name, parts = _attention(name, tensors, tower)
        if not parts:
            found[_name(name, tower)] = tensor
        elif name == parts[0]:
            found[fused_name] = fused([tensors[part] for part in parts])
    return found


def their_tensors(ours: Mapping[str, Tensor], tower: Tower) -> dict[str, Tensor]:
    """The other way round: a tower's tensors by Hugging Face's names, q, k and v apart.

    Args:
        ours: exactly the tower's tensors, by our names.
    """
    found = {}
    for name, tensor in ours.items():
        if name == tower.projection[1]:
            found[tower.projection[0]] = tensor.T.contiguous()
            continue
        inner = name.removeprefix(tower.ours)
        block = OUR_BLOCK.fullmatch(inner)
        split, whole = FUSED
        if block and block[2].startswith(whole):
            kind = block[2].removeprefix(whole)
            start = f"{tower.theirs}encoder.layers.{block[1]}."
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{start}{split.format(part=part)}.{kind}"] = piece.contiguous()
        else:
            found[_their_name(inner, block, tower)] = tensor
    return found


def _their_name(inner: str, block: re.Match[str] | None, tower: Tower) -> str:
    """Hugging Face's name of a tensor outside the projection and the fused attention."""
    if block:
        stem, _, kind = block[2].rpartition(".")
        back = {ours: theirs for theirs, ours in BLOCK.items()}
        return f"{tower.theirs}encoder.layers.{block[1]}.{back[stem]}.{kind}"
    back = {ours: theirs for theirs, ours in tower.outer.items()}
    if inner in back:
        return f"{tower.theirs}{back[inner]}"
    stem, _, kind = inner.rpartition(".")
    return f"{tower.theirs}{back[stem]}.{kind}"


def _name(name: str, tower: Tower) -> str:
    """Our name of a tensor; its own where the table has none."""
    inner, block = name.removeprefix(tower.theirs), _block(name, tower)
    if block and block[2] in BLOCK:
        return f"{tower.ours}transformer.resblocks.{block[1]}.{BLOCK[block[2]]}.{block[3]}"
    stem, _, kind = inner.rpartition(".")
    if inner in tower.outer:
        return f"{tower.ours}{tower.outer[inner]}"
    if stem in tower.outer and kind in ("weight", "bias"):
        return f"{tower.ours}{tower.outer[stem]}.{kind}"
    return name


def _block(name: str, tower: Tower) -> re.Match[str] | None:
    inner = name.removeprefix(tower.theirs)
    return BLOCK_NAME.fullmatch(inner) if inner != name else None


def _attention(name: str, tensors: Mapping[str, Stored], tower: Tower) -> tuple[str, list[str]]:
    """The fused name and its three parts, if all are there and alike; else no parts."""
    block = _block(name, tower)
    split, whole = FUSED
    if not block or block[2] not in {split.format(part=part) for part in "qkv"}:
        return "", []
    start = f"{tower.theirs}encoder.layers.{block[1]}."
    parts = [f"{start}{split.format(part=part)}.{block[3]}" for part in "qkv"]
    if not _alike(tensors.get(part) for part in parts):
        return "", []
    return f"{tower.ours}transformer.resblocks.{block[1]}.{whole}{block[3]}", parts


def _alike(parts: Iterable[Stored | None]) -> bool:
    kinds = {(part.shape, part.dtype) if part else None for part in parts}
    return len(kinds) == 1 and None not in kinds and () not in {k[0] for k in kinds if k}
