"""The committed families keep their contract with other tools: numpy and safetensors suffice."""

import hashlib
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file

ZOO = Path(__file__).parents[1] / "assets/zoo"
DEMO, CONTRAST = ZOO / "demo", ZOO / "contrast"
SOURCES = [
    "mnist",
    "street_digits",
    "letters",
    "hiragana",
    "signs",
    "emoji",
    "textures",
    "fashion",
]
OTHERS = ["earth", "greek", "arabic", "clipart"]
VARIANTS = ["letters_fast", "letters_other", "letters_slow", "textures_fast", "textures_slow"]
BYTES_ALLOWED = 100_000_000
UNIQUE_KEYS = ["embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "mean", "std"]


@pytest.fixture(scope="module")
def family() -> dict:
    return json.loads((DEMO / "family.json").read_text())


def load_task(name: str) -> dict[str, np.ndarray]:
    with np.load(DEMO / "tasks" / f"{name}.npz", allow_pickle=False) as data:
        return {key: data[key] for key in data.files}


def keys_in(value) -> list[str]:
    """All keys of nested dicts and lists."""
    if isinstance(value, dict):
        return [*value, *(key for inner in value.values() for key in keys_in(inner))]
    return [key for inner in value for key in keys_in(inner)] if isinstance(value, list) else []


def bare_clip(family: dict) -> CLIP:
    return CLIP(
        family["embed_dim"],
        family["vision_cfg"],
        family["text_cfg"],
        quick_gelu=family["quick_gelu"],
    )


def test_description_states_the_model_the_tasks_and_settings_once(family):
    assert family["name"] == "demo" and family["title"] and family["description"]
    assert family["quick_gelu"] is True and family["vision_cfg"]["layers"] == 12
    assert [len(family[key]) for key in ("mean", "std")] == [3, 3]
    assert all(keys_in(family).count(key) == 1 for key in UNIQUE_KEYS)
    assert [task["name"] for task in family["tasks"]] == SOURCES + OTHERS
    kinds = ["source"] * len(SOURCES) + ["out-of-domain"] * len(OTHERS)
    assert [task["kind"] for task in family["tasks"]] == kinds
    assert all("{}" in task["template"] and task["title"] for task in family["tasks"])


def test_recommended_settings_are_in_range(family):
    recommended = family["recommended"]
    assert 0 < recommended["keep"] <= 1 and 0 < recommended["variation"] <= recommended["keep"]
    assert recommended["scaling"] > 0 and recommended["task-arithmetic"]["scaling"] > 0
    assert 0 < recommended["dare"]["keep"] <= 1 and recommended["dare"]["scaling"] > 0


def test_all_files_together_stay_small():
    assert sum(file.stat().st_size for file in ZOO.rglob("*") if file.is_file()) <= BYTES_ALLOWED


def test_sources_folder_holds_the_eight_sources_only():
    assert sorted(file.name for file in (DEMO / "sources").iterdir()) == sorted(
        f"{n}.safetensors" for n in SOURCES
    )


def test_contrast_holds_its_five_sources_and_two_tasks():
    assert sorted(file.stem for file in (CONTRAST / "sources").iterdir()) == VARIANTS
    assert sorted(file.stem for file in (CONTRAST / "tasks").iterdir()) == ["letters", "textures"]
    about = json.loads((CONTRAST / "family.json").read_text())
    assert sorted(name for task in about["tasks"] for name in task["sources"]) == VARIANTS
    assert "letters_other" in about["description"] and "M-Loss" in about["description"]
    card = (CONTRAST / "README.md").read_text()
    assert all(name in card for name in VARIANTS)


def test_contrast_has_the_demos_base_heads_and_first_pictures():
    base = (CONTRAST / "base.safetensors").read_bytes()
    assert base == (DEMO / "base.safetensors").read_bytes()
    ours, reference = (
        load_file(CONTRAST / "heads.safetensors"),
        load_file(DEMO / "heads.safetensors"),
    )
    for name, head in ours.items():
        assert torch.equal(head, reference[name])
        with np.load(CONTRAST / "tasks" / f"{name}.npz") as data:
            for prefix, count in (("", 250), ("val_", 100)):
                images = load_task(name)[f"{prefix}images"]
                np.testing.assert_array_equal(data[f"{prefix}images"], images[:count])
                assert set(data["labels"]) == set(range(len(data["classes"])))
    with np.load(CONTRAST / "calibration.npz") as data:
        names, counts = np.unique(data["tasks"], return_counts=True)
    assert list(names) == ["letters", "textures"] and set(counts) == {64}


TOWERS = ["demo/base", *(f"demo/sources/{name}" for name in SOURCES)]
TOWERS += ["contrast/base", *(f"contrast/sources/{name}" for name in VARIANTS)]


@pytest.mark.parametrize("file", TOWERS)
def test_towers_have_open_clips_names_and_shapes_in_fp16(file, family):
    expected = {
        name: p.shape
        for name, p in bare_clip(family).state_dict().items()
        if name.startswith("visual.")
    }
    tensors = load_file(ZOO / f"{file}.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == expected
    assert all(
        tensor.dtype == torch.float16 and torch.isfinite(tensor).all()
        for tensor in tensors.values()
    )


def test_sources_differ_from_the_base():
    base = load_file(DEMO / "base.safetensors")
    for name in SOURCES:
        source = load_file(DEMO / f"sources/{name}.safetensors")
        assert any(not torch.equal(base[key], source[key]) for key in base)


@pytest.mark.parametrize("name", SOURCES + OTHERS)
def test_task_arrays(name):
    task = load_task(name)
    assert sorted(task) == ["classes", "images", "labels", "val_images", "val_labels"]
    assert task["classes"].dtype.kind == "U" and len(set(task["classes"])) == len(task["classes"])
    for prefix, least in (("", 500), ("val_", 200)):
        images, labels = task[f"{prefix}images"], task[f"{prefix}labels"]
        assert (
            images.dtype == np.uint8
            and images.shape == (len(labels), 32, 32, 3)
            and len(labels) >= least
        )
        assert labels.dtype == np.int64 and set(np.unique(labels)) <= set(
            range(len(task["classes"]))
        )
    assert set(np.unique(task["labels"])) == set(range(len(task["classes"])))


def test_calibration_pictures_are_unlabelled_and_name_their_task():
    with np.load(DEMO / "calibration.npz", allow_pickle=False) as data:
        assert sorted(data.files) == ["images", "tasks"]
        assert data["images"].dtype == np.uint8 and data["images"].shape == (
            len(data["tasks"]),
            32,
            32,
            3,
        )
        names, counts = np.unique(data["tasks"], return_counts=True)
    assert sorted(names) == sorted(SOURCES) and set(counts) == {64}


def test_no_picture_is_in_two_splits():
    owner: dict[bytes, str] = {}
    tasks = {name: load_task(name) for name in SOURCES + OTHERS}
    groups = {
        (name, prefix): task[f"{prefix}images"]
        for name, task in tasks.items()
        for prefix in ("", "val_")
    }
    with np.load(DEMO / "calibration.npz") as data:
        groups["calibration", ""] = data["images"]
    for group, images in groups.items():
        for image in images:
            key = hashlib.sha256(image.tobytes()).digest()
            assert owner.setdefault(key, str(group)) == str(group)


def test_heads_have_unit_rows_in_label_order():
    heads = load_file(DEMO / "heads.safetensors")
    assert sorted(heads) == sorted(SOURCES + OTHERS)
    for name, head in heads.items():
        assert head.dtype == torch.float32 and len(head) == len(load_task(name)["classes"])
        torch.testing.assert_close(head.norm(dim=1), torch.ones(len(head)))


def test_heads_are_the_text_towers_embeddings_of_the_prompts(family):
    clip = bare_clip(family)
    stored = load_file(DEMO / "base.safetensors") | load_file(DEMO / "text.safetensors")
    clip.load_state_dict({name: tensor.float() for name, tensor in stored.items()}, strict=True)
    row = {token: index for index, token in enumerate(family["token_ids"])}
    assert len(row) == family["text_cfg"]["vocab_size"] and family["token_ids"] == sorted(row)
    tokenizer = open_clip.SimpleTokenizer(context_length=family["text_cfg"]["context_length"])
    heads = load_file(DEMO / "heads.safetensors")
    for task in family["tasks"]:
        prompts = [task["template"].format(name) for name in load_task(task["name"])["classes"]]
        tokens = torch.tensor(
            [[row[token] for token in line] for line in tokenizer(prompts).tolist()]
        )
        with torch.no_grad():
            embeddings = clip.eval().encode_text(tokens, normalize=True)
        torch.testing.assert_close(embeddings, heads[task["name"]], atol=1e-5, rtol=0)


def test_card_and_picture_sheet_are_there():
    card = (DEMO / "README.md").read_text()
    assert all(name in card for name in SOURCES + OTHERS) and "CC BY-SA 3.0" in card
    assert (DEMO / "sheet.png").stat().st_size < 300_000
