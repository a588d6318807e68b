"""LoRA adapters as sources: what peft writes, expanded on the base, against plain NumPy."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dialect_files import hugging_face_names
from mloss_core import Checkpoint, Finished, InputError, MergeRecipe, load, run
from mloss_core.checkpoints import read as formats
from mloss_core.families.sanity import doubts
from tiny import TASKS, open_clip_model, write_family

HF = "base_model.model.vision_model.encoder.layers."
OURS = "visual.transformer.resblocks."
# A layer of Hugging Face's, and what it is in block 1: our tensor, its rows, outputs and inputs.
LAYERS = {
    "self_attn.q_proj": ("attn.in_proj_weight", slice(0, 32), 32, 32),
    "self_attn.k_proj": ("attn.in_proj_weight", slice(32, 64), 32, 32),
    "self_attn.v_proj": ("attn.in_proj_weight", slice(64, 96), 32, 32),
    "self_attn.out_proj": ("attn.out_proj.weight", slice(None), 32, 32),
    "mlp.fc1": ("mlp.c_fc.weight", slice(None), 128, 32),
    "mlp.fc2": ("mlp.c_proj.weight", slice(None), 32, 128),
}
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "bias": "none", "qalora_group_size": 16}
Tensors = dict[str, torch.Tensor]


def pair(layer: str, out: int, into: int, rank: int = 4, seed: int = 0) -> Tensors:
    """A and B of a layer by its whole name."""
    rng = torch.Generator().manual_seed(seed)
    return {
        f"{layer}.lora_A.weight": 0.2 * torch.randn(rank, into, generator=rng),
        f"{layer}.lora_B.weight": 0.2 * torch.randn(out, rank, generator=rng),
    }


def of_block(layer: str, block: int = 1, rank: int = 4, seed: int = 0) -> Tensors:
    """A and B of a layer of Hugging Face's."""
    return pair(f"{HF}{block}.{layer}", *LAYERS[layer][2:], rank, seed)


def write(folder: Path, tensors: Tensors, ending: str = "safetensors", **config: object) -> Path:
    """An adapter's folder as save_pretrained leaves it."""
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("a card")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    path = folder / f"adapter_model.{ending}"
    save_file(tensors, path, {"format": "pt"}) if ending != "bin" else torch.save(tensors, path)
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The folder of a tiny family in fp32, whose bridges and clouds are to become adapters."""
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path))
    folder = write_family(tmp_path / "tiny", dtype=torch.float32)
    for name in ("bridges", "clouds"):
        (folder / "sources" / f"{name}.safetensors").unlink()
    return folder


def product(tensors: Tensors, layer: str, scale: float) -> np.ndarray:
    """scale B @ A of a layer, in doubles."""
    down = tensors[f"{layer}.lora_A.weight"].double().numpy()
    up = tensors[f"{layer}.lora_B.weight"].double().numpy()
    return scale * np.einsum("or,ri->oi", up, down)


def check(folder: Path, changed: dict[str, np.ndarray], name: str = "bridges") -> Checkpoint:
    """A source is the base, bit by bit, but for these tensors; all others are the base's."""
    family = load(folder.name)
    source, base = family.source(name), load_file(folder / "base.safetensors")
    assert source.dialect == "lora" and source.shapes == family.base().shapes
    tensors = source.read(list(source.shapes))
    for key, tensor in tensors.items():
        if key in changed:
            assert tensor.dtype == torch.float32 and source.dtypes[key] == "F32"
            np.testing.assert_allclose(tensor.numpy(), changed[key], rtol=1e-6, atol=1e-6)
            assert not np.array_equal(tensor.numpy(), base[key].float().numpy())
        else:
            assert torch.equal(tensor, base[key]), key
    return source


def expected(folder: Path, *deltas: tuple[str, slice, np.ndarray]) -> dict[str, np.ndarray]:
    """The base's tensors in doubles, with what is added to some of their rows."""
    base = load_file(folder / "base.safetensors")
    changed = {key: base[key].double().numpy() for key, _, _ in deltas}
    for key, rows, delta in deltas:
        changed[key][rows] += delta
    return changed


def delta(tensors: Tensors, layer: str, scale: float, block: int = 1):
    """Our tensor, its rows and what is added to them."""
    ours, rows, *_ = LAYERS[layer]
    return f"{OURS}{block}.{ours}", rows, product(tensors, f"{HF}{block}.{layer}", scale)


# --- what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_of_hugging_face_is_the_base_plus_the_product(layer, ending, place):
    tensors = of_block(layer)
    write(place / "sources" / "bridges", tensors, ending)
    check(place, expected(place, delta(tensors, layer, 6 / 4)))


def test_layers_differ_in_rank_and_stand_beside_each_other(place):
    tensors = of_block("self_attn.q_proj", rank=4) | of_block("self_attn.v_proj", rank=2, seed=1)
    tensors |= of_block("mlp.fc1", block=0, rank=7, seed=2)
    ranks = {"v_proj": 2, "vision_model.encoder.layers.0.mlp.fc1": 7}
    write(place / "sources" / "bridges", tensors, rank_pattern=ranks)
    changes = (
        delta(tensors, "self_attn.q_proj", 6 / 4),
        delta(tensors, "self_attn.v_proj", 6 / 2),
        delta(tensors, "mlp.fc1", 6 / 7, block=0),
    )
    check(place, expected(place, *changes))


@pytest.mark.parametrize(
    "config, scale",
    [
        ({}, 1.5),
        ({"use_rslora": True}, 6 / math.sqrt(4)),
        ({"lora_alpha": 0.5}, 0.125),
        ({"alpha_pattern": {"fc1": 10}}, 2.5),
        ({"alpha_pattern": {"fc1": 10}, "use_rslora": True}, 5.0),
        ({"alpha_pattern": {r".*\.1\.mlp\.fc1": 2, "fc1": 10}}, 0.5),
        ({"alpha_pattern": {r"^vision_model\.encoder\.layers\.[01]\.mlp.fc1": 12}}, 3.0),
        ({"alpha_pattern": {"c1": 10, "layers.1": 10, "1.mlp": 10, "fc1.": 10}}, 1.5),
        # As peft itself: CLIP's layers are linear ones, whose weights are never transposed.
        ({"fan_in_fan_out": True}, 1.5),
        ({"init_lora_weights": "gaussian", "auto_mapping": None, "inference_mode": True}, 1.5),
    ],
)
def test_scales(config, scale, place):
    tensors = of_block("mlp.fc1")
    write(place / "sources" / "bridges", tensors, **config)
    check(place, expected(place, delta(tensors, "mlp.fc1", scale)))


@pytest.mark.parametrize(
    "prefix",
    [
        "base_model.model.vision_model.",
        "base_model.model.model.vision_model.",
        "base_model.model.clip.vision_model.",
        "base_model.model.base_model.model.vision_model.",
        "vision_model.",
    ],
)
@pytest.mark.parametrize("middle", ["", ".default", ".run-1"])
def test_prefixes_and_names_of_adapters(prefix, middle, place):
    tensors = of_block("self_attn.k_proj")
    start = "base_model.model.vision_model."
    named = {
        key.replace(start, prefix).replace(".weight", f"{middle}.weight"): tensor
        for key, tensor in tensors.items()
    }
    write(place / "sources" / "bridges", named)
    check(place, expected(place, delta(tensors, "self_attn.k_proj", 1.5)))


@pytest.mark.parametrize(
    "trained_as, prefix", [("CLIP", "visual."), ("VisionTransformer", ""), ("", "visual.")]
)
@pytest.mark.parametrize(
    "layer, ours, out, into",
    [
        ("mlp.c_fc", "mlp.c_fc.weight", 128, 32),
        ("mlp.c_proj", "mlp.c_proj.weight", 32, 128),
        ("attn.out_proj", "attn.out_proj.weight", 32, 32),
    ],
)
def test_names_of_open_clip(layer, ours, out, into, trained_as, prefix, place):
    whole = f"base_model.model.{prefix}transformer.resblocks.2.{layer}"
    tensors, about = pair(whole, out, into), {"base_model_class": trained_as}
    text = pair("base_model.model.transformer.resblocks.0.mlp.c_fc", 64, 16) if prefix else {}
    write(place / "sources" / "bridges", tensors | text, auto_mapping=about)
    change = (f"{OURS}2.{ours}", slice(None), product(tensors, whole, 1.5))
    check(place, expected(place, change))


def test_a_vision_model_of_newer_transformers_is_known_by_its_class(place):
    tensors = of_block("mlp.fc2")
    bare = {key.replace(".vision_model", ""): tensor for key, tensor in tensors.items()}
    about = {"base_model_class": "CLIPVisionModel"}
    write(place / "sources" / "bridges", bare, auto_mapping=about)
    check(place, expected(place, delta(tensors, "mlp.fc2", 1.5)))
    shutil.rmtree(place / "sources" / "bridges")
    about = {"base_model_class": "CLIPTextModel"}
    write(place / "sources" / "bridges", bare, auto_mapping=about)
    with pytest.raises(InputError, match=r"whether .*fc2.* is of the image tower; write"):
        load("tiny").source("bridges")


def test_the_projection_is_transposed(place):
    tensors = pair("base_model.model.visual_projection", 16, 32)
    write(place / "sources" / "bridges", tensors)
    change = product(tensors, "base_model.model.visual_projection", 1.5).T
    check(place, expected(place, ("visual.proj", slice(None), change)))


def test_biases_and_tensors_saved_whole(place):
    key, rng = "vision_model.encoder.layers.1", torch.Generator().manual_seed(3)
    some = {name: torch.randn(32, generator=rng) for name in "abcde"}
    projection = torch.randn(16, 32, generator=rng)
    tensors = of_block("self_attn.q_proj") | {
        f"{HF}1.self_attn.q_proj.base_layer.bias": some["a"],  # bias = "all" of an adapted layer
        f"{HF}1.self_attn.v_proj.bias": some["b"],
        f"{HF}1.layer_norm1.bias": some["c"].half(),
        f"base_model.model.{key}.layer_norm2.modules_to_save.default.weight": some["d"],
        f"base_model.model.{key}.layer_norm2.original_module.weight": some["e"],
        "base_model.model.visual_projection.weight": projection,
        "base_model.model.logit_scale": torch.ones(()),
        "base_model.model.text_model.final_layer_norm.bias": torch.ones(16),
    }
    write(place / "sources" / "bridges", tensors, bias="all", modules_to_save=["layer_norm2"])
    base = load_file(place / "base.safetensors")
    biases = base[f"{OURS}1.attn.in_proj_bias"].numpy().copy()
    biases[:32], biases[64:] = some["a"], some["b"]
    changed = expected(place, delta(tensors, "self_attn.q_proj", 1.5)) | {
        f"{OURS}1.attn.in_proj_bias": biases,
        f"{OURS}1.ln_1.bias": some["c"].half().float().numpy(),
        f"{OURS}1.ln_2.weight": some["d"].numpy(),
        "visual.proj": projection.T.numpy(),
    }
    check(place, changed)


def test_a_layer_saved_whole_and_adapted_is_both(place):
    weight = torch.randn(128, 32)
    tensors = of_block("mlp.fc1") | {f"{HF}1.mlp.fc1.base_layer.weight": weight}
    write(place / "sources" / "bridges", tensors)
    whole = weight.double().numpy() + product(tensors, f"{HF}1.mlp.fc1", 1.5)
    check(place, {f"{OURS}1.mlp.c_fc.weight": whole})


@pytest.mark.parametrize("layer", ["self_attn.v_proj", "mlp.fc1", "visual_projection"])
def test_dora_scales_the_rows(layer, place):
    whole = "base_model.model.visual_projection"
    if layer == "visual_projection":
        tensors, (ours, rows, out) = pair(whole, 16, 32), ("visual.proj", slice(None), 16)
    else:
        whole, tensors = f"{HF}1.{layer}", of_block(layer)
        ours, rows, out, _ = LAYERS[layer]
        ours = f"{OURS}1.{ours}"
    tensors[f"{whole}.lora_magnitude_vector"] = 1 + torch.rand(out)
    write(place / "sources" / "bridges", tensors, use_dora=True)
    base = load_file(place / "base.safetensors")[ours].double().numpy()
    part = (base.T if layer == "visual_projection" else base)[rows]
    part = part + product(tensors, whole, 1.5)
    norms = np.sqrt((part**2).sum(1, keepdims=True))
    part = part / norms * tensors[f"{whole}.lora_magnitude_vector"].numpy()[:, None]
    wanted = base.copy()
    (wanted.T if layer == "visual_projection" else wanted)[rows] = part
    check(place, {ours: wanted})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_on_a_base_of_half_precision_nothing_is_rounded(dtype, tmp_path, monkeypatch):
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path))
    place = write_family(tmp_path / "tiny", dtype=dtype)
    (place / "sources" / "bridges.safetensors").unlink()
    tensors = {key: tensor.to(dtype) for key, tensor in of_block("mlp.fc1").items()}
    write(place / "sources" / "bridges", tensors)
    source = check(place, expected(place, delta(tensors, "mlp.fc1", 1.5)))
    assert set(source.dtypes.values()) == {"F32", "F16" if dtype == torch.float16 else "BF16"}


def test_reading_changes_neither_base_nor_what_is_read_next(place):
    write(place / "sources" / "bridges", of_block("mlp.fc1") | of_block("self_attn.q_proj"))
    family, names = load("tiny"), [f"{OURS}1.mlp.c_fc.weight", f"{OURS}1.attn.in_proj_weight"]
    before = (place / "base.safetensors").read_bytes()
    first = family.source("bridges").read(names)
    kept = {name: tensor.clone() for name, tensor in first.items()}
    for tensor in first.values():
        tensor.zero_()
    again = family.source("bridges").read(names)
    assert all(torch.equal(again[name], kept[name]) for name in names)
    assert (place / "base.safetensors").read_bytes() == before


# --- as a source ----------------------------------------------------------------------------------


def test_the_hash_covers_weights_config_and_base(place):
    adapter = write(place / "sources" / "bridges", of_block("mlp.fc1"))
    family = load("tiny")
    first = family.source("bridges")
    hashes = {first.sha256}
    (adapter / "adapter_config.json").write_text(json.dumps(CONFIG | {"lora_alpha": 7}))
    assert first.changed()
    family.refresh()
    hashes.add(family.source("bridges").sha256)
    weights = place / "sources" / "bridges" / "adapter_model.safetensors"
    save_file(of_block("mlp.fc1", seed=5), weights)
    family.refresh()
    hashes.add(family.source("bridges").sha256)
    base = load_file(place / "base.safetensors")
    save_file({key: 2 * tensor for key, tensor in base.items()}, place / "base.safetensors")
    family.refresh()
    source = family.source("bridges")
    hashes.add(source.sha256)
    assert len(hashes) == 4 and not source.changed()
    kept = source.read(["visual.proj"])["visual.proj"]
    assert torch.equal(kept, 2 * base["visual.proj"])


def recipe(method: str) -> MergeRecipe:
    return MergeRecipe(
        family="tiny", method=method, sources=TASKS, keep=0.5, variation=0.1, samples=6
    )


def merged(method: str) -> Tensors:
    *_, finished = run(recipe(method), load("tiny"), device="cpu")
    assert isinstance(finished, Finished) and finished.weights is not None
    return finished.weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("method", ["ties", "knots", "m-ties", "pcb"])
def test_two_adapters_and_a_fine_tune_merge_as_their_expansions(
    method, dtype, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path))
    place = write_family(tmp_path / "tiny", dtype=dtype)
    few = of_block("self_attn.q_proj", rank=2) | of_block("mlp.fc2", block=2, rank=2)
    many = {key: tensor for layer in LAYERS for key, tensor in of_block(layer, seed=9).items()}
    for name, tensors, rank in (("bridges", few, 2), ("clouds", many, 4)):
        (place / "sources" / f"{name}.safetensors").unlink()
        write(place / "sources" / name, tensors, r=rank)
    family = load("tiny")
    assert family.sources == TASKS and doubts(family, TASKS) == []
    whole = {name: family.source(name).load(torch.device("cpu")) for name in TASKS}
    ours = merged(method)
    save_file(family.base().load(torch.device("cpu")), place / "wide.safetensors")
    for name in TASKS:
        shutil.rmtree(place / "sources" / name, ignore_errors=True)
        save_file(whole[name], place / "sources" / f"{name}.safetensors")
    (place / "wide.safetensors").replace(place / "base.safetensors")
    reference = merged(method)
    assert ours.keys() == reference.keys()
    assert all(torch.equal(ours[name], reference[name]) for name in ours)


def test_the_command_line_merges_and_evaluates_adapters(place, cli, out):
    for name in ("bridges", "clouds"):
        write(place / "sources" / name, of_block("mlp.fc1", seed=len(name)))
    outcome = cli("merge", "--family=tiny", "--method=ties", "--out", out)
    assert (outcome.status, outcome.err) == (0, "") and out.is_file()
    model = place / "sources" / "clouds"
    outcome = cli("evaluate", "--family=tiny", "--model", model, "--device=cpu")
    assert outcome.status == 0, outcome.err


def test_in_folders_of_other_tools(tmp_path, monkeypatch):
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path))
    folder = tmp_path / "hub"
    (folder / "clip").mkdir(parents=True)
    tensors = {k: v.contiguous() for k, v in hugging_face_names(open_clip_model()).items()}
    save_file(tensors, folder / "clip" / "model.safetensors")
    write(folder / "clip_apples", of_block("mlp.fc1"))
    write(folder / "elsewhere" / "lora", of_block("self_attn.q_proj"), "bin")
    toml = 'num_attention_heads = 2\nactivation = "gelu"\n'
    (folder / "family.toml").write_text(toml)
    assert load("hub").sources == ("apples",)
    weights = "elsewhere/lora/adapter_model.bin"
    sources = f'[sources]\na = "clip_apples"\nb = "elsewhere/lora"\nc = "{weights}"\n'
    (folder / "family.toml").write_text(toml + sources)
    family = load("hub")
    *_, finished = run(
        MergeRecipe(family="hub", method="ties", sources=("a", "b", "c")), family, device="cpu"
    )
    assert isinstance(finished, Finished) and finished.weights is not None
    assert family.source("b").read(["visual.proj"]) and family.source("b").shapes
    assert [warning[:17] for warning in doubts(family, ("a", "b", "c"))] == ["sources b and c a"]


def test_doubts_see_through_adapters(place):
    untrained = {k: v * ("_A" in k) for k, v in of_block("mlp.fc1").items()}  # B begins as 0
    write(place / "sources" / "bridges", untrained)
    write(place / "sources" / "clouds", of_block("mlp.fc1"))
    write(place / "sources" / "doubled", of_block("mlp.fc1"), lora_alpha=12)
    family = load("tiny")
    (warning,) = doubts(family, family.sources)
    assert warning.startswith("source bridges equals the base in every tensor")


# --- what is refused ------------------------------------------------------------------------------

A, B = f"{HF}1.mlp.fc1.lora_A.weight", f"{HF}1.mlp.fc1.lora_B.weight"
GOOD = of_block("mlp.fc1")
HUGE = "(.*)*" * 2
NAN = float("nan")


@pytest.mark.parametrize(
    "config, said",
    [
        ({"peft_type": "LOHA"}, "has peft_type LOHA .*only LORA is read; merge it"),
        ({"peft_type": "IA3"}, "has peft_type IA3"),
        ({"peft_type": None}, "has peft_type None"),
        ({"use_qalora": True}, "a variant of LoRA that is not read: use_qalora; merge it"),
        ({"layer_replication": [[0, 2]]}, "that is not read: layer_replication"),
        ({"target_parameters": ["visual.proj"]}, "that is not read: target_parameters"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa', which may have moved"),
        ({"init_lora_weights": "olora"}, "init_lora_weights 'olora'"),
        ({"init_lora_weights": ["x"]}, "init_lora_weights"),
        ({"use_dora": True}, r"fc1\.lora_A\.weight, but no lora_magnitude_vector beside it"),
        ({"use_dora": "yes"}, "has use_dora yes"),
        ({"use_rslora": 3}, "has use_rslora 3"),
        ({"r": 0}, "has rank 0"),
        ({"r": "4"}, "has rank 4"),
        ({"r": True}, "has rank True"),
        ({"r": 8}, r"fc1\.lora_A\.weight of rank 4, its adapter_config\.json 8"),
        ({"rank_pattern": [3]}, "has rank no table"),
        ({"rank_pattern": {"a": -1}}, "has rank -1"),
        ({"lora_alpha": "6"}, "has lora_alpha 6"),
        ({"lora_alpha": NAN}, "has lora_alpha nan"),
        ({"lora_alpha": float("inf")}, "has lora_alpha inf"),
        ({"lora_alpha": 10**400}, "has lora_alpha 1000"),
        ({"lora_alpha": None}, "has lora_alpha None"),
        ({"alpha_pattern": [1]}, "an alpha_pattern that is no table"),
        ({"alpha_pattern": {"fc1": "x"}}, "has alpha_pattern x"),
        ({"alpha_pattern": {HUGE: 1}}, "an alpha_pattern too intricate"),
        ({"alpha_pattern": {"(a|a)+b": 1}}, "an alpha_pattern too intricate"),
        ({"alpha_pattern": {".*.*.*.*x": 1}}, "an alpha_pattern too intricate"),
        ({"alpha_pattern": {"a" * 300: 1}}, "an alpha_pattern too intricate"),
        ({"alpha_pattern": {"(": 1}}, "an alpha_pattern that is no regular expression"),
        ({"alpha_pattern": {str(i): 1 for i in range(2000)}}, "alpha_pattern that is no table"),
    ],
)
def test_configs_that_are_refused(config, said, place):
    write(place / "sources" / "bridges", GOOD, **config)
    with pytest.raises(InputError, match=f"source bridges .*sources/bridges: .*{said}") as error:
        load("tiny").source("bridges")
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize(
    "tensors, said",
    [
        ({A: GOOD[A]}, r"fc1\.lora_A\.weight, but no lora_B beside it"),
        ({B: GOOD[B]}, r"fc1\.lora_B\.weight, but no lora_A beside it"),
        ({A: GOOD[A][:, 1:].contiguous()}, r"lora_A\.weight of shape \(4, 31\), .*needs \(4, 32\)"),
        ({B: GOOD[B][1:].contiguous()}, r"lora_B\.weight of shape \(127, 4\), .*needs \(128, 4\)"),
        ({B: GOOD[B][:, 1:].contiguous()}, r"lora_B\.weight of shape \(128, 3\)"),
        ({A: GOOD[A][0].contiguous()}, r"lora_A\.weight of shape \(32,\), .*no linear layer"),
        ({A: torch.zeros(0, 32), B: torch.zeros(128, 0)}, r"lora_A\.weight of rank 0"),
        ({A: GOOD[A].short()}, r"lora_A\.weight of dtype I16; use F16, BF16, F32"),
        ({B: GOOD[B].to(torch.int8)}, r"lora_B\.weight of dtype I8"),
        ({f"{HF}1.mlp.fc1.lora_magnitude_vector": torch.ones(128)}, "but no use_dora"),
        ({f"{HF}1.mlp.fc1.lora_B.bias": torch.ones(128)}, r"lora_B\.bias, which is not read"),
        ({f"{HF}1.mlp.fc1.lora_C.weight": torch.ones(4)}, r"lora_C\.weight, which is not read"),
        (
            {"vision_model.embeddings.position_embedding.lora_embedding_A": torch.ones(4, 5)},
            "lora_embedding_A, which is not read",
        ),
        ({"base_model.model.classifier.weight": torch.ones(2)}, r"classifier\.weight, which is of"),
        (
            of_block("mlp.fc1", block=3),
            r"layers\.3\.mlp\.fc1\.lora_A\.weight, which is of no layer",
        ),
        (pair(f"{HF}1.mlp.fc3", 4, 4), r"fc3\.lora_A\.weight, which is of no layer of its base"),
        (pair("lost", 4, 4), r"lost\.lora_A\.weight, which is of no layer of its base"),
        ({f"{HF}1.layer_norm1.bias": torch.ones(31)}, r"layer_norm1\.bias of shape \(31,\)"),
        (
            {f"{HF}1.self_attn.q_proj.bias": torch.ones(96)},
            r"q_proj\.bias of shape \(96,\), where its base needs \(32,\)",
        ),
        ({A.replace("A.", "A.other."): 2 * GOOD[A]}, "holds two tensors of .*mlp.fc1: "),
        (
            {
                "vision_model.embeddings.patch_embedding.lora_A.weight": torch.ones(4, 3, 8, 8),
                "vision_model.embeddings.patch_embedding.lora_B.weight": torch.ones(32, 4, 1, 1),
            },
            r"patch_embedding\.lora_A\.weight of shape .*no linear layer",
        ),
        ({A: torch.full((4, 32), NAN)}, r"mlp\.c_fc\.weight holds NaN or infinity"),
        ({A: 1e30 * GOOD[A], B: 1e30 * GOOD[B]}, r"mlp\.c_fc\.weight holds NaN or infinity"),
        ({f"{'x' * 5000}\n.lora_A.weight": torch.ones(1)}, "which is of no layer"),
    ],
)
def test_tensors_that_are_refused(tensors, said, place):
    alone = len(tensors) == 1 and next(iter(tensors)) in (A, B) and "beside" in said
    write(place / "sources" / "bridges", tensors if alone else GOOD | tensors)
    with pytest.raises(InputError, match=f"source bridges .*bridges.*{said}") as error:
        load("tiny").source("bridges")
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize(
    "name", ["text_model.encoder.layers.0.mlp.fc1", "transformer.resblocks.0.mlp.c_fc"]
)
def test_an_adapter_of_the_text_tower_alone_changes_nothing_here(name, place):
    write(place / "sources" / "bridges", pair(f"base_model.model.{name}", 64, 16))
    with pytest.raises(InputError, match="changes no layer of the image tower"):
        load("tiny").source("bridges")


@pytest.mark.parametrize("layer, out", [("attn", 96), ("attn.base_layer.out_proj", 32)])
def test_torchs_attention_is_refused_for_peft_adds_its_projection_once_or_twice(layer, out, place):
    tensors = pair(f"base_model.model.visual.transformer.resblocks.0.{layer}", out, 32)
    write(place / "sources" / "bridges", tensors)
    with pytest.raises(InputError, match=r"attn.*lora_A\.weight, of torch's attention, .*merge"):
        load("tiny").source("bridges")


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda f: (f / "adapter_config.json").unlink(), "without adapter_config.json beside it"),
        (lambda f: (f / "adapter_config.json").write_text("["), "cannot be read"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "that is no JSON object"),
        (lambda f: (f / "adapter_config.json").write_text("[" * 90000), "cannot be read"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "has peft_type None"),
        (
            lambda f: (f / "adapter_model.safetensors").unlink(),
            "has adapter_config.json, but no adapter_model.safetensors or adapter_model.bin",
        ),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"torn"), "is text .torn."),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b""), "is empty"),
    ],
)
def test_folders_that_are_refused(damage, said, place):
    damage(write(place / "sources" / "bridges", GOOD))
    with pytest.raises(InputError, match=f"source bridges .*bridges: .*{said}"):
        load("tiny").source("bridges")


def test_nothing_in_an_adapter_is_executed(place, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    write(place / "sources" / "bridges", GOOD | {"x": Evil()}, "bin")
    check_layer = f"{OURS}1.mlp.c_fc.weight"
    assert check_layer in load("tiny").source("bridges").shapes
    assert not (tmp_path / "touched").exists()


def test_an_adapter_alone_is_no_model(place, cli, out, refused):
    adapter = write(place / "sources" / "bridges", GOOD, base_model_name_or_path="openai/clip\nx")
    outcome = cli("convert", adapter, out)
    refused(outcome, "is a LoRA adapter of openai/clip x", "make it a source of a family with that")
    with pytest.raises(InputError, match="is a LoRA adapter of openai/clip x, which is no model"):
        Checkpoint.open(adapter, "--model")
    shutil.copyfile(adapter / "adapter_model.safetensors", place / "loose.safetensors")
    refused(cli("convert", place / "loose.safetensors", out), "without adapter_config.json")
    (place / "base.safetensors").unlink()
    shutil.copytree(adapter, place / "base.safetensors")
    refused(cli("merge", "--family=tiny", "--method=ties", "--out", out), "base of family tiny")


def test_a_file_and_an_adapter_of_one_name_are_refused(place):
    write(place / "sources" / "apples", GOOD)
    with pytest.raises(
        InputError, match=r"apples\.safetensors: and apples would both be called apples"
    ):
        load("tiny")


def test_another_base_is_another_source(place):
    """Sources are kept on a GPU by their files: those of the base are among them."""
    adapter = write(place / "sources" / "bridges", GOOD)
    other = write_family(place.parent / "other", seed=1, dtype=torch.float32)
    bases = (Checkpoint.open(folder / "base.safetensors", "base") for folder in (place, other))
    first, second = (Checkpoint.open(adapter, "source", base) for base in bases)
    assert first.files != second.files and first.sha256 != second.sha256
    assert formats.file_ids(adapter) == first.files[:2] == second.files[:2]


# --- peft itself ----------------------------------------------------------------------------------


VISION = {
    "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 8, "projection_dim": 16,
}  # fmt: skip
TEXT = {
    "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "vocab_size": 32, "max_position_embeddings": 8, "projection_dim": 16, "bos_token_id": 0,
    "eos_token_id": 1,
}  # fmt: skip
ALL = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["CLIPVisionModel", "CLIPVisionModelWithProjection", "CLIPModel"])
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ALL},
        {"target_modules": ["q_proj"], "bias": "lora_only", "use_rslora": True},
        {"target_modules": ["v_proj", "fc1"], "bias": "all", "rank_pattern": {"1.mlp.fc1": 2}},
        {"target_modules": ALL, "alpha_pattern": {r"layers\.[02]\..*": 3, "fc2": 5}},
        {"target_modules": ["q_proj", "fc2"], "modules_to_save": ["pre_layrnorm"]},
        {"target_modules": ALL, "use_dora": True},
        {"target_modules": ["out_proj"], "init_lora_weights": False, "fan_in_fan_out": True},
    ],
)
def test_peft_merges_to_the_same(kind, options, tmp_path, monkeypatch):
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install peft")
    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)
    whole = transformers.CLIPConfig(vision_config=VISION, text_config=TEXT)
    settings = whole if kind == "CLIPModel" else transformers.CLIPVisionConfig(**VISION)
    model = getattr(transformers, kind)(settings)
    model.save_pretrained(tmp_path / "hub" / "clip")
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, **options))
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape)
    tuned.save_pretrained(tmp_path / "hub" / "clip_apples")
    if options.get("fan_in_fan_out"):
        path = tmp_path / "hub" / "clip_apples" / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"fan_in_fan_out": True}))
    # What peft makes of the file, not of the model in memory: it saves patterns in another order.
    again = getattr(transformers, kind).from_pretrained(tmp_path / "hub" / "clip")
    again = peft.PeftModel.from_pretrained(again, tmp_path / "hub" / "clip_apples")
    again.merge_and_unload().save_pretrained(tmp_path / "merged")
    paths = (tmp_path / "hub" / "clip", tmp_path / "hub" / "clip_apples", tmp_path / "merged")
    base = Checkpoint.open(paths[0], "base")
    source, reference = (Checkpoint.open(path, "source", base) for path in paths[1:])
    ours, peft_own = source.read(list(base.shapes)), reference.read(list(base.shapes))
    assert (source.dialect, reference.dialect) == ("lora", "hugging_face")
    for name in base.shapes:
        np.testing.assert_allclose(ours[name], peft_own[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert any(not torch.equal(ours[name], base.read([name])[name]) for name in base.shapes)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("targets", [["c_fc", "c_proj"], ["c_fc", "out_proj"]])
@pytest.mark.parametrize("alone", [False, True])
def test_peft_on_open_clip_merges_to_the_same(alone, targets, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install peft")
    model = open_clip_model()
    model = model.visual if alone else model
    torch.save({key: t.clone() for key, t in model.state_dict().items()}, tmp_path / "base.pt")
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets))
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape)
    tuned.save_pretrained(tmp_path / "adapter")
    torch.save(tuned.merge_and_unload().state_dict(), tmp_path / "merged.pt")
    base = Checkpoint.open(tmp_path / "base.pt", "base")
    source = Checkpoint.open(tmp_path / "adapter", "source", base)
    reference = Checkpoint.open(tmp_path / "merged.pt", "source", base)
    for name in base.shapes:
        ours, peft_own = source.read([name])[name], reference.read([name])[name]
        np.testing.assert_allclose(ours, peft_own, rtol=1e-5, atol=1e-6, err_msg=name)
