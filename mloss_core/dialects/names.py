"""Names of an image tower's tensors: every dialect's, and ours, which are open_clip's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .stored import Stored, Unreadable, fused, transposed

# The one table of Hugging Face's names, without .weight and .bias where a pair has both.
OUTER = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "pre_layrnorm": "ln_pre",  # the typo is Hugging Face's
    "post_layernorm": "ln_post",
}
BLOCK = {
    "layer_norm1": "ln_1",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
FUSED = "self_attn.{part}_proj", "attn.in_proj_"  # q, k and v, in this order
PROJECTION = "visual_projection.weight"
BLOCK_NAME = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")

# What wrappers put before names: DataParallel, torch.compile, Ilharco's ImageEncoder.
WRAPPERS = {"module", "model", "clip", "clip_model", "_orig_mod"}
# What a whole CLIP has beside its image tower. Nothing else is left out.
TEXT_TOWER = ("transformer.", "token_embedding.", "ln_final.", "text.", "text_model.")
LEFT_OUT = {
    "positional_embedding", "text_projection", "text_projection.weight", "logit_scale",
    "logit_bias", "attn_mask", "input_resolution", "context_length", "vocab_size",
    "vision_model.embeddings.position_ids",
}  # fmt: skip
# Names that only an image tower has, where they stand without `visual.`.
BARE_TOWER = {"class_embedding", "conv1.weight", "ln_pre.weight", "ln_post.weight"}
BARE_HUGGING_FACE = "embeddings.patch_embedding.weight"
PLAIN = "plain"


def house(tensors: Mapping[str, Stored]) -> tuple[str, dict[str, Stored]]:
    """The dialect of a file's names, and its image tower's tensors by our names.

    What belongs to an image tower but is not in the table keeps a name of its own, so that the
    audit finds it. Files without any name of CLIP ("plain") keep all names.

    Raises:
        Unreadable: a LoRA adapter, or two tensors of one name.
    """
    if any(".lora_" in name for name in tensors):
        raise Unreadable("is a LoRA adapter", "merge it into its base first")
    bare = _unwrapped(tensors)
    if BARE_HUGGING_FACE in bare:
        bare = {_in_vision_model(name): tensor for name, tensor in bare.items()}
    if any(name.startswith("vision_model.") for name in bare):
        return "hugging_face", _from_hugging_face(_image_tower(bare))
    if any(name.startswith("visual.") for name in bare):
        return "open_clip", _image_tower(bare)
    if BARE_TOWER & bare.keys():
        return "open_clip", {f"visual.{name}": tensor for name, tensor in bare.items()}
    return PLAIN, dict(tensors)


def _unwrapped(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Tensors by their names without what wrappers put before them."""
    bare: dict[str, Stored] = {}
    for whole, tensor in tensors.items():
        name = whole
        while "." in name and name.partition(".")[0] in WRAPPERS:
            name = name.partition(".")[2]
        if name in bare:
            remedy = "keep one model in the file"
            raise Unreadable(f"holds two tensors of the name {name[:80]}", remedy)
        bare[name] = tensor
    return bare


def _in_vision_model(name: str) -> str:
    return name if name == PROJECTION else f"vision_model.{name}"


def _image_tower(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name not in LEFT_OUT and not name.startswith(TEXT_TOWER)
    }


def _from_hugging_face(tensors: dict[str, Stored]) -> dict[str, Stored]:
    """Renames, fuses q, k and v, and transposes the projection."""
    found = {}
    for name, tensor in tensors.items():
        if name == PROJECTION and len(tensor.shape) == 2:
            found["visual.proj"] = transposed(tensor)
            continue
        fused_name, parts = _attention(name, tensors)
        if not parts:
            found[_renamed(name)] = tensor
        elif name == parts[0]:
            found[fused_name] = fused([tensors[part] for part in parts])
    return found


def _renamed(name: str) -> str:
    """Our name of a tensor; its own where the table has none."""
    block = BLOCK_NAME.fullmatch(name)
    if block and block[2] in BLOCK:
        return f"visual.transformer.resblocks.{block[1]}.{BLOCK[block[2]]}.{block[3]}"
    inner = name.removeprefix("vision_model.")
    stem, _, kind = inner.rpartition(".")
    if inner in OUTER:
        return f"visual.{OUTER[inner]}"
    if stem in OUTER and kind in ("weight", "bias"):
        return f"visual.{OUTER[stem]}.{kind}"
    return name


def _attention(name: str, tensors: Mapping[str, Stored]) -> tuple[str, list[str]]:
    """The fused name and its three parts, if all are there and alike; else no parts."""
    block = BLOCK_NAME.fullmatch(name)
    split, whole = FUSED
    if not block or block[2] not in {split.format(part=part) for part in "qkv"}:
        return "", []
    start = f"vision_model.encoder.layers.{block[1]}."
    parts = [f"{start}{split.format(part=part)}.{block[3]}" for part in "qkv"]
    if not _alike(tensors.get(part) for part in parts):
        return "", []
    return f"visual.transformer.resblocks.{block[1]}.{whole}{block[3]}", parts


def _alike(parts: Iterable[Stored | None]) -> bool:
    kinds = {(part.shape, part.dtype) if part else None for part in parts}
    return len(kinds) == 1 and None not in kinds and () not in {k[0] for k in kinds if k}
