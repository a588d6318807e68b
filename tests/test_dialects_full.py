"""Files as open_clip and transformers themselves write them, tiny and at the size of ViT-B/32."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch

from dialect_files import write_module
from mloss_core import Checkpoint, Tower, ViTConfig
from mloss_core.checkpoints.infer import architecture
from mloss_core.errors import MlossError

TINY = {
    "text_config": {
        "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2,
        "num_hidden_layers": 1, "vocab_size": 32, "max_position_embeddings": 8,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
    },
    "vision_config": {
        "hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 2,
        "num_hidden_layers": 3, "image_size": 16, "patch_size": 8,
    },
    "projection_dim": 16,
}  # fmt: skip
KINDS = ("CLIPModel", "CLIPVisionModelWithProjection")


def family_of(checkpoint: Checkpoint) -> ViTConfig:
    inferred = architecture(checkpoint.shapes, checkpoint.config)
    assert inferred.activation
    numbers = {**vars(inferred), "activation": inferred.activation}
    return ViTConfig(name="", mean=(0.5,) * 3, std=(0.5,) * 3, **numbers)


def agrees(checkpoint: Checkpoint, family: ViTConfig, reference: Any) -> None:
    """The tower of this checkpoint embeds as the original function does."""
    checkpoint.audit(family.shapes())
    tower = Tower(family, checkpoint.load(torch.device("cpu")))
    images = torch.randn(4, 3, family.image_size, family.image_size)
    with torch.no_grad():
        assert torch.cosine_similarity(tower.features(images), reference(images)).min() >= 0.99999


def hugging_face(kind: str, config: Mapping[str, Any], folder: Path, **options: Any) -> Any:
    """A random model of transformers, saved by its own function; gives its embedding function."""
    reason = "transformers is not installed: pip install transformers"
    transformers = pytest.importorskip("transformers", reason=reason)
    torch.manual_seed(0)
    whole = transformers.CLIPConfig(**config)
    vision = transformers.CLIPVisionConfig(
        **whole.vision_config.to_dict() | {"projection_dim": whole.projection_dim}
    )
    model = getattr(transformers, kind)(whole if kind == "CLIPModel" else vision).eval()
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape)
    model.save_pretrained(folder, **options)

    def embed(images: torch.Tensor) -> torch.Tensor:
        if kind != "CLIPModel":
            return model(images).image_embeds
        pooled = model.vision_model(images).pooler_output
        return model.visual_projection(pooled)

    return embed


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "40KB"}], ids=["file", "shards"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_tiny_models_of_transformers(kind, activation, options, tmp_path):
    vision = {**TINY["vision_config"], "hidden_act": activation}
    embed = hugging_face(kind, {**TINY, "vision_config": vision}, tmp_path / "m", **options)
    checkpoint = Checkpoint.open(tmp_path / "m", "--model")
    family = family_of(checkpoint)
    assert (checkpoint.dialect, family.activation, family.heads) == ("hugging_face", activation, 2)
    agrees(checkpoint, family, embed)


def test_a_tower_of_transformers_without_projection(tmp_path):
    hugging_face("CLIPVisionModel", TINY, tmp_path / "m")
    checkpoint = Checkpoint.open(tmp_path / "m", "--model")
    with pytest.raises(MlossError, match="CLIPVisionModelWithProjection"):
        architecture(checkpoint.shapes, checkpoint.config)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_at_full_size(kind, tmp_path):
    config = {"vision_config": {"patch_size": 32, "image_size": 224}, "projection_dim": 512}
    embed = hugging_face(kind, config, tmp_path / "m")
    checkpoint = Checkpoint.open(tmp_path / "m", "--model")
    family = family_of(checkpoint)
    assert (family.width, family.blocks, family.heads, family.nodes) == (768, 12, 12, 3072)
    agrees(checkpoint, family, embed)


@pytest.mark.slow
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_open_clip_at_full_size(safe, tmp_path):
    push = pytest.importorskip("open_clip.push_to_hf_hub")
    name = "ViT-B-32-quickgelu"
    model = open_clip.create_model(name).eval()
    tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)  # it writes no weights
    config = open_clip.get_model_config(name)
    push.save_for_hf(model, tokenizer, config, str(tmp_path), safe_serialization=safe)
    assert json.loads((tmp_path / "open_clip_config.json").read_text())["model_cfg"]
    checkpoint = Checkpoint.open(tmp_path, "--model")
    family = family_of(checkpoint)
    assert (family.activation, family.embed_dim) == ("quick_gelu", 512)
    agrees(checkpoint, family, model.visual)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", "ViT-B-32"])
def test_whole_modules_at_full_size(name, tmp_path):
    model = open_clip.create_model(name).eval()
    write_module(model, tmp_path / "finetuned.pt")
    checkpoint = Checkpoint.open(tmp_path / "finetuned.pt", "--model")
    family = family_of(checkpoint)
    assert family.activation == ("quick_gelu" if "quick" in name else "gelu")
    agrees(checkpoint, family, model.visual)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # tracing is deprecated; such archives stay
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_traced_archives_at_full_size(dtype, tmp_path):
    model = open_clip.create_model("ViT-B-32-quickgelu").eval()
    images, texts = torch.zeros(1, 3, 224, 224), torch.zeros(1, 77, dtype=torch.int64)
    # As open_clip.model.trace_model does, whose self-check torch no longer passes.
    inputs = {"forward": (images, texts), "encode_text": (texts,), "encode_image": (images,)}
    traced = torch.jit.trace_module(model, inputs, check_trace=False)
    traced.to(dtype).save(tmp_path / "ViT-B-32.pt")
    checkpoint = Checkpoint.open(tmp_path / "ViT-B-32.pt", "--model")
    family = family_of(checkpoint)
    assert (checkpoint.dialect, family.activation) == ("openai_jit", "quick_gelu")
    assert set(checkpoint.dtypes.values()) == {"F32" if dtype == torch.float32 else "F16"}
    agrees(checkpoint, family, model.to(dtype).float().visual)
