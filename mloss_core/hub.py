"""Lookup of base models by open_clip's own names, as ViT-B-32-quickgelu/openai.

A fetched one lies in the family's folder under that very name, as a folder of weights and config.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import BadValue


def pretrained(name: str) -> dict[str, Any] | None:
    """open_clip's pretrained config of a model by its name and tag; None if unknown."""
    import open_clip  # takes seconds

    model, _, tag = name.partition("/")
    return open_clip.get_pretrained_cfg(model, tag) or None


def base_by_hand(name: str, folder: Path) -> str:
    """The remedy without a download: which file to put where."""
    page = str((pretrained(name) or {}).get("hf_hub", "")).strip("/")
    return f"put open_clip_model.safetensors of huggingface.co/{page} into {folder / name}"


def base_config(name: str) -> dict[str, Any]:
    """The open_clip_config.json of a model by its name and tag.

    Raises:
        BadValue: open_clip does not know it, or it is no CLIP of two transformers.
    """
    import open_clip

    model, pretrained_cfg = open_clip.get_model_config(name.partition("/")[0]), pretrained(name)
    if model is None or pretrained_cfg is None:
        remedy = 'see open_clip.list_pretrained(), or write base = "FILE"'
        raise BadValue("base", name, "is no model of open_clip's", remedy)
    vision = model["vision_cfg"]
    if type(vision.get("layers")) is not int or not vision.get("patch_size"):
        raise BadValue("base", name, "is no CLIP ViT", "choose one of the names ViT-*")
    # Weights go before names: ViT-B-32/openai was trained with QuickGELU, too.
    quick_gelu = bool(pretrained_cfg.get("quick_gelu", model.get("quick_gelu", False)))
    preprocess = {
        key: list(pretrained_cfg[key]) for key in ("mean", "std") if key in pretrained_cfg
    }
    return {"model_cfg": {**model, "quick_gelu": quick_gelu}, "preprocess_cfg": preprocess}
