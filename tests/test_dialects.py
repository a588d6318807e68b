"""Checkpoints in every dialect: tensor by tensor and by their embeddings what was written."""

from __future__ import annotations

import json
import os

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from dialect_files import WRITERS, hugging_face_names, state, write_folder, write_module
from mloss_core import Checkpoint, MlossError, Tower, ViTConfig
from mloss_core.checkpoints.infer import architecture
from mloss_core.checkpoints.read import read_head, tower_shapes
from tiny import CONFIG, open_clip_model

FAMILY = ViTConfig.from_config("tiny", CONFIG)


def embeddings_agree(tower: Tower, original: torch.nn.Module, size: int, images: int = 4) -> None:
    """Both give the same embeddings of noise."""
    pixels = torch.randn(images, 3, size, size)
    with torch.no_grad():
        ours, reference = tower.features(pixels), original(pixels)
    assert torch.cosine_similarity(ours, reference).min() >= 0.99999


@pytest.fixture
def model() -> open_clip.CLIP:
    model = open_clip_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return model


def house(model: open_clip.CLIP) -> dict[str, torch.Tensor]:
    return {f"visual.{name}": tensor for name, tensor in state(model.visual).items()}


@pytest.mark.parametrize("name", WRITERS)
def test_a_dialect_reads_as_what_was_written(name, model, tmp_path):
    dialect, write = WRITERS[name]
    write(model, tmp_path / name)
    checkpoint = Checkpoint.open(tmp_path / name, "--model")
    assert checkpoint.dialect == dialect
    checkpoint.audit(FAMILY.shapes())
    checkpoint.check_finite()
    assert len(checkpoint.sha256) == 64
    loaded = checkpoint.read(FAMILY.shapes())
    for key, tensor in house(model).items():
        assert torch.equal(loaded[key], tensor), key
        assert loaded[key].is_contiguous() and checkpoint.dtypes[key] == "F32"
        assert checkpoint.shapes[key] == tuple(tensor.shape)
    embeddings_agree(Tower(FAMILY, loaded), model.visual, size=16)


@pytest.mark.parametrize("dtype, word", [(torch.float16, "F16"), (torch.bfloat16, "BF16")])
@pytest.mark.parametrize("name", ["whole.pt", "old.pt", "finetuned.pt", "hf.bin", "folder"])
def test_half_precision_stays_as_it_is_stored(name, dtype, word, model, tmp_path):
    model = model.to(dtype)
    WRITERS[name][1](model, tmp_path / name)
    checkpoint = Checkpoint.open(tmp_path / name, "--model")
    assert set(checkpoint.dtypes.values()) == {word}
    loaded = checkpoint.read(FAMILY.shapes())
    assert all(torch.equal(loaded[key], tensor) for key, tensor in house(model).items())


def test_the_ending_does_not_decide(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "m.safetensors")
    Checkpoint.open(tmp_path / "m.safetensors", "--model").audit(FAMILY.shapes())
    save_file(state(model), tmp_path / "m.pt")
    Checkpoint.open(tmp_path / "m.pt", "--model").audit(FAMILY.shapes())


def test_only_the_tensors_asked_for_come(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "m.pt")
    loaded = Checkpoint.open(tmp_path / "m.pt", "--model").read(["visual.proj"])
    assert list(loaded) == ["visual.proj"]


def test_changing_what_was_read_changes_no_file(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "m.pt")
    checkpoint = Checkpoint.open(tmp_path / "m.pt", "--model")
    before = (tmp_path / "m.pt").read_bytes()
    checkpoint.read(["visual.proj"])["visual.proj"].zero_()
    assert (tmp_path / "m.pt").read_bytes() == before


def test_tensors_that_share_or_stride_a_storage(model, tmp_path):
    tensors = state(model)
    flat = torch.arange(32.0 * 16 + 5)
    tensors["visual.proj"] = flat[5:].view(16, 32).T
    tensors["visual.ln_pre.bias"] = flat[:32]
    torch.save(tensors, tmp_path / "m.pt")
    loaded = Checkpoint.open(tmp_path / "m.pt", "--model").read(
        ["visual.proj", "visual.ln_pre.bias"]
    )
    assert all(torch.equal(loaded[key], tensors[key]) for key in loaded)


@pytest.mark.parametrize("write", [save_file, torch.save])
@pytest.mark.parametrize("dtype", [torch.int16, torch.int8])
def test_other_dtypes_are_refused_by_name(dtype, write, model, tmp_path):
    tensors = state(model) | {"visual.proj": torch.ones(32, 16, dtype=dtype)}
    write(tensors, tmp_path / "m")
    with pytest.raises(MlossError, match=r"visual\.proj has dtype (I16|I8)"):
        Checkpoint.open(tmp_path / "m", "--model").audit(FAMILY.shapes())


# --- what is left out, and what is not ------------------------------------------------------------


@pytest.mark.parametrize("name", ["visual.extra", "visual.trunk.blocks.0.weight", "neck.weight"])
def test_unknown_tensors_of_an_open_clip_file_surface(name, model, tmp_path):
    save_file(state(model) | {name: torch.ones(1)}, tmp_path / "m")
    with pytest.raises(MlossError, match=f"has more tensors than its family: {name}"):
        Checkpoint.open(tmp_path / "m", "--model").audit(FAMILY.shapes())


@pytest.mark.parametrize(
    "name",
    ["vision_model.head.weight", "vision_model.encoder.layers.0.layer_scale.weight", "lost"],
)
def test_unknown_tensors_of_a_hugging_face_file_surface(name, model, tmp_path):
    save_file(hugging_face_names(model) | {name: torch.ones(1)}, tmp_path / "m")
    with pytest.raises(MlossError, match=f"has more tensors than its family: {name}"):
        Checkpoint.open(tmp_path / "m", "--model").audit(FAMILY.shapes())


def test_a_tower_without_projection_says_what_to_save(model, tmp_path):
    tensors = hugging_face_names(model)
    del tensors["visual_projection.weight"]
    save_file(tensors, tmp_path / "m")
    checkpoint = Checkpoint.open(tmp_path / "m", "--model")
    with pytest.raises(MlossError, match=r"lacks visual\.proj; .*CLIPVisionModelWithProjection"):
        checkpoint.audit(FAMILY.shapes())
    with pytest.raises(MlossError, match="CLIPVisionModelWithProjection"):
        architecture(checkpoint.shapes)


def test_half_an_attention_is_missing_by_our_name(model, tmp_path):
    tensors = hugging_face_names(model)
    del tensors["vision_model.encoder.layers.1.self_attn.k_proj.bias"]
    save_file(tensors, tmp_path / "m")
    with pytest.raises(MlossError, match=r"lacks .*resblocks\.1\.attn\.in_proj_bias"):
        Checkpoint.open(tmp_path / "m", "--model").audit(FAMILY.shapes())


def test_lora_adapters_are_no_models_of_their_own(tmp_path):
    tensors = {"base_model.model.q.lora_A.weight": torch.ones(2)}
    save_file(tensors, tmp_path / "m.safetensors")
    (tmp_path / "folder").mkdir()
    save_file(tensors, tmp_path / "folder" / "adapter_model.safetensors")
    (tmp_path / "folder" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    for name, said in (
        ("m.safetensors", "is a LoRA adapter without adapter_config.json beside it; keep it as"),
        ("folder", "is a LoRA adapter, which is no model without its base; make it a source of"),
    ):
        with pytest.raises(MlossError, match=said):
            Checkpoint.open(tmp_path / name, "--model")


def test_two_models_in_one_file_are_refused(model, tmp_path):
    both = state(model) | {f"module.{name}": t for name, t in state(model).items()}
    save_file(both, tmp_path / "m")
    with pytest.raises(MlossError, match="and does not tell which is meant: module"):
        Checkpoint.open(tmp_path / "m", "--model")


@pytest.mark.parametrize("there", ["../m.safetensors", "/m.safetensors", "a\0b", "..", 3])
def test_an_index_cannot_name_files_elsewhere(there, model, tmp_path):
    write_folder(model, tmp_path / "folder", "model.safetensors.index.json")
    index = tmp_path / "folder" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": there}}))
    with pytest.raises(MlossError, match="names files elsewhere"):
        Checkpoint.open(tmp_path / "folder", "--model")


def test_a_missing_shard_is_named(model, tmp_path):
    write_folder(model, tmp_path / "folder", "model.safetensors.index.json")
    (tmp_path / "folder" / "model-2-of-2.safetensors").unlink()
    with pytest.raises(MlossError, match=r"lacks model-2-of-2\.safetensors"):
        Checkpoint.open(tmp_path / "folder", "--model")


def test_a_training_scripts_other_entries_do_not_matter(model, tmp_path):
    others = {("a", "b"): 1, None: 2, torch.nn.GELU: torch.ones(3), 7: {"x": torch.ones(2)}}
    torch.save({"state_dict": model.state_dict(), **others}, tmp_path / "m.pt")
    Checkpoint.open(tmp_path / "m.pt", "--model").audit(FAMILY.shapes())


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(MlossError, match="is a folder without weights"):
        Checkpoint.open(tmp_path, "--model")


def test_a_file_that_was_replaced_is_read_anew(model, tmp_path):
    torch.save(state(model), tmp_path / "m.pt")
    checkpoint = Checkpoint.open(tmp_path / "m.pt", "--model")
    torch.save({"visual.proj": torch.zeros(32, 16)}, tmp_path / "n.pt")
    os.replace(tmp_path / "n.pt", tmp_path / "m.pt")
    assert checkpoint.changed()
    with pytest.raises(MlossError, match="has changed since it was opened"):
        checkpoint.read(["visual.ln_pre.bias"])
    again = Checkpoint.open(tmp_path / "m.pt", "--model")
    assert not again.changed() and again.shapes.keys() == {"visual.proj"}
    assert not again.read(["visual.proj"])["visual.proj"].any()


# --- heads, architecture --------------------------------------------------------------------------


class ClassificationHead(torch.nn.Linear):
    """As task-vectors has it."""


def test_heads_of_task_vectors(tmp_path):
    head = ClassificationHead(16, 4)
    torch.nn.init.zeros_(head.bias)
    torch.save(head, tmp_path / "head_Cars.pt")
    torch.save({"weight": head.weight.detach().half()}, tmp_path / "head_half.pt")
    assert torch.equal(read_head(tmp_path / "head_Cars.pt"), head.weight)
    assert read_head(tmp_path / "head_half.pt").dtype == torch.float32


@pytest.mark.parametrize(
    "held",
    [
        ClassificationHead(16, 4),
        torch.nn.Conv2d(3, 4, 2, bias=False),
        {"weight": torch.full((4, 16), float("nan"))},
        {"weight": torch.ones(4, 16, dtype=torch.int64)},
        {"other": torch.ones(4, 16)},
        {},
        3,
    ],
    ids=["bias", "conv", "NaN", "integers", "other", "nothing", "number"],
)
def test_files_without_a_head_are_refused(held, tmp_path):
    torch.save(held, tmp_path / "head_x.pt")
    with pytest.raises(MlossError, match=r"head .*head_x\.pt"):
        read_head(tmp_path / "head_x.pt")
    with pytest.raises(MlossError, match="does not exist"):
        read_head(tmp_path / "no.pt")


@pytest.mark.parametrize(
    "name, activation",
    [("finetuned.pt", "quick_gelu"), ("jit.pt", "quick_gelu"), ("whole.pt", None)],
)
def test_whole_modules_tell_their_activation(name, activation, model, tmp_path):
    WRITERS[name][1](model, tmp_path / name)
    checkpoint = Checkpoint.open(tmp_path / name, "--model")
    assert checkpoint.activation == activation
    config = {"num_attention_heads": 2, **checkpoint.config}
    assert architecture(checkpoint.shapes, config).activation == activation


def test_a_gelu_by_tanh_is_told_as_neither(model, tmp_path):
    for block in model.visual.transformer.resblocks:
        block.mlp.gelu = torch.nn.GELU(approximate="tanh")
    write_module(model, tmp_path / "m.pt")
    assert Checkpoint.open(tmp_path / "m.pt", "--model").activation is None


@pytest.mark.parametrize(
    "config, heads, activation",
    [
        (None, 8, None),
        ({}, 8, None),
        ({"hidden_act": "quick_gelu"}, 8, "quick_gelu"),
        ({"hidden_act": "gelu", "num_attention_heads": 16}, 16, "gelu"),
        ({"vision_config": {"hidden_act": "gelu", "image_size": 64}}, 8, "gelu"),
        ({"model_type": "clip_vision_model", "num_attention_heads": 8}, 8, "quick_gelu"),
        ({"model_cfg": {"quick_gelu": True, "vision_cfg": {"patch_size": 32}}}, 8, "quick_gelu"),
        ({"model_cfg": {"vision_cfg": {"width": 512, "head_width": 32}}}, 16, "gelu"),
    ],
)
def test_architecture_is_told_from_shapes_and_config(config, heads, activation):
    numbers = {"embed_dim": 256, "image_size": 64, "patch_size": 32, "width": 512, "blocks": 5}
    numbers |= {"nodes": 2048, "heads": heads, "activation": activation}
    family = ViTConfig(name="", mean=(), std=(), **numbers | {"activation": ""})
    inferred = architecture(family.shapes(), config)
    assert vars(inferred) == numbers
    assert tower_shapes(family.shapes()) == family.shapes()


@pytest.mark.parametrize(
    "config",
    [
        {"hidden_act": "gelu_new"},
        {"patch_size": 16},
        {"image_size": 224},
        {"num_attention_heads": 5},
        {"layer_norm_eps": 1e-6},
        {"num_attention_heads": "two"},
    ],
)
def test_a_config_of_another_model_is_refused(config):
    with pytest.raises(MlossError, match="config's"):
        architecture(FAMILY.shapes(), {"num_attention_heads": 2} | config)


# --- convert --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jit.pt", "finetuned.pt", "folder", "hf.bin", "trained.pt"])
def test_convert_writes_ours(name, model, tmp_path, cli, out):
    dialect, write = WRITERS[name]
    write(model, tmp_path / name)
    outcome = cli("convert", tmp_path / name, out, "--json")
    assert (outcome.status, outcome.err) == (0, "")
    (row,) = outcome.events
    assert row["dialect"] == dialect and row["tensors"] == len(FAMILY.shapes())
    assert all(torch.equal(load_file(out)[key], t) for key, t in house(model).items())


def test_convert_keeps_dtypes_unless_told(model, tmp_path, cli, out):
    torch.save(model.half().state_dict(), tmp_path / "m.pt")
    assert cli("convert", tmp_path / "m.pt", out, "--dtype", "bf16").status == 0
    assert {tensor.dtype for tensor in load_file(out).values()} == {torch.bfloat16}
    again = out.with_name("again.safetensors")
    outcome = cli("convert", tmp_path / "m.pt", again)
    assert outcome.status == 0 and "open_clip" in outcome.out
    assert {tensor.dtype for tensor in load_file(again).values()} == {torch.float16}
    assert Checkpoint.open(again, "--model").metadata["dialect"] == "open_clip"


def test_convert_refuses_in_one_line(model, tmp_path, cli, out, refused):
    tensors = state(model)
    torch.save(tensors | {"visual.proj": torch.full((32, 16), 1e6)}, tmp_path / "large.pt")
    refused(cli("convert", tmp_path / "large.pt", out, "--dtype", "fp16"), "--dtype", "visual.proj")
    refused(cli("convert", tmp_path / "large.pt", out, "--dtype", "fp8"), "--dtype", "fp8")
    refused(cli("convert", tmp_path / "no.pt", out), "IN", "does not exist")
    torch.save(tensors | {"visual.extra": torch.ones(1)}, tmp_path / "more.pt")
    refused(cli("convert", tmp_path / "more.pt", out), "IN", "visual.extra")
    del tensors["visual.ln_pre.weight"]
    torch.save(tensors, tmp_path / "less.pt")
    refused(cli("convert", tmp_path / "less.pt", out), "IN", "visual.ln_pre.weight")
    torch.save({"a": torch.ones(2)}, tmp_path / "other.pt")
    refused(cli("convert", tmp_path / "other.pt", out), "IN", "holds no image tower")
    write_module(model, tmp_path / "whole.pt")
    out.with_name("there").write_text("mine")
    assert cli("convert", tmp_path / "whole.pt", out.with_name("there")).status == 2
    assert out.with_name("there").read_text() == "mine"
