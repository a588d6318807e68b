"""Inference of an image tower's architecture from its shapes and an optional config."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..architecture import ViTConfig
from ..errors import BadTensor, BadValue

NO_PROJECTION = "save CLIPVisionModelWithProjection or CLIPModel, not CLIPVisionModel"
EPSILON = 1e-5  # of the layer norms
HEAD_WIDTH = 64  # of every CLIP, unless a config says otherwise
ANY_BLOCK = re.compile(r"visual\.transformer\.resblocks\.(\d{1,4})\.")
BLOCK = re.compile(r"visual\.transformer\.resblocks\.(\d{1,4})\.mlp\.c_fc\.weight")
# What Hugging Face leaves out of a config.json when it is the default of its CLIPVisionConfig.
DEFAULTS = {"hidden_act": "quick_gelu", "num_attention_heads": 12}
CLIP = "clip"
HUGGING_FACE_TYPES = {CLIP, "clip_vision_model"}
# What a config may say of a tower: its key in Hugging Face's, and ours.
SAID = {
    "hidden_act": "activation",
    "num_attention_heads": "heads",
    "num_hidden_layers": "blocks",
    "hidden_size": "width",
    "intermediate_size": "nodes",
    "patch_size": "patch_size",
    "image_size": "image_size",
}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """An image tower's architecture; the activation is None where unknown."""

    embed_dim: int
    image_size: int
    patch_size: int
    width: int
    blocks: int
    heads: int
    nodes: int
    activation: str | None


def architecture(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any] | None = None
) -> Architecture:
    """The architecture inferred from the shapes of an image tower by open_clip's names.

    Args:
        config: a config.json of Hugging Face, or open_clip_config.json; {} is none.

    Raises:
        BadTensor: a tensor that tells a number is missing or of an odd shape.
        BadValue: the config contradicts the shapes, or has an unknown activation.
    """
    sizes, vision = _sizes(shapes), _vision(config or {})
    for key in ("image_size", "patch_size"):
        if vision.get(key, sizes[key]) != sizes[key]:
            problem = f"but the tensors say {sizes[key]}"
            raise BadValue(f"config's {key}", vision[key], problem, "use the config of this model")
    if vision.get("layer_norm_eps", EPSILON) != EPSILON:
        problem = f"is not CLIP's {EPSILON}"
        raise BadValue("config's layer_norm_eps", vision["layer_norm_eps"], problem, "use a CLIP")
    heads = _heads(sizes["width"], vision.get("num_attention_heads"))
    return Architecture(heads=heads, activation=_activation(vision), **sizes)


def tower_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of such a tower; raises BadTensor where a size is unknown."""
    # Neither heads nor activation nor preprocessing has a tensor.
    return ViTConfig(name="", heads=1, activation="", mean=(), std=(), **_sizes(shapes)).shapes()


def differences(
    config: Mapping[str, Any], base: Mapping[str, Any], model: ViTConfig
) -> list[tuple[str, Any, Any]]:
    """Where a source's config is not of its base's kind: key, its value and the base's.

    A value is the base's if the base's own config or its family says the same: a family may know
    better than a config. What a config leaves out is no difference.
    """
    ours = {key: getattr(model, name) for key, name in SAID.items()}
    ours |= {"layer_norm_eps": EPSILON, "model_type": CLIP}
    theirs, said = _told(config), _told(base)
    return [
        (key, theirs[key], said.get(key, value))
        for key, value in ours.items()
        if key in theirs and theirs[key] not in (value, said.get(key, value))
    ]


def _told(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says of the image tower, by Hugging Face's keys, its kind as `model_type`."""
    vision = _vision(config)
    types = {str(config.get("model_type")), str(vision.get("model_type"))}
    if types & HUGGING_FACE_TYPES:
        vision["model_type"] = CLIP
    sides = vision.get("image_size")
    if isinstance(sides, list) and sides and sides == sides[:1] * len(sides):
        vision["image_size"] = sides[0]
    return {key: value for key, value in vision.items() if value is not None}


def blocks(names: Iterable[str]) -> set[str]:
    """The numbers of the blocks that any of the names is of."""
    return {match[1] for match in map(ANY_BLOCK.match, names) if match}


def _sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    width, _, patch_size, _ = _shape(shapes, "visual.conv1.weight", 4)
    tokens, _ = _shape(shapes, "visual.positional_embedding", 2)
    _, embed_dim = _shape(shapes, "visual.proj", 2)
    nodes, _ = _shape(shapes, "visual.transformer.resblocks.0.mlp.c_fc.weight", 2)
    side = math.isqrt(max(tokens - 1, 0))
    if side * side != tokens - 1 or not side:
        problem = f"has {tokens} tokens, not a class token and a square of patches"
        raise BadTensor("checkpoint", "visual.positional_embedding", problem, "use a CLIP ViT")
    return {
        "embed_dim": embed_dim,
        "image_size": side * patch_size,
        "patch_size": patch_size,
        "width": width,
        "blocks": sum(1 for name in shapes if BLOCK.fullmatch(name)),
        "nodes": nodes,
    }


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str, dimensions: int) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None:
        remedy = "give a whole image tower of a CLIP ViT"
        if name == "visual.proj":
            remedy = NO_PROJECTION
        raise BadTensor("checkpoint", name, "is missing", remedy)
    if len(shape) != dimensions or 0 in shape:
        problem = f"has shape {shape} instead of {dimensions} dimensions"
        raise BadTensor("checkpoint", name, problem, "give an image tower of a CLIP ViT")
    return shape


def _vision(config: Mapping[str, Any]) -> dict[str, Any]:
    """The image tower's settings of a config, under Hugging Face's keys."""
    if isinstance(config.get("model_cfg"), Mapping):  # open_clip_config.json
        cfg = config["model_cfg"]
        vision = cfg.get("vision_cfg")
        vision = dict(vision) if isinstance(vision, Mapping) else {}
        settings = {
            "hidden_act": "quick_gelu" if cfg.get("quick_gelu") else "gelu",
            "model_type": vision.get("timm_model_name") or CLIP,
        }
        width, head_width = vision.get("width"), vision.get("head_width", HEAD_WIDTH)
        if isinstance(width, int) and isinstance(head_width, int):
            settings["num_attention_heads"] = width // max(head_width, 1)
        alike = {"image_size": "image_size", "patch_size": "patch_size"}
        alike |= {"width": "hidden_size", "layers": "num_hidden_layers"}
        return {theirs: vision[k] for k, theirs in alike.items() if k in vision} | settings
    inner = config.get("vision_config")
    vision = dict(inner) if isinstance(inner, Mapping) else dict(config)
    types = {str(config.get("model_type")), str(vision.get("model_type"))}
    return (DEFAULTS if types & HUGGING_FACE_TYPES else {}) | vision


def _heads(width: int, declared: Any) -> int:
    heads = width // HEAD_WIDTH if declared is None else declared
    if type(heads) is not int or heads < 1 or width % heads:
        problem = f"is no number of heads for width {width}"
        raise BadValue("config's num_attention_heads", heads, problem, "give it in a config.json")
    return heads


def _activation(vision: Mapping[str, Any]) -> str | None:
    activation = vision.get("hidden_act")
    if activation not in ("quick_gelu", "gelu", None):
        remedy = "use a model with quick_gelu or gelu"
        raise BadValue("config's hidden_act", activation, "is not CLIP's", remedy)
    return activation
