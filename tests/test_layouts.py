"""Families as other tools leave them: found, told apart, and refused with a clear word."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from visitor import compared, settled, visit, words

from dialect_files import hugging_face_names, prefixed, state, write_module
from mloss_core import Finished, InputError, MergeRecipe, families, load, run
from mloss_core.__main__ import main
from mloss_core.checkpoints.read import WEIGHTS
from mloss_core.data import images
from mloss_core.families.layouts import layout
from mloss_core.families.scaffold import scaffold
from tiny import TASKS, open_clip_model, write_family

HF_CONFIG = {
    "model_type": "clip",
    "vision_config": {"num_attention_heads": 2, "image_size": 16, "patch_size": 8},
}


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """An empty folder of families."""
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path))
    return tmp_path


def pictures(folder: Path, count: int = 5) -> None:
    """Small pictures of odd sizes in two kinds of file."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 256, (20 + i, 31, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.{'png' if i % 2 else 'jpg'}")


def hugging_face(folder: Path) -> Path:
    """clip and clip_<task>, as a hub of folders."""
    for seed, name in enumerate(("clip", *(f"clip_{task}" for task in TASKS))):
        place = folder / name
        place.mkdir(parents=True)
        tensors = {
            k: v.contiguous() for k, v in hugging_face_names(open_clip_model(seed=seed)).items()
        }
        save_file(tensors, place / "model.safetensors")
        (place / "config.json").write_text(json.dumps(HF_CONFIG))
    return folder


def loose(folder: Path) -> Path:
    """State dicts side by side, in torch's format; nothing tells their activation."""
    folder.mkdir(parents=True)
    for seed, name in enumerate(("base", *TASKS)):
        tensors = prefixed("module.", state(open_clip_model(seed=seed)))
        torch.save({"state_dict": tensors}, folder / f"{name}.pt")
    return folder


def task_vectors(folder: Path) -> Path:
    """zeroshot.pt and <Task>/finetuned.pt of pickled modules, with heads."""
    folder.mkdir(parents=True)
    write_module(open_clip_model(seed=0), folder / "zeroshot.pt")
    for seed, name in enumerate(TASKS, start=1):
        (folder / name).mkdir()
        write_module(open_clip_model(seed=seed), folder / name / "finetuned.pt")
        torch.save({"weight": torch.randn(4, 16)}, folder / f"head_{name}.pt")
    return folder


# 32 wide, half a head of CLIP's: no tensor tells that there are two.
TOML = 'num_attention_heads = 2\nactivation = "quick_gelu"\ncalibration = "unlabeled"\n'


@pytest.mark.parametrize("write", [hugging_face, loose, task_vectors])
def test_a_folder_of_another_tool_is_a_family_and_merges(write, shelf):
    folder = write(shelf / "found")
    pictures(folder / "unlabeled")
    (folder / "family.toml").write_text(TOML)
    assert "found" in families()
    family = load("found")
    assert (family.sources, family.tasks) == (TASKS, ())
    assert (family.model.blocks, family.model.image_size) == (3, 16)
    recipe = MergeRecipe(family="found", method="m-ties", sources=TASKS, samples=4)
    *_, finished = run(recipe, family, device="cpu")
    assert isinstance(finished, Finished) and finished.weights is not None
    assert finished.weights.keys() == family.model.shapes().keys()


def test_a_source_without_projection_takes_the_bases(shelf):
    folder = hugging_face(shelf / "found")
    pictures(folder / "unlabeled")
    (folder / "family.toml").write_text(TOML)
    for task in TASKS:  # as CLIPVisionModel.save_pretrained leaves them
        path = folder / f"clip_{task}" / "model.safetensors"
        tensors = load_file(path)
        del tensors["visual_projection.weight"]
        save_file(tensors, path)
    family = load("found")
    projection = family.base().read(["visual.proj"])["visual.proj"]
    source = family.source("apples")
    assert source.shapes == family.base().shapes
    assert source.read(source.shapes)["visual.proj"].equal(projection)
    recipe = MergeRecipe(family="found", method="ties", sources=TASKS)
    *_, finished = run(recipe, family, device="cpu")
    assert isinstance(finished, Finished) and finished.weights is not None
    assert finished.weights["visual.proj"].equal(projection)
    (folder / "clip" / "model.safetensors").write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"visual\.proj.*CLIPVisionModelWithProjection"):
        load("found")


def test_what_a_folder_does_not_tell_is_asked_never_guessed(shelf):
    loose(shelf / "found")
    (shelf / "found" / "family.toml").write_text("num_attention_heads = 2\n")
    with pytest.raises(InputError, match="does not tell its activation; write activation = "):
        load("found")
    for name in TASKS:  # nothing but sources: which is the base?
        (shelf / "found" / "base.pt").rename(shelf / "found" / f"other{name}.pt")
        break
    with pytest.raises(InputError, match="does not tell which file is its base; it has"):
        load("found")


@pytest.mark.parametrize(
    "toml, said",
    [
        ('base = "../../etc/passwd"', "leads out of the folder of families"),
        ('[sources]\na = "/etc/passwd"', "leads out of the folder of families"),
        ("base = 3", "has 3 for a path"),
        ("base = ", "cannot be read"),
        ('sources = "all"', "cannot be read"),
        ('activation = "tanh"', "has activation 'tanh'"),
        ('[[tasks]]\ntitle = "no name"', "has tasks that cannot be read"),
    ],
)
def test_a_bad_family_toml_is_refused(toml, said, shelf):
    folder = loose(shelf / "found")
    (folder / "family.toml").write_text(
        toml if "tanh" not in toml else TOML.replace("quick_gelu", "tanh")
    )
    with pytest.raises(InputError, match=said.replace("[", r"\[")):
        load("found")


def test_a_link_out_of_the_folder_of_families_is_refused(shelf, tmp_path_factory):
    folder, outside = hugging_face(shelf / "found"), tmp_path_factory.mktemp("outside")
    weights = folder / "clip_apples"
    weights.rename(outside / "clip_apples")
    weights.symlink_to(outside / "clip_apples")
    with pytest.raises(InputError, match="leads out of the folder of families"):
        load("found")


def test_two_sources_of_one_name_are_refused(shelf):
    folder = hugging_face(shelf / "found")
    (folder / "clip_apples").rename(folder / "clip_bridges_")
    with pytest.raises(InputError, match="would both be called bridges"):
        load("found")


def test_the_scaffold_is_a_family_toml_that_only_lacks_what_it_says(shelf):
    folder = loose(shelf / "found")
    with pytest.raises(InputError, match="num_attention_heads"):  # the tiny tower's only
        scaffold(folder)
    hub = hugging_face(shelf / "hub")
    text = scaffold(hub)
    assert 'base = "clip"' in text and '"apples" = "clip_apples"' in text
    assert load("hub").sources == TASKS
    with pytest.raises(InputError, match="exists and is never overwritten"):
        scaffold(hub)
    with pytest.raises(InputError, match="holds no models"):
        (shelf / "empty").mkdir()
        scaffold(shelf / "empty")


def test_tasks_are_folders_of_pictures(shelf):
    folder = hugging_face(shelf / "found")
    for kind in ("cat", "dog"):
        pictures(folder / "tasks" / "apples" / "test" / kind, 3)
    task = load("found").task("apples")
    assert task.classes == ("cat", "dog") and task.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert task.images[1:3].shape == (2, 16, 16, 3)
    turned = task.images[np.array([5, 0])]
    np.testing.assert_array_equal(turned[:1], task.images[5:6])
    (folder / "tasks" / "apples" / "test" / "bird").mkdir()
    with pytest.raises(InputError, match="bird: holds no pictures"):
        load("found").task("apples")


def test_a_task_whose_name_has_a_dot_is_found(shelf):
    own = write_family(shelf / "own")
    (own / "tasks" / "apples.npz").rename(own / "tasks" / "v1.5.npz")
    about = own / "family.json"
    about.write_text(about.read_text().replace('"apples"', '"v1.5"'))
    assert len(load("own").task("v1.5").images) == 12


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_folder_that_can_be_opened_is_found(name, shelf):
    hub = hugging_face(shelf / "hub")
    for place in hub.iterdir():
        (place / "model.safetensors").rename(place / name)
    (hub / "family.toml").write_text(TOML)
    assert layout(hub).sources.keys() == set(TASKS)


def test_a_picture_that_is_none_is_named_and_skipped_only_on_the_users_word(shelf):
    folder = hugging_face(shelf / "found")
    pictures(folder / "unlabeled")
    (folder / "unlabeled" / "bad.png").write_bytes(b"no picture")
    (folder / "family.toml").write_text('calibration = "unlabeled"\n')
    recipe = MergeRecipe(family="found", method="m-ties", sources=TASKS, samples=6)
    with pytest.raises(InputError, match=r"bad\.png: cannot be decoded"):
        list(run(recipe, load("found"), device="cpu"))
    (folder / "family.toml").write_text('calibration = "unlabeled"\nskip = ["bad.png"]\n')
    with pytest.raises(InputError, match="more than the 5 pictures"):
        list(run(recipe, load("found"), device="cpu"))


def test_the_command_line_scaffolds(shelf, capsys):
    hub = hugging_face(shelf / "hub")
    assert main(["families", "--init", str(hub)]) == 0
    assert 'base = "clip"' in capsys.readouterr().out and (hub / "family.toml").is_file()
    assert main(["families", "--init", str(hub)]) == 2
    assert "exists and is never overwritten" in capsys.readouterr().err


def test_pictures_are_prepared_as_open_clip_prepares_them(tmp_path):
    pictures(tmp_path / "some", 7)
    paths = images.picture_files(tmp_path / "some")
    transform = open_clip.image_transform(16, is_train=False, mean=(0, 0, 0), std=(1, 1, 1))
    for ours, path in zip(images.decoded(paths, 16), paths, strict=True):
        with Image.open(path) as picture:
            expected = (255 * transform(picture)).round().byte().permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(ours, expected)


def test_the_app_shows_and_merges_a_family_without_tasks(visit, shelf):
    folder = hugging_face(shelf / "hub")
    pictures(folder / "unlabeled")
    (folder / "family.toml").write_text('calibration = "unlabeled"\n')
    link = "family=hub&samples=4"
    assert "3 sources" in words(visit("sources", link)).replace("*", "")
    assert "3 of 3 blocks measured" in words(settled(visit("explain", link)))
    assert "No accuracies: this family has no test images" in words(
        compared(visit("explore", link))
    )
