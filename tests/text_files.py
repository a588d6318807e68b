"""Tiny whole CLIPs with a text tower for open_clip's tokenizer, written in every dialect."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

from dialect_files import hugging_face_names, prefixed, state, write_module
from tiny import CONFIG, open_clip_model

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
WHOLE = CONFIG | {"text_cfg": TEXT}


def whole_model(seed: int = 0) -> open_clip.CLIP:
    """Both towers, random."""
    return open_clip_model(WHOLE, seed)


def hugging_face_text(model: open_clip.CLIP) -> dict[str, torch.Tensor]:
    """The text tower as CLIPModel names it, written out without the library's table."""
    ours = state(model)
    tensors = {
        "text_model.embeddings.position_ids": torch.arange(16)[None],
        "text_model.embeddings.token_embedding.weight": ours["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": ours["positional_embedding"],
        "text_projection.weight": ours["text_projection"].T.contiguous(),
    }
    for kind in ("weight", "bias"):
        tensors[f"text_model.final_layer_norm.{kind}"] = ours[f"ln_final.{kind}"]
        for block in range(TEXT["layers"]):
            there = f"text_model.encoder.layers.{block}"
            here = f"transformer.resblocks.{block}"
            q, k, v = ours[f"{here}.attn.in_proj_{kind}"].chunk(3)
            tensors |= {
                f"{there}.self_attn.q_proj.{kind}": q.clone(),
                f"{there}.self_attn.k_proj.{kind}": k.clone(),
                f"{there}.self_attn.v_proj.{kind}": v.clone(),
                f"{there}.self_attn.out_proj.{kind}": ours[f"{here}.attn.out_proj.{kind}"],
                f"{there}.layer_norm1.{kind}": ours[f"{here}.ln_1.{kind}"],
                f"{there}.layer_norm2.{kind}": ours[f"{here}.ln_2.{kind}"],
                f"{there}.mlp.fc1.{kind}": ours[f"{here}.mlp.c_fc.{kind}"],
                f"{there}.mlp.fc2.{kind}": ours[f"{here}.mlp.c_proj.{kind}"],
            }
    return tensors


def write_hub(model: open_clip.CLIP, folder: Path) -> None:
    """A folder as CLIPModel.save_pretrained writes it."""
    folder.mkdir()
    tensors = {key: t.contiguous() for key, t in hugging_face_names(model).items()}
    save_file(tensors | hugging_face_text(model), folder / "model.safetensors")
    vision = {"image_size": 16, "patch_size": 8, "num_attention_heads": 2}
    text = {"num_attention_heads": 1, "hidden_act": "quick_gelu"}
    about = {"model_type": "clip", "vision_config": vision, "text_config": text}
    (folder / "config.json").write_text(json.dumps(about))


def write_scripted(model: open_clip.CLIP, path: Path) -> None:
    """A traced archive of both towers, as OpenAI published its models."""
    example = (torch.zeros(1, 3, 16, 16), torch.zeros(1, 16, dtype=torch.long))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated; OpenAI's files are what they are
        torch.jit.trace(model, example, check_trace=False).save(path)


def with_text_prefix(model: open_clip.CLIP) -> dict[str, torch.Tensor]:
    """Names of open_clip's CustomTextCLIP."""
    own = ("visual.", "logit_")
    return {k if k.startswith(own) else f"text.{k}": t for k, t in state(model).items()}


Writer = Callable[[open_clip.CLIP, Path], None]
WRITERS: dict[str, Writer] = {
    "base.safetensors": lambda m, p: save_file(state(m), p),
    "base.bin": lambda m, p: torch.save({"state_dict": prefixed("module.", state(m))}, p),
    "base.pth": lambda m, p: save_file(with_text_prefix(m), p),
    "jit.pt": write_scripted,
    "zeroshot.pt": write_module,
    "clip": write_hub,
}
