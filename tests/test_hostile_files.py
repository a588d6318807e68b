"""Model files that are torn, hostile or of another family: refused by name, whoever opens them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

PROJ = "visual.proj"
FC = "visual.transformer.resblocks.1.mlp.c_fc.weight"
MERGE = ("merge", "--family=tiny", "--samples=6", "--out")


def without(tensors):
    del tensors[PROJ]


def with_more(tensors):
    tensors["visual.extra"] = torch.zeros(1)


def reshaped(tensors):
    tensors[PROJ] = tensors[PROJ].T.contiguous()


def retyped(tensors):
    tensors[PROJ] = tensors[PROJ].float()


def as_integers(tensors):
    tensors[PROJ] = tensors[PROJ].int()


def with_nan(tensors):
    tensors[FC][3, 5] = float("nan")


def with_infinities(tensors):
    tensors[FC][0, :2] = torch.tensor([float("inf"), float("-inf")])


MISFITS = [
    (without, PROJ),
    (with_more, "visual.extra"),
    (reshaped, PROJ),
    (retyped, PROJ),
    (as_integers, PROJ),
    (with_nan, FC),
    (with_infinities, FC),
]


@pytest.mark.parametrize("method", ["simple-average", "m-ties"])
@pytest.mark.parametrize("change, tensor", MISFITS)
def test_a_source_that_differs_is_refused_by_tensor(
    change, tensor, method, cli, own_family, out, refused
):
    path = own_family / "sources" / "bridges.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    outcome = cli(*MERGE, out, "--method", method)
    refused(outcome, "source bridges", path.name, tensor)


@pytest.mark.parametrize("change, tensor", [(c, t) for c, t in MISFITS if c is not retyped])
def test_a_base_that_differs_is_refused_by_tensor(change, tensor, cli, own_family, out, refused):
    path = own_family / "base.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    refused(cli(*MERGE, out), "base of family tiny", tensor)
    shutil.move(path, own_family.parent / "model.safetensors")
    save_file(load_file(own_family / "sources" / "clouds.safetensors"), path)
    outcome = cli("evaluate", "--family=tiny", "--model", own_family.parent / "model.safetensors")
    refused(outcome, "--model", "model.safetensors", tensor)


@pytest.mark.parametrize(
    "change, status",
    [
        (lambda heads: heads.pop("clouds"), 2),
        (lambda heads: heads.update(clouds=torch.ones(4, 9)), 2),
        (lambda heads: heads.update(clouds=torch.ones(16)), 2),
        (lambda heads: heads.update(clouds=torch.ones(2, 16)), 1),  # the other tasks have rows
        (lambda heads: heads.update(clouds=torch.full((4, 16), float("nan"))), 2),
    ],
    ids=["missing", "other width", "a vector", "too few classes", "NaN"],
)
def test_heads_that_do_not_fit_are_refused(change, status, cli, own_family, out, refused):
    path = own_family / "heads.safetensors"
    heads = load_file(path)
    change(heads)
    save_file(heads, path)
    refused(cli("evaluate", "--family=tiny", "--model=base"), "heads", "clouds", status=status)


# --- files that are torn, or none of theirs -------------------------------------------------------


def header(text: bytes, claimed: int | None = None) -> bytes:
    """A safetensors file of only this header."""
    return (len(text) if claimed is None else claimed).to_bytes(8, "little") + text


NESTED = json.dumps({"__metadata__": {"mloss": "[" * 100_000}}).encode()
TORN = {
    "truncated": lambda content: content[:-10],
    "half": lambda content: content[: len(content) // 2],
    "header only": lambda content: content[:8],
    "empty": lambda content: b"",
    "huge header": lambda content: header(content[8:], claimed=2**62),
    "long tail": lambda content: content + b"tail",
    "random": lambda content: np.random.default_rng(0).bytes(999),
    "pickle": lambda content: b"\x80\x02}q\x00.",
    "endless nesting": lambda content: header(NESTED),
    "deep header": lambda content: header(b'{"a":' * 5000),
}
PLACES = {
    "source": ("sources/clouds.safetensors", "source clouds"),
    "base": ("base.safetensors", "base of family tiny"),
    "heads": ("heads.safetensors", "heads of tiny"),
    "--model": ("model.safetensors", "--model"),
}


def open_all(cli, own_family, place, out):
    """The command that opens the file of this place."""
    if place in ("source", "base"):
        return cli(*MERGE, out)
    model = own_family / "model.safetensors" if place == "--model" else "base"
    return cli("evaluate", "--family=tiny", "--model", model)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("tear", TORN.values(), ids=TORN.keys())
def test_a_torn_or_hostile_model_file_is_refused(tear, place, cli, own_family, out, refused):
    name, argument = PLACES[place]
    content = (own_family / "base.safetensors").read_bytes()
    (own_family / name).write_bytes(tear(content))
    outcome = open_all(cli, own_family, place, out)
    refused(outcome, argument, Path(name).name)


@pytest.mark.parametrize("place", PLACES)
def test_a_folder_in_a_files_place_is_refused(place, cli, own_family, out, refused):
    name, argument = PLACES[place]
    (own_family / name).unlink(missing_ok=True)
    (own_family / name).mkdir()
    refused(open_all(cli, own_family, place, out), argument, name)


@pytest.mark.parametrize("place", ["base", "heads", "--model"])
def test_a_missing_model_file_is_refused(place, cli, own_family, out, refused):
    name, argument = PLACES[place]
    (own_family / name).unlink(missing_ok=True)
    refused(open_all(cli, own_family, place, out), argument, name, "does not exist")


ABOUT = ["embed_dim", "quick_gelu", "vision_cfg", "mean", "std", "tasks"]
VISION = ["image_size", "patch_size", "width", "layers"]
BROKEN = {
    **{f"no {key}": (lambda about, k=key: about.pop(k)) for key in ABOUT},
    **{f"no {key}": (lambda about, k=key: about["vision_cfg"].pop(k)) for key in VISION},
    **{f"{key} 0": (lambda about, k=key: about["vision_cfg"].update({k: 0})) for key in VISION},
    "head_width 0": lambda about: about["vision_cfg"].update(head_width=0),
    "head_width 20": lambda about: about["vision_cfg"].update(head_width=20),
    "text for a number": lambda about: about.update(embed_dim="many"),
    "a task without name": lambda about: about.update(tasks=[{}]),
    "a mean of one number": lambda about: about.update(mean=[0.5]),
    "a std of zeros": lambda about: about.update(std=[0, 0, 0]),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN.keys())
def test_a_family_description_with_holes_is_refused(change, cli, own_family, out, refused):
    path = own_family / "family.json"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))
    outcome = cli(*MERGE, out)
    refused(outcome, "family", "tiny")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"{}", b"\xff\xfe{}", b"[" * 100_000])
def test_a_family_description_that_is_no_json_object_is_refused(
    content, cli, own_family, out, refused
):
    (own_family / "family.json").write_bytes(content)
    refused(cli(*MERGE, out), "family.json", "tiny")
