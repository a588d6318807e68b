"""Inference of a text tower's architecture from its shapes and an optional config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .dialects import HEAD_WIDTH, FormatError

GIVE = 'write text = "FILE" into family.toml: a whole CLIP of this kind, or its text tower'
MATRICES = (
    "token_embedding.weight", "positional_embedding", "text_projection",
    "transformer.resblocks.0.mlp.c_fc.weight",
)  # fmt: skip
TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}


def text_config(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], activation: str
) -> dict[str, Any]:
    """The config of open_clip's text tower: `embed_dim`, `text_cfg` and `quick_gelu`.

    Args:
        config: a config.json of Hugging Face, or open_clip_config.json; {} is none.
        activation: the family's; what Hugging Face's config says of the text tower goes before it.

    Raises:
        FormatError: there is no text tower, only a part of one, or not one as CLIP's.
    """
    if not shapes:
        raise FormatError("holds no text tower", GIVE)
    for key in MATRICES:
        if key not in shapes:
            raise FormatError(f"holds only a part of a text tower, without {key}", GIVE)
        if len(shapes[key]) != 2 or 0 in shapes[key]:
            raise FormatError(f"has {key} of shape {shapes[key]}, which is no matrix", GIVE)
    sizes = (shapes[key] for key in MATRICES)
    (vocab_size, width), (context_length, _), (_, embed_dim), (nodes, _) = sizes
    heads, declared = _declared(config)
    heads = max(1, width // HEAD_WIDTH) if heads is None else heads
    if type(heads) is not int or heads < 1 or width % heads:
        raise FormatError(f"has a config of {heads} heads for a text tower of width {width}", GIVE)
    text_cfg = {
        "vocab_size": vocab_size,
        "context_length": context_length,
        "width": width,
        "heads": heads,
        "layers": sum(1 for key in shapes if key.endswith(".mlp.c_fc.weight")),
        "mlp_ratio": nodes / width,
    }
    quick_gelu = (declared or activation) == "quick_gelu"
    return {"embed_dim": embed_dim, "text_cfg": text_cfg, "quick_gelu": quick_gelu}


def _declared(config: Mapping[str, Any]) -> tuple[Any, str | None]:
    """Heads and activation of the text tower, each None where the config does not say it."""
    hf_config, model_cfg = config.get("text_config"), config.get("model_cfg")
    if isinstance(hf_config, Mapping):
        activation = hf_config.get("hidden_act", "quick_gelu")  # Hugging Face leaves out defaults
        if activation not in ("quick_gelu", "gelu"):
            raise FormatError(
                f"has a config of hidden_act {activation!r}, which is not CLIP's", GIVE
            )
        return hf_config.get("num_attention_heads"), activation
    text_cfg = model_cfg.get("text_cfg") if isinstance(model_cfg, Mapping) else None
    if not isinstance(text_cfg, Mapping):
        return None, None
    odd = sorted(str(key) for key in text_cfg.keys() - TEXT_KEYS)
    if odd:
        raise FormatError(f"has a text tower that is not CLIP's own: {', '.join(odd)[:80]}", GIVE)
    return text_cfg.get("heads"), None
