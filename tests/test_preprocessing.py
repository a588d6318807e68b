"""Mean and std of pixels: family.toml's, else those of the files beside the base, else CLIP's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from mloss_core import InputError, load
from mloss_core.families.family import MEAN, STD
from tiny import CONFIG, open_clip_model

TOML = "num_attention_heads = 2\n"
OURS = (0.5, 0.25, 0.125), (0.5, 1.0, 2.0)
OPEN_CLIP = {"mean": list(OURS[0]), "std": list(OURS[1]), "interpolation": "bicubic"}
HUGGING_FACE = {"image_mean": list(OURS[0]), "image_std": list(OURS[1]), "do_normalize": True}


@pytest.fixture
def base(tmp_path, monkeypatch) -> Path:
    """The folder of a base beside one source, as open_clip's hub holds them."""
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path))
    for seed, name in enumerate(("clip", "clip_apples")):
        place = tmp_path / "found" / name
        place.mkdir(parents=True)
        visual = open_clip_model(seed=seed).visual.state_dict()
        tensors = {f"visual.{k}": v.contiguous() for k, v in visual.items()}
        save_file(tensors, place / "open_clip_model.safetensors")
    (tmp_path / "found" / "family.toml").write_text(TOML + 'activation = "quick_gelu"\n')
    return tmp_path / "found" / "clip"


def write(base: Path, name: str, value: object) -> None:
    (base / name).write_text(json.dumps(value))


def open_clip_config(**preprocessing) -> dict:
    model = {key: CONFIG[key] for key in ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")}
    return {"model_cfg": model, "preprocess_cfg": preprocessing}


def normalisation() -> tuple[tuple[float, ...], tuple[float, ...]]:
    model = load("found").model
    return model.mean, model.std


def test_clips_own_where_nothing_says_otherwise(base):
    assert normalisation() == (MEAN, STD)
    write(base, "open_clip_config.json", open_clip_config())
    write(base, "preprocessor_config.json", {"size": 224})
    assert normalisation() == (MEAN, STD)


@pytest.mark.parametrize(
    "name, value",
    [
        ("open_clip_config.json", open_clip_config(**OPEN_CLIP)),
        ("preprocessor_config.json", HUGGING_FACE),
    ],
)
def test_the_files_beside_the_base_tell(name, value, base):
    write(base, name, value)
    assert normalisation() == OURS


def test_family_toml_has_the_last_word(base):
    write(base, "preprocessor_config.json", HUGGING_FACE)
    with (base.parent / "family.toml").open("a") as file:
        file.write("mean = [0, 0, 0]\n")
    assert normalisation() == ((0.0, 0.0, 0.0), OURS[1])


@pytest.mark.parametrize("wrong", [[0.5], [0.5] * 4, ["a"] * 3, 3, None, [float("nan")] * 3])
def test_what_is_no_three_numbers_is_refused(wrong, base):
    write(base, "preprocessor_config.json", HUGGING_FACE | {"image_mean": wrong})
    with pytest.raises(InputError, match="has image_mean or image_std that cannot be"):
        load("found")


@pytest.mark.parametrize("wrong", ["[0.5]", '"red"', "[0, 0, 0]"])
def test_a_std_of_family_toml_that_divides_by_nothing_is_refused(wrong, base):
    with (base.parent / "family.toml").open("a") as file:
        file.write(f"std = {wrong}\n")
    with pytest.raises(InputError, match="has a mean or std that is wrong"):
        load("found")
