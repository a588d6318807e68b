"""Tiny CLIPs written in every dialect, as the tools that own the dialects write them."""

from __future__ import annotations

import json
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

from tiny import CONFIG


def hugging_face_names(model: open_clip.CLIP) -> dict[str, torch.Tensor]:
    """A CLIPModel's state dict, written out without the library's table."""
    ours = {k: v.detach() for k, v in model.visual.state_dict().items()}
    tensors = {
        "logit_scale": torch.ones(()),
        "text_projection.weight": torch.ones(16, 16),
        "text_model.final_layer_norm.weight": torch.ones(16),
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
        "vision_model.embeddings.class_embedding": ours["class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": ours["conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": ours["positional_embedding"],
        "visual_projection.weight": ours["proj"].T.contiguous(),
    }
    for kind in ("weight", "bias"):
        tensors[f"vision_model.pre_layrnorm.{kind}"] = ours[f"ln_pre.{kind}"]
        tensors[f"vision_model.post_layernorm.{kind}"] = ours[f"ln_post.{kind}"]
        for block in range(CONFIG["vision_cfg"]["layers"]):
            there = f"vision_model.encoder.layers.{block}"
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


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Its state dict without gradients, each tensor on its own."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors by longer names."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def write_module(model: torch.nn.Module, path: Path, **options: object) -> None:
    """Pickles a whole ImageEncoder of a module that is gone when the file is read."""
    lost = types.ModuleType("lost_module")
    lost.ImageEncoder = type("ImageEncoder", (torch.nn.Module,), {"__module__": "lost_module"})
    lost.Resize = type("Resize", (), {"__module__": "lost_module"})
    encoder = lost.ImageEncoder()
    encoder.model, encoder.train_preprocess = model, lost.Resize()
    encoder.train_preprocess.size = torch.Size([16, 16])
    encoder.cache_dir = None
    sys.modules["lost_module"] = lost
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there is no source of ImageEncoder to save
            torch.save(encoder, path, **options)
    finally:
        del sys.modules["lost_module"]


def write_scripted(model: torch.nn.Module, path: Path) -> None:
    """A traced archive, as OpenAI published its models."""

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = model.visual
            self.logit_scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.visual(images) * self.logit_scale

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated; OpenAI's files are what they are
        torch.jit.trace(Whole(), torch.zeros(1, 3, 16, 16), check_trace=False).save(path)


def write_folder(model: open_clip.CLIP, folder: Path, name: str, **config: object) -> None:
    """A Hugging Face folder of one file of weights or two shards."""
    folder.mkdir()
    vision = {"image_size": 16, "patch_size": 8, "num_attention_heads": 2, "hidden_act": "gelu"}
    whole = {"model_type": "clip", "vision_config": vision | config}
    (folder / "config.json").write_text(json.dumps(whole))
    tensors = hugging_face_names(model)
    if name.endswith(".bin"):
        torch.save(tensors, folder / name)
    elif name.endswith(".safetensors"):
        save_file(tensors, folder / name, {"format": "pt"})
    else:
        names = sorted(tensors)
        shards = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
        for shard, part in shards.items():
            save_file({key: tensors[key] for key in part}, folder / shard)
        weight_map = {key: shard for shard, part in shards.items() for key in part}
        (folder / name).write_text(json.dumps({"weight_map": weight_map}))


OLD = {"_use_new_zipfile_serialization": False}
Writer = Callable[[open_clip.CLIP, Path], None]
# Each dialect's word, and how a file of it comes to be.
WRITERS: dict[str, tuple[str, Writer]] = {
    "whole.safetensors": ("open_clip", lambda m, p: save_file(state(m), p)),
    "tower.safetensors": ("open_clip", lambda m, p: save_file(state(m.visual), p)),
    "whole.pt": ("open_clip", lambda m, p: torch.save(m.state_dict(), p)),
    "tower.bin": ("open_clip", lambda m, p: torch.save(m.visual.state_dict(), p)),
    "old.pt": ("open_clip", lambda m, p: torch.save(m.state_dict(), p, **OLD)),
    "trained.pt": (
        "open_clip",
        lambda m, p: torch.save(
            {"epoch": 3, "state_dict": prefixed("module.", state(m)), "optimizer": {"lr": 0.1}}, p
        ),
    ),
    "model.pt": ("open_clip", lambda m, p: torch.save({"model": m.state_dict()}, p)),
    "compiled.pt": ("open_clip", lambda m, p: torch.save(prefixed("_orig_mod.", state(m)), p)),
    "encoder.pt": ("open_clip", lambda m, p: torch.save(prefixed("model.", state(m)), p)),
    "jit.pt": ("openai_jit", write_scripted),
    "finetuned.pt": ("pickled_module", write_module),
    "finetuned_old.pt": ("pickled_module", lambda m, p: write_module(m, p, **OLD)),
    "hf.safetensors": ("hugging_face", lambda m, p: save_file(hugging_face_names(m), p)),
    "hf.bin": ("hugging_face", lambda m, p: torch.save(hugging_face_names(m), p)),
    "hf_clip.safetensors": (
        "hugging_face",
        lambda m, p: save_file(prefixed("clip.", hugging_face_names(m)), p),
    ),
    "folder": ("hugging_face", lambda m, p: write_folder(m, p, "model.safetensors")),
    "folder_bin": ("hugging_face", lambda m, p: write_folder(m, p, "pytorch_model.bin")),
    "folder_shards": (
        "hugging_face",
        lambda m, p: write_folder(m, p, "model.safetensors.index.json"),
    ),
}
