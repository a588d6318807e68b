"""Bad input as a visitor and a user of the command line meet it: both read the same clear words."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_dialects_hostile import tensor_of
from visitor import button, press, settled, sound, view, visit, words

from mloss_core import list_runs
from tiny import TASKS

SOURCE = Path("sources/bridges.safetensors")


def cut(family: Path) -> None:
    content = (family / SOURCE).read_bytes()
    (family / SOURCE).write_bytes(content[: len(content) // 2])


def bomb(family: Path) -> None:
    with zipfile.ZipFile(family / SOURCE, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m/data.pkl", tensor_of((4,), (1,)), zipfile.ZIP_STORED)
        file.writestr("m/data/0", bytes(40_000_000))


class Writes:
    """A pickle that would write a file when it is loaded as pickles are."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.write_text, (self.path, "run")


def code(family: Path) -> None:
    torch.save({"visual.proj": Writes(family / "run")}, family / SOURCE)


def changed(change: Callable[[dict], dict]) -> Callable[[Path], None]:
    def damage(family: Path) -> None:
        save_file(change(load_file(family / SOURCE)), family / SOURCE)

    return damage


def as_numbers(dtype: torch.dtype) -> Callable[[Path], None]:
    return changed(lambda tensors: {k: v.to(dtype) for k, v in tensors.items()})


def fewer(tensors: dict) -> dict:
    return {k: v for k, v in tensors.items() if "resblocks.1." not in k}


def more(tensors: dict) -> dict:
    return tensors | {f"visual.extra{i:02d}": torch.zeros(1) for i in range(12)}


def pictured(family: Path) -> Path:
    """The first task as folders of pictures, a class each."""
    (family / "tasks" / f"{TASKS[0]}.npz").unlink()
    place = family / "tasks" / TASKS[0] / "test"
    for number, name in enumerate(("one", "two", "three", "four")):
        (place / name).mkdir(parents=True)
        Image.new("RGB", (20, 20), (60 * number, 0, 0)).save(place / name / "a.png")
    return place


def no_image(family: Path) -> None:
    (pictured(family) / "two" / "a.png").write_bytes(b"no picture")


def no_pictures(family: Path) -> None:
    (pictured(family) / "two" / "a.png").unlink()


def far_labels(family: Path) -> None:
    path = family / "tasks" / f"{TASKS[0]}.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **(arrays | {"labels": arrays["labels"] + 4}))


def few_heads(family: Path) -> None:
    heads = load_file(family / "heads.safetensors")
    save_file(heads | {TASKS[0]: heads[TASKS[0]][:2].clone()}, family / "heads.safetensors")


MODELS = {
    "a truncated file": (cut, "cannot be read as a checkpoint"),
    "a zip bomb": (bomb, "times its size"),
    "a pickle that runs code": (code, "holds no image tower by any dialect's names"),
    "missing tensors": (changed(fewer), "lacks visual.transformer.resblocks.1."),
    "more tensors": (changed(more), "visual.extra09 ..."),
    "int8": (as_numbers(torch.int8), "has dtype I8; use F16, BF16, F32"),
    "int16": (as_numbers(torch.int16), "has dtype I16; use F16, BF16, F32"),
}
IMAGES = {
    "a picture that is none": (no_image, "cannot be decoded"),
    "a class without pictures": (no_pictures, "holds no pictures"),
    "labels beyond the classes": (far_labels, "for 4 classes; labels are 0 to classes - 1"),
    "a head of too few classes": (few_heads, "has 2 rows; give one per class: 4"),
}


def errors(test) -> str:
    return "\n".join(error.value for error in test.error)


@pytest.mark.parametrize("damage, said", MODELS.values(), ids=MODELS.keys())
def test_a_bad_model_is_refused_everywhere(
    damage, said, visit, own_family, cli, out, refused, runs
):
    damage(own_family)
    refused(cli("merge", "--family=tiny", "--method=ties", "--out", out), "source bridges", said)
    test = settled(visit("sources"))
    assert said in errors(test)
    test = settled(visit("explain", "samples=6"))
    assert said in errors(test)
    assert said in view(settled(press(visit("explore", "method=ties"), "launch")))["said"]
    assert not (own_family / "run").exists(), "its code has run"
    assert {record.state for record in list_runs()} == {"failed"}
    assert not list(runs.rglob("*.part")) and not list(runs.rglob("*.safetensors"))


@pytest.mark.parametrize("damage, said", IMAGES.values(), ids=IMAGES.keys())
def test_bad_test_images_are_refused_everywhere(damage, said, visit, own_family, cli, out, refused):
    damage(own_family)
    refused(cli("evaluate", "--family=tiny", "--model=base"), said, status=1)
    assert said in errors(settled(visit("sources")))
    test = press(visit("explore", "method=ties"), "launch")
    assert said in view(settled(test))["said"]


def test_what_was_mended_is_measured_again_when_asked(visit, own_family):
    place = pictured(own_family) / "two" / "a.png"
    good = place.read_bytes()
    place.write_bytes(b"no picture")
    test = settled(visit("sources"))
    assert "cannot be decoded" in errors(test)
    place.write_bytes(good)
    assert "cannot be decoded" in errors(settled(test)), "not by itself, again and again"
    button(test, "Measure again").click().run()
    test = settled(sound(test))
    assert errors(test) == "" and "n = 4" in str(test.dataframe[0].value.iloc[0, 1])


def traversal(family: Path) -> None:
    (family / "family.toml").write_text('base = "../../../etc/passwd"\n')


def link(family: Path) -> None:
    (family / "outside.safetensors").symlink_to("/etc/passwd")


def twins(family: Path) -> None:
    for name in ("base_cats", "base-cats"):
        (family / f"{name}.safetensors").write_bytes(b"")


FOLDERS = {
    "path traversal": (traversal, "leads out of the folder of families"),
    "a link out of the folder": (link, "leads out of the folder of families"),
    "two sources of one name": (twins, "would both be called cats"),
}


@pytest.mark.parametrize("damage, said", FOLDERS.values(), ids=FOLDERS.keys())
def test_a_bad_folder_is_refused_everywhere(damage, said, visit, own_family, cli, out, refused):
    folder = own_family.parent / "found"
    folder.mkdir()
    for name in ("base", "base_dogs"):
        (folder / f"{name}.safetensors").write_bytes((own_family / SOURCE).read_bytes())
    damage(folder)
    refused(cli("merge", "--family=found", "--out", out), said)
    listed = cli("families", "--json")
    assert listed.status == 0 and any(said in row.get("error", "") for row in listed.events)
    test = visit("sources", "family=found")
    assert said in test.warning[0].value and test.title, "another family is shown"
    test = visit("sources")
    test.selectbox[0].select("found").run()
    assert said in errors(sound(test))


@pytest.mark.parametrize("place", ["model", "scores"])
def test_a_full_disk_is_said_in_the_app_and_leaves_nothing_half_written(
    place, visit, runs, monkeypatch
):
    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half of it")
        if place == "model" or "block.0" in tensors:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("mloss_core.checkpoints.image_tower.save_file", full)
    test = settled(press(visit("explore"), "launch"))
    assert "No space left on device" in view(test)["said"]
    assert [(record.state, record.model) for record in list_runs()] == [("failed", None)]
    assert not list(runs.rglob("*.part")) and not list(runs.rglob("model.safetensors"))
