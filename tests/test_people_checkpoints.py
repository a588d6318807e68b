"""Checkpoints as people really have them: ties, extras, several models, other formats, twins."""

from __future__ import annotations

import argparse
import bz2
import collections
import datetime
import enum
import functools
import gzip
import io
import json
import lzma
import pickle
import random
import re
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from test_dialects_hostile import archive, tensor_of

from dialect_files import OLD, hugging_face_names, prefixed, state
from mloss_core import Checkpoint, InputError, MlossError, ViTConfig, load
from mloss_core.checkpoints.export import write_folder
from mloss_core.checkpoints.image_tower import save
from mloss_core.checkpoints.read import WEIGHTS
from mloss_core.families.sanity import doubts
from tiny import CONFIG, TASKS, open_clip_model, write_family

FAMILY = ViTConfig.from_config("tiny", CONFIG)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> open_clip.CLIP:
    """Read it, never change it."""
    return open_clip_model()


def tower(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Its image tower by our names."""
    return {name: tensor for name, tensor in state(model).items() if name.startswith("visual.")}


def read(path: Path) -> dict[str, torch.Tensor]:
    """The audited image tower of a file."""
    checkpoint = Checkpoint.open(path, "model")
    checkpoint.audit(FAMILY.shapes())
    checkpoint.check_finite()
    return checkpoint.read(FAMILY.shapes())


def agree(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []


# --- 4: tensors that share memory, and views ------------------------------------------------------


def tied(model: open_clip.CLIP) -> dict[str, torch.Tensor]:
    """A tower whose biases are one tensor, and whose norms are windows of one."""
    tensors, window = tower(model), torch.arange(40.0)
    for part in ("ln_pre", "ln_post"):
        tensors[f"visual.{part}.bias"] = tensors["visual.ln_pre.weight"]
    tensors["visual.ln_post.weight"] = window[4:36]
    tensors["visual.class_embedding"] = window[:32]
    return tensors


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "legacy"])
def test_tensors_that_share_memory_are_converted_by_value(options, model, tmp_path, cli, out):
    torch.save(tied(model), tmp_path / "m.pt", **options)
    agree(read(tmp_path / "m.pt"), tied(model))
    assert cli("convert", tmp_path / "m.pt", out).status == 0
    agree(load_file(out), tied(model))


def test_tensors_that_share_memory_are_written(model, tmp_path):
    save(tmp_path / "m.safetensors", tied(model), {})
    agree(load_file(tmp_path / "m.safetensors"), tied(model))
    write_folder(tmp_path / "folder", tied(model), FAMILY, {}, "")
    agree(read(tmp_path / "folder"), tied(model))


def test_ties_that_safetensors_left_out_are_there(model, tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = open_clip_model().visual
            self.visual.ln_post.weight = self.visual.ln_pre.weight

    save_model(Tied(), str(tmp_path / "m.safetensors"))
    assert len(load_file(tmp_path / "m.safetensors")) == len(FAMILY.shapes()) - 1
    agree(read(tmp_path / "m.safetensors"), tower(Tied()))


VIEWS = {
    "expanded": lambda t: t[:, :1].clone().expand(t.shape),
    "expanded whole": lambda t: t[:1, :1].clone().expand(t.shape),
    "transposed": lambda t: t.T.contiguous().T,
    "every second": lambda t: t.repeat_interleave(2, 0)[::2],
    "a window": lambda t: torch.nn.functional.pad(t, (2, 3))[:, 2:-3],
}


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "legacy"])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_views_are_read_by_value(view, options, model, tmp_path, cli, out):
    tensors = tower(model)
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            tensors[name] = view(tensor)
    torch.save(tensors, tmp_path / "m.pt", **options)
    agree(read(tmp_path / "m.pt"), tensors)
    assert cli("convert", tmp_path / "m.pt", out).status == 0
    agree(load_file(out), tensors)


def test_negative_strides_are_read_by_value(tmp_path):
    values = torch.arange(6.0)
    for size, stride, offset in (((6,), (-1,), 5), ((2, 3), (3, -1), 2), ((2, 2), (-3, -2), 5)):
        pickled = tensor_of(size, stride, offset, numel=6)
        archive(tmp_path / "m.pt", pickled, data__0=values.numpy().tobytes())
        expected = torch.tensor([offset + sum(map(int.__mul__, at, stride)) for at in grid(size)])
        loaded = Checkpoint.open(tmp_path / "m.pt", "model").load(CPU)["visual.proj"]
        assert torch.equal(loaded, expected.float().view(size))


def grid(size: tuple[int, ...]) -> list[list[int]]:
    return torch.cartesian_prod(*map(torch.arange, size)).view(-1, len(size)).tolist()


def test_views_that_would_fill_the_memory_are_refused(tmp_path):
    pickled = tensor_of((2**30, 4), (0, 1))
    archive(tmp_path / "m.pt", pickled, data__0=bytes(16))
    with pytest.raises(MlossError, match=r"unpacks to 17179869184 bytes, \d+ times its size"):
        Checkpoint.open(tmp_path / "m.pt", "model")
    many = {f"visual.{number}": torch.ones(4096).expand(512, 4096) for number in range(9)}
    torch.save(many, tmp_path / "m.pt")
    with pytest.raises(MlossError, match=r"unpacks to \d+ bytes, \d+ times its size"):
        Checkpoint.open(tmp_path / "m.pt", "model")


def test_a_view_that_negates_is_refused(model, tmp_path):
    negated = torch.ones(32, 16, dtype=torch.complex64).conj().imag
    assert negated.is_neg()
    torch.save(tower(model) | {"visual.proj": negated}, tmp_path / "m.pt")
    with pytest.raises(MlossError, match=r"holds a tensor stored as its negative; save it again"):
        Checkpoint.open(tmp_path / "m.pt", "model")


# --- 5: harmless extras, in every protocol --------------------------------------------------------


class Kind(enum.Enum):
    BEST = 1


class Outer:
    class Inner:
        """Pickled by a getattr of its outer class in old protocols."""


Point = collections.namedtuple("Point", "x y")


def extras() -> dict[str, object]:
    """What training scripts save beside a model."""
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    now = datetime.datetime.now(datetime.UTC)
    return {
        "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "epoch": 3,
        "args": argparse.Namespace(lr=0.1, out=Path("a") / "b"), "config": {"a": {"b": [1, {}]}},
        "arrays": [np.arange(5), np.asfortranarray(np.ones((3, 4))), np.arange(6)[::-1]],
        "odd arrays": [np.array([{}, 1], dtype=object), np.zeros(2, [("a", "f4")]), np.ma.ones(2)],
        "numbers": [np.float64(3), np.bool_(True), np.str_("x"), 10**50, 1j, ..., slice(1, 2)],
        "random": [random.getstate(), np.random.get_state(), np.random.default_rng(0)],
        "generator": torch.Generator().get_state(), "bytes": [b"abc", bytearray(b"abc" * 99)],
        "times": [now, now.date(), datetime.timedelta(1)], "path": Path("a/b"), "kind": Kind.BEST,
        "classes": [Outer.Inner, Outer.Inner(), Point(1, 2), functools.partial(print, 1), np.mean],
        "sets": [{1, 2}, frozenset("a"), collections.deque([1]), collections.Counter("aab")],
        "tables": [collections.defaultdict(list, a=[1]), collections.OrderedDict(a=1)],
        "torch": [torch.float16, torch.device("cpu"), torch.Size([1]), torch.nn.CrossEntropyLoss()],
        "odd tensors": [
            torch.eye(3).to_sparse(), torch.ones(2, dtype=torch.complex64),
            torch.ones(2).to(torch.float8_e4m3fn), torch.ones(2).to(torch.uint16),
            torch.ones(2, device="meta"), torch.nn.Parameter(torch.ones(2)),
        ],
    }  # fmt: skip


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_extras_beside_a_model_stay_inert(protocol, options, model, tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"state_dict": tower(model), **extras()}, path, pickle_protocol=protocol, **options)
    agree(read(path), tower(model))


def odd_tensors() -> list[torch.Tensor]:
    """One of each type that torch can save."""
    kinds = {kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)}
    packed = {kind for kind in kinds if re.match(r"torch\.(q|u?int[1-7]$)", str(kind))}
    names = ("qint8", "quint8", "qint32")
    return [
        *(torch.empty(3, dtype=kind) for kind in kinds - packed | {torch.complex64}),
        *(torch.quantize_per_tensor(torch.ones(3), 0.1, 0, getattr(torch, name)) for name in names),
    ]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_every_type_of_tensor_can_lie_beside_a_model(protocol, options, model, tmp_path):
    held = {"state_dict": tower(model), "odd": odd_tensors()}
    assert len(held["odd"]) > 20
    torch.save(held, tmp_path / "m.pt", pickle_protocol=protocol, **options)
    agree(read(tmp_path / "m.pt"), tower(model))


# --- 6: which model is in it ----------------------------------------------------------------------


def shifted(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Another model."""
    return {name: tensor + 1 for name, tensor in tensors.items()}


def both(own: str, other: str) -> Callable[[dict], dict]:
    """A script's dict of two state dicts."""
    return lambda t: {
        own: prefixed("module.", t),
        other: prefixed("module.", shifted(t)),
        "step": 3,
    }


def in_one(own: str, other: str) -> Callable[[dict], dict]:
    """Lightning's dict, whose state dict is of a module that holds two."""

    def held(tensors: dict) -> dict:
        whole = prefixed(own, tensors) | prefixed(other, shifted(tensors))
        return {
            "state_dict": whole | {"metric.count": torch.ones(1)},
            "pytorch-lightning_version": "2.5", "callbacks": {}, "hyper_parameters": {"lr": 1},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}],
            "loops": {"fit_loop": {"state_dict": {}}},
        }  # fmt: skip

    return held


# How two models lie in a file, the one that is meant, and a word that takes the other.
SEVERAL = {
    "model, ema": (both("model", "ema"), "model", "ema"),
    "ema, model": (lambda t: dict(reversed(both("model", "ema")(t).items())), "model", "ema"),
    "timm": (both("state_dict", "state_dict_ema"), "state_dict", "ema"),
    "model, model_ema": (both("model", "model_ema"), "model", "model_ema"),
    "student, teacher": (both("student", "teacher"), "student", "teacher"),
    "ema_state_dict": (both("model_state_dict", "ema_state_dict"), "model_state_dict", "EMA"),
    "a copy of the start": (both("model", "pretrained"), "model", "pretrained"),
    "Lightning": (in_one("model.", "ema_model."), "model", "ema"),
    "ema_pytorch": (in_one("online_model.", "ema_model.module."), "online_model", "ema_model"),
    "initial weights as a setting": (
        lambda t: {"state_dict": t, "hyper_parameters": {"net": shifted(t)}},
        "state_dict",
        "hyper_parameters",
    ),
}


@pytest.mark.parametrize("held, own, other", SEVERAL.values(), ids=SEVERAL.keys())
def test_of_several_models_one_is_taken_and_said(held, own, other, model, tmp_path, cli, out):
    torch.save(held(tower(model)), tmp_path / "m.pt")
    outcome = cli("convert", tmp_path / "m.pt", out, "--json")
    agree(load_file(out), tower(model))
    assert outcome.err.startswith("warning: m.pt holds 2 models ("), outcome.err
    assert f"), and {own} is taken; another with " in outcome.err
    assert any("holds 2 models" in words for words in outcome.events[0]["said"])
    out.unlink()
    outcome = cli("convert", tmp_path / "m.pt", out, "--part", other)
    assert outcome.status == 0 and "2 models" not in outcome.err
    agree(load_file(out), shifted(tower(model)))


ALONE = {
    "ema": lambda t: {"ema": t},
    "state_dict_ema": lambda t: {"epoch": 1, "state_dict_ema": prefixed("module.", t)},
    "clipmodel.": lambda t: {"state_dict": prefixed("clipmodel.", t)},
    "model.visual.": lambda t: {"state_dict": prefixed("model.", t)},
    "image_encoder.": lambda t: prefixed("image_encoder.", t),
    "image_encoder.model.": lambda t: prefixed("image_encoder.model.", t),
    "base_model.model.": lambda t: prefixed("base_model.model.", t),
    "a tower alone": lambda t: prefixed("encoder.", {n[7:]: v for n, v in t.items()}),
    "a dict for each part": lambda t: {"image_encoder": {n[7:]: v for n, v in t.items()}},
    "a tower called visual": lambda t: {"visual": {n[7:]: v for n, v in t.items()}},
    "FSDP and compile": lambda t: prefixed("_fsdp_wrapped_module._orig_mod.", t),
    "averaged by torch": lambda t: prefixed("module.", t) | {"n_averaged": torch.tensor(7)},
    "with a number": lambda t: {"state_dict": t, "best": torch.tensor(0.9)},
    "with its optimizer": lambda t: {**t, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
}


@pytest.mark.parametrize("held", ALONE.values(), ids=ALONE.keys())
def test_a_single_model_is_found_wherever_it_is(held, model, tmp_path):
    torch.save(held(tower(model)), tmp_path / "m.pt")
    agree(read(tmp_path / "m.pt"), tower(model))
    said = Checkpoint.open(tmp_path / "m.pt", "model").said
    assert not any("models" in words for words in said)


@pytest.mark.parametrize("name", ["image_encoder.", "student.", "vision_tower.vision_tower."])
def test_hugging_faces_names_are_found_behind_any_prefix(name, model, tmp_path):
    save_file(prefixed(name, hugging_face_names(model)), tmp_path / "m.safetensors")
    checkpoint = Checkpoint.open(tmp_path / "m.safetensors", "model")
    assert checkpoint.dialect == "hugging_face" and not checkpoint.said
    agree(read(tmp_path / "m.safetensors"), tower(model))
    bare = {k.removeprefix("vision_model."): v for k, v in hugging_face_names(model).items()}
    vision = {k: v for k, v in bare.items() if not k.startswith(("text", "logit"))}
    save_file(prefixed(name, vision), tmp_path / "bare.safetensors")
    agree(read(tmp_path / "bare.safetensors"), tower(model))


def test_whole_modules_are_told_apart(tmp_path):
    own, other = open_clip_model(seed=1), open_clip_model(seed=2)
    torch.save({"model": own, "ema": other}, tmp_path / "m.pt")
    checkpoint = Checkpoint.open(tmp_path / "m.pt", "model")
    assert (checkpoint.dialect, checkpoint.activation) == ("pickled_module", "quick_gelu")
    agree(checkpoint.read(FAMILY.shapes()), tower(own))
    ema = Checkpoint.open(tmp_path / "m.pt", "model", part="ema")
    agree(ema.read(FAMILY.shapes()), tower(other))
    assert ema.dialect == "pickled_module" and not ema.changed()
    assert ema.sha256 != checkpoint.sha256, "cells and runs would take one for the other"


def test_what_cannot_be_told_is_asked(model, tmp_path, cli, out, refused):
    torch.save({"net_a": tower(model), "net_b": shifted(tower(model))}, tmp_path / "m.pt")
    outcome = cli("convert", tmp_path / "m.pt", out)
    refused(
        outcome, "holds 2 models, and does not tell which is meant: net_a, net_b", "--part NAME"
    )
    refused(cli("convert", tmp_path / "m.pt", out, "--part", "ema"), "'ema'", "net_a, net_b")
    refused(cli("convert", tmp_path / "m.pt", out, "--part", "net"), "holds 2 models called 'net'")
    torch.save(tower(model), tmp_path / "n.pt")
    refused(cli("convert", tmp_path / "n.pt", out, "--part", "ema"), "leave the choice out")
    torch.save({"ema": {"weight": torch.ones(2, 2)}}, tmp_path / "h.pt")
    refused(cli("convert", tmp_path / "h.pt", out, "--part", "ema"), "holds no model called 'ema'")
    torch.save({"ema": tower(model), "swa": tower(model)}, tmp_path / "a.pt")
    refused(cli("convert", tmp_path / "a.pt", out), "does not tell which is meant: ema, swa")


def test_models_without_end_are_refused_at_once(tmp_path):
    many = {f"m{number}.visual.proj": torch.ones(1) for number in range(20_000)}
    save_file(many, tmp_path / "m.safetensors")
    start = time.perf_counter()
    with pytest.raises(MlossError, match="holds 20000 models; keep one model in the file"):
        Checkpoint.open(tmp_path / "m.safetensors", "model")
    assert time.perf_counter() - start < 5


def test_evaluate_takes_a_part(own_family, cli, tmp_path):
    tensors = load_file(own_family / "base.safetensors")
    torch.save({"model": tensors, "ema": shifted(tensors)}, tmp_path / "m.pt")
    save_file(shifted(tensors), tmp_path / "ema.safetensors")
    command = ("evaluate", "--family=tiny", "--device=cpu", "--model")
    by_part = cli(*command, tmp_path / "m.pt", "--part", "ema")
    assert by_part.status == 0 and by_part.out == cli(*command, tmp_path / "ema.safetensors").out
    assert "holds 2 models (model, ema)" in cli(*command, tmp_path / "m.pt").err


def test_a_family_says_the_choice_and_takes_another(own_family, cli, out):
    path = own_family / "sources" / "bridges.safetensors"
    own, base = load_file(path), load_file(own_family / "base.safetensors")
    path.unlink()  # its tensors are mapped
    torch.save({"model": own, "ema": base}, path)
    (said,) = doubts(load("tiny"), TASKS)
    assert said.startswith("source bridges holds 2 models (model, ema), and model is taken; ")
    outcome = cli("merge", "--family=tiny", "--method=ties", "--out", out)
    assert outcome.status == 0 and f"warning: {said}" in outcome.err
    about = own_family / "family.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"part": {"bridges": "ema"}}))
    family = load("tiny")
    agree(family.source("bridges").read(base), base)
    (said,) = doubts(family, TASKS)
    assert said.startswith("source bridges equals the base in every tensor")
    for part, words in (({"cats": "ema"}, "cats: is not known"), (["ema"], "no table of texts")):
        about.write_text(json.dumps(json.loads(about.read_text()) | {"part": part}))
        with pytest.raises(InputError, match=words):
            load("tiny")


# --- 8: what is no checkpoint ---------------------------------------------------------------------

OID = "0f" * 32
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 605247071\n"
PAGE = '\ufeff<!DOCTYPE html>\n<html class=""><head><title>\nSign in - Hugging Face</title></head>'


def packed(module: Any) -> Writer:
    """A checkpoint in a compressed file."""

    def write(path: Path, held: bytes) -> None:
        with module.open(path, "wb") as file:
            file.write(held)

    return write


def tarred(mode: str) -> Writer:
    def write(path: Path, held: bytes) -> None:
        with tarfile.open(path, mode) as file:
            info = tarfile.TarInfo("model.pt")
            info.size = len(held)
            file.addfile(info, io.BytesIO(held))

    return write


def zipped(*names: str) -> Writer:
    def write(path: Path, held: bytes) -> None:
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, held)

    return write


def of_numpy(save: Callable[..., None]) -> Writer:
    def write(path: Path, held: bytes) -> None:
        with path.open("wb") as file:  # a path would get the ending
            save(file, np.ones(2))

    return write


def content(held: bytes | str) -> Writer:
    held = held.encode() if isinstance(held, str) else held
    return lambda path, _: path.write_bytes(held)


FLAX = b"\x81\xa6params\x82\xaclogit_scale\xc7\x19\x01\x93\x90\xa7float32\xc4\x04\x00\x00\x80?"
LEVELDB = bytes(40) + bytes.fromhex("57fb808b247547db")
Writer = Callable[[Path, bytes], object]
# How a file comes to be that is no checkpoint, what it is, and how to get the real one.
STRANGERS: dict[str, tuple[Writer, str, str]] = {
    "empty": (content(""), "is empty", "fetch it again: its download broke off"),
    "zeros": (content(bytes(5000)), "begins with nothing but zeros", "fetch it again"),
    "LFS": (content(POINTER), f"a file of 605247071 bytes (sha256:{OID})", "run git lfs pull"),
    "page": (content(PAGE), "is a web page (Sign in - Hugging Face)", "link with /resolve/"),
    "XML": (content('<?xml version="1"?><Error>AccessDenied'), "answer of a server in XML", "log"),
    "JSON": (content('{"error": "Repository not found"}'), "is text ({", "a server's answer"),
    "text": (content("Invalid username or password."), "is text (Invalid username", "again"),
    "index": (content('{"weight_map": {}}'), "is the index of a checkpoint in shards", "folder"),
    "gzip": (packed(gzip), "is compressed with gzip", "unpack it: gunzip < m.pt > NEW"),
    "bzip2": (packed(bz2), "is compressed with bzip2", "unpack it: bunzip2 m.pt"),
    "xz": (packed(lzma), "is compressed with xz", "unpack it: unxz m.pt"),
    "tar": (tarred("w"), "is a tar archive", "unpack it: tar xf m.pt"),
    "tar.gz": (tarred("w:gz"), "is a tar archive compressed with gzip", "unpack it: tar xzf m.pt"),
    "zip of a checkpoint": (zipped("a/b.pt"), "it holds a/b.pt", "unpack it: unzip m.pt"),
    "zip": (zipped("a", "b/c"), "not one of torch: it holds a, b/c", "that torch.save wrote"),
    "npz": (of_numpy(np.savez), "arrays of NumPy", "torch.save"),
    "npy": (of_numpy(np.save), "is an array of NumPy", "torch.save"),
    "keras": (zipped("metadata.json", "model.weights.h5"), "a model of Keras", "from_tf=True"),
    "h5": (content(b"\x89HDF\r\n\x1a\n" + bytes(99)), "is HDF5, weights of Tens", "from_tf=True"),
    "flax": (content(FLAX), "is msgpack (params...), as Flax saves weights", "from_flax=True"),
    "tf list": (content('model_checkpoint_path: "m"'), "checkpoint of TensorFlow", "from_tf=True"),
    "tf index": (content(LEVELDB), "is a part of a checkpoint of TensorFlow", "from_tf=True"),
    "gguf": (content(b"GGUF" + bytes(99)), "is GGUF", "take the model.safetensors"),
    "onnx": (content(b"\x08\x08\x12\x07pytorch" + bytes(9)), "is a model in ONNX", "take the"),
    "picture": (content(b"\x89PNG\r\n\x1a\n"), "is a picture", "fetch it again"),
    "a pickle": (lambda p, _: p.write_bytes(pickle.dumps([1] * 9)), "is a pickle", "torch.save"),
    "cut off": (lambda p, held: p.write_bytes(held[:99]), "is cut off: of a header of", "again"),
    "noise": (content(bytes(range(200, 256))), "begins with c8 c9 ca", "give a file that"),
}  # fmt: skip


@pytest.mark.parametrize("write, problem, remedy", STRANGERS.values(), ids=STRANGERS.keys())
def test_what_is_no_checkpoint_is_named(write, problem, remedy, model, tmp_path, cli, out, refused):
    save_file(tower(model), tmp_path / "whole")
    write(tmp_path / "m.pt", (tmp_path / "whole").read_bytes())
    outcome = cli("convert", tmp_path / "m.pt", out)
    refused(outcome, "IN ", "m.pt", problem)
    assert remedy in outcome.err.rpartition("; ")[2], outcome.err


@pytest.mark.parametrize(
    "name, said",
    [
        ("flax_model.msgpack", r"weights of Flax alone \(flax_model\.msgpack\); .*from_flax=True"),
        ("tf_model.h5", r"weights of TensorFlow alone \(tf_model\.h5\); .*from_tf=True"),
        ("cats.pt", "by a name that is known; give one of its files, such as cats.pt"),
        ("README.md", "is a folder without weights; put model.safetensors or pytorch_model.bin"),
    ],
)
def test_a_folder_without_weights_says_what_it_has(name, said, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(MlossError, match=said):
        Checkpoint.open(tmp_path, "model")


def test_a_source_that_is_a_pointer_is_named(own_family, cli, out, refused):
    (own_family / "sources" / "bridges.safetensors").write_text(POINTER)
    outcome = cli("merge", "--family=tiny", "--method=ties", "--out", out)
    refused(outcome, "source bridges", "bridges.safetensors: is a Git LFS pointer", "git lfs pull")


def test_the_real_checkpoint_behind_every_remedy_is_read(model, tmp_path):
    """What a shard of TensorFlow is called is no name for a checkpoint of torch's."""
    torch.save(tower(model), tmp_path / "m.data-00000-of-00001")
    agree(read(tmp_path / "m.data-00000-of-00001"), tower(model))


# --- 12: what shapes cannot show ------------------------------------------------------------------

VISION = {
    "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 8, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip


def whole(**changes: object) -> dict[str, object]:
    """A config.json of CLIPModel."""
    return {"model_type": "clip", "vision_config": VISION | changes}


def alone(**changes: object) -> dict[str, object]:
    """A config.json of CLIPVisionModelWithProjection, or of another class."""
    return {"model_type": "clip_vision_model", **VISION, **changes}


def of_open_clip(quick_gelu: bool = True, **changes: object) -> dict[str, object]:
    """An open_clip_config.json."""
    vision = {"layers": 3, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16}
    model_cfg = {"embed_dim": 16, "quick_gelu": quick_gelu, "vision_cfg": vision | changes}
    return {"model_cfg": model_cfg, "preprocess_cfg": {}}


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A family of folders of Hugging Face: clip, clip_apples, clip_bridges and clip_clouds."""
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path / "models"))
    folder = tmp_path / "models" / "hub"
    for seed, name in enumerate(("clip", *(f"clip_{task}" for task in TASKS))):
        (folder / name).mkdir(parents=True)
        tensors = hugging_face_names(open_clip_model(seed=seed))
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / name / WEIGHTS[0])
        (folder / name / "config.json").write_text(json.dumps(whole()))
    return folder


def configured(folder: Path, config: dict[str, object]) -> Path:
    """Gives a folder that config instead of its own."""
    (folder / "config.json").unlink()
    name = "open_clip_config.json" if "model_cfg" in config else "config.json"
    (folder / name).write_text(json.dumps(config))
    return folder / name


ALIKE = {
    "the same": whole(),
    "the tower alone": alone(),
    "defaults left out": {"model_type": "clip_vision_model", "num_attention_heads": 2},
    "only its type": {"architectures": ["CLIPVisionModel"]},
    "both sides": whole(image_size=[16, 16]),
    "open_clip": of_open_clip(),
    "open_clip's least": {"model_cfg": {"quick_gelu": True}},
    "nothing": {},
}
UNLIKE = {
    "activation": (whole(hidden_act="gelu"), "hidden_act 'gelu', its base 'quick_gelu'"),
    "left out": (
        {"model_type": "clip", "vision_config": {}},
        "num_attention_heads 12, its base 2",
    ),
    "tanh": (alone(hidden_act="gelu_pytorch_tanh"), "hidden_act 'gelu_pytorch_tanh', its base"),
    "heads": (whole(num_attention_heads=4), "num_attention_heads 4, its base 2"),
    "layers": (whole(num_hidden_layers=24), "num_hidden_layers 24, its base 3"),
    "width": (whole(hidden_size=64), "hidden_size 64, its base 32"),
    "nodes": (whole(intermediate_size=64), "intermediate_size 64, its base 128"),
    "patch": (whole(patch_size=4), "patch_size 4, its base 8"),
    "pixels": (whole(image_size=[24, 24]), "image_size 24, its base 16"),
    "norms": (whole(layer_norm_eps=1e-6), "layer_norm_eps 1e-06, its base 1e-05"),
    "kind": (alone(model_type="siglip_vision_model"), "model_type 'siglip_vision_model', its base"),
    "two": (
        whole(hidden_act="gelu", num_attention_heads=4),
        "hidden_act 'gelu' and num_attention_heads 4, its base 'quick_gelu' and 2",
    ),
    "open_clip's activation": (of_open_clip(False), "hidden_act 'gelu', its base 'quick_gelu'"),
    "open_clip's heads": (of_open_clip(head_width=32), "num_attention_heads 1, its base 2"),
    "timm": (of_open_clip(timm_model_name="eva"), "model_type 'eva', its base 'clip'"),
}


@pytest.mark.parametrize("config", ALIKE.values(), ids=ALIKE.keys())
def test_a_config_of_the_base_or_of_nothing_is_no_matter(config, hub):
    configured(hub / "clip_bridges", config)
    load("hub").source("bridges")


@pytest.mark.parametrize("config, said", UNLIKE.values(), ids=UNLIKE.keys())
def test_a_config_of_another_model_is_refused_by_file_and_field(
    config, said, hub, cli, out, refused
):
    place = configured(hub / "clip_bridges", config)
    outcome = cli("merge", "--family=hub", "--method=ties", "--out", out)
    refused(outcome, "source bridges", f"clip_bridges/{place.name}: says {said}", "correct what")


def test_a_source_may_agree_with_the_family_or_with_its_bases_config(hub):
    (hub / "family.toml").write_text('activation = "gelu"\n')
    for config in (whole(), whole(hidden_act="gelu")):
        (hub / "clip_bridges" / "config.json").write_text(json.dumps(config))
        load("hub").source("bridges")


def test_a_pickled_modules_classes_are_its_config(hub, cli, out, refused):
    shutil.rmtree(hub / "clip_bridges")
    gelu = open_clip_model(CONFIG | {"quick_gelu": False}, seed=9)
    torch.save(gelu, hub / "clip_bridges.pt")
    outcome = cli("merge", "--family=hub", "--method=ties", "--out", out)
    said = "clip_bridges.pt: has classes that say hidden_act 'gelu', its base 'quick_gelu'"
    refused(outcome, "source bridges", said)


def test_a_model_that_is_evaluated_is_compared_too(own_family, hub, cli, out, refused):
    configured(hub / "clip", whole(hidden_act="gelu"))
    refused(cli("evaluate", "--family=tiny", "--model", hub / "clip"), "hidden_act 'gelu'")


# --- 14: around the tower -------------------------------------------------------------------------

HEADED = {
    "a classifier of transformers": lambda m: (
        hugging_face_names(m)
        | {"classifier.weight": torch.ones(3, 32), "classifier.bias": torch.ones(3)}
    ),
    "a head of task-vectors": lambda m: (
        prefixed("image_encoder.model.", state(m))
        | {"classification_head.weight": torch.ones(3, 16)}
    ),
    "a linear probe": lambda m: tower(m) | {"fc.weight": torch.ones(3, 16)},
    "a tower alone": lambda m: state(m.visual) | {"head.weight": torch.ones(3, 16)},
    "within a wrapper": lambda m: prefixed("model.", tower(m) | {"heads.0.weight": torch.ones(3)}),
    "beside a wrapper": lambda m: (
        prefixed("clip.", state(m)) | {"classifier.weight": torch.ones(3)}
    ),
    "of Lightning": lambda m: (
        prefixed("clip.", state(m))
        | {"criterion.weight": torch.ones(3), "head.bias": torch.ones(3)}
    ),
}


@pytest.mark.parametrize("held", HEADED.values(), ids=HEADED.keys())
def test_heads_are_left_out_and_that_is_said(held, model, tmp_path, cli, out):
    tensors = held(model)
    names = [name for name in tensors if HEAD.search(name)]
    torch.save({"state_dict": tensors}, tmp_path / "cats.ckpt")
    agree(read(tmp_path / "cats.ckpt"), tower(model))
    (said,) = Checkpoint.open(tmp_path / "cats.ckpt", "model").said
    assert said.startswith("has more than an image tower, which is left out: ")
    assert said.partition(": ")[2] == ", ".join(name.removeprefix("model.") for name in names)
    outcome = cli("convert", tmp_path / "cats.ckpt", out)
    assert outcome.status == 0 and outcome.err == f"warning: cats.ckpt {said}\n"


HEAD = re.compile(r"classif|^fc\.|head|criterion")


def without(name: str) -> Callable[[dict], dict]:
    return lambda t: {k: v for k, v in t.items() if name not in k}


def resized(tensors: dict) -> dict:
    positions = tensors["visual.positional_embedding"]
    return tensors | {"visual.positional_embedding": torch.cat([positions, positions[:5]])}


CAUSES = {
    "an adapter layer": (
        lambda t: t | {"visual.transformer.resblocks.0.adapter.weight": torch.ones(2)},
        "has more tensors than its family: visual.transformer.resblocks.0.adapter.weight",
        "save it without them, or train without them",
    ),
    "a tensor lost": (without("conv1"), "lacks visual.conv1.weight", "of the whole image tower"),
    "no projection": (without("visual.proj"), "lacks visual.proj", "of the whole image tower"),
    "another image size": (resized, "has shape (10, 32), its family (5, 32)", "base's image size"),
    "another depth": (without("resblocks.2"), "lacks", "fine-tuned from the same base"),
    "another width": (
        lambda t: {k: torch.cat([v, v]) for k, v in t.items()}, "has shape", "from the same base",
    ),
    "no tower": (
        lambda t: {"a.weight": torch.ones(2)},
        "holds no image tower by any dialect's names, but a.weight",
        "give a whole CLIP ViT or its image tower",
    ),
    "half of it": (without(".mlp"), "lacks", "save the state dict of the whole image tower"),
    "another ViT": (
        lambda t: {"visual.trunk.blocks.0.weight": torch.ones(2)}, "lacks", "from the same base",
    ),
    "LoRA within": (
        lambda t: t | {"q.base_layer.weight": torch.ones(2), "q.lora_A.weight": torch.ones(2)},
        "holds a model with a LoRA adapter beside its weights",
        "merge it into its base with peft's merge_and_unload first",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change, said, remedy", CAUSES.values(), ids=CAUSES.keys())
def test_each_cause_has_its_own_remedy(change, said, remedy, own_family, cli, out, refused):
    path = own_family / "sources" / "bridges.safetensors"
    tensors = change(load_file(path))
    path.unlink()
    save_file(tensors, path)
    outcome = cli("merge", "--family=tiny", "--method=ties", "--out", out)
    refused(outcome, "source bridges", said)
    assert remedy in outcome.err.rpartition("; ")[2], outcome.err


TRAINERS = (
    "optimizer.pt", "optimizer.bin", "optimizer_0.bin", "scheduler.pt", "lr_scheduler.pth",
    "scaler.pt", "training_args.bin", "trainer_state.pt", "rng_state.pth", "rng_state_1.pth",
    "random_states_0.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt",
)  # fmt: skip


def loose(folder: Path) -> Path:
    """State dicts of Lightning side by side, whose family.toml says what their tensors don't."""
    folder.mkdir(parents=True)
    for seed, name in enumerate(("base", *TASKS)):
        tensors = prefixed("model.", state(open_clip_model(seed=seed)))
        torch.save({"state_dict": tensors}, folder / f"{name}.ckpt")
    (folder / "family.toml").write_text('num_attention_heads = 2\nactivation = "gelu"\n')
    return folder


def test_ckpt_files_are_models_and_a_trainers_leftovers_are_none(tmp_path, monkeypatch, own_family):
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path))
    folder = loose(tmp_path / "found")
    (folder / "clouds.ckpt").rename(folder / "clouds.pth.tar")
    for place in (folder, own_family / "sources"):
        for name in TRAINERS:
            torch.save({"state": {}}, place / name)
    family = load("found")
    assert family.sources == TASKS
    agree(family.source("clouds").read(FAMILY.shapes()), tower(open_clip_model(seed=3)))
    monkeypatch.setenv("MLOSS_MODELS", str(own_family.parent))
    assert load("tiny").sources == TASKS


# --- 13: twins ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "twin, said",
    [
        ("bridges.pt", "bridges.pt: and bridges.ckpt would both be called bridges"),
        ("sources/bridges.ckpt", "sources/bridges.ckpt: and found/bridges.ckpt would both be"),
        ("base.safetensors", "base.safetensors: and base.ckpt would both be called base"),
        ("clouds/model.safetensors", "clouds.ckpt: and clouds would both be called clouds"),
    ],
)
def test_twins_are_refused_and_both_are_named(twin, said, tmp_path, monkeypatch, cli, out, refused):
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path))
    folder = loose(tmp_path / "found")
    (folder / twin).parent.mkdir(exist_ok=True)
    shutil.copy(folder / "apples.ckpt", folder / twin)
    refused(cli("merge", "--family=found", "--method=ties", "--out", out), said, "name one in")
    shutil.rmtree((folder / twin).parent) if "/" in twin else (folder / twin).unlink()
    assert load("found").sources == TASKS


def test_twins_of_which_one_is_named_are_fine(tmp_path, monkeypatch):
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path))
    folder = loose(tmp_path / "found")
    save_file(tower(open_clip_model(seed=9)), folder / "bridges.safetensors")
    lines = (
        'base = "base.ckpt"\n[sources]\nbridges = "bridges.safetensors"\napples = "apples.ckpt"\n'
    )
    with (folder / "family.toml").open("a") as file:
        file.write(lines)
    source = load("found").source("bridges")
    agree(source.read(FAMILY.shapes()), tower(open_clip_model(seed=9)))


@pytest.mark.parametrize("name", ["bridges.pt", "bridges.ckpt"])
def test_twins_in_sources_are_refused_and_any_checkpoint_there_is_one(name, own_family):
    place = own_family / "sources"
    shutil.copy(place / "apples.safetensors", place / name)
    with pytest.raises(InputError, match=r"would both be called bridges; rename one of them, or m"):
        load("tiny")
    (place / "bridges.safetensors").unlink()
    assert load("tiny").sources == TASKS
    assert load("tiny").source("bridges").shapes


# --- 17: number types -----------------------------------------------------------------------------


def doubled(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.double() for name, tensor in tensors.items()}


@pytest.mark.parametrize("dtype", [(), ("--dtype", "fp32"), ("--dtype", "fp16")], ids=str)
@pytest.mark.parametrize("write", [save_file, torch.save], ids=["safetensors", "torch"])
def test_double_precision_is_read_in_single(write, dtype, model, tmp_path, cli, out):
    write(doubled(tower(model)), tmp_path / "m")
    agree(read(tmp_path / "m"), tower(model))
    assert cli("convert", tmp_path / "m", out, *dtype).status == 0
    half = "fp16" in dtype
    agree(load_file(out), {k: v.half() if half else v for k, v in tower(model).items()})


@pytest.mark.parametrize("doubles", [("base",), ("sources/bridges",), ("base", "sources/bridges")])
def test_double_precision_merges_as_single(doubles, models, tmp_path, monkeypatch, cli, out):
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path / "models"))
    results = []
    for double in (False, True):
        folder = write_family(tmp_path / "models" / f"tiny{double}", dtype=torch.float32)
        for name in doubles if double else ():
            path = folder / f"{name}.safetensors"
            tensors = doubled(load_file(path))
            path.unlink()
            save_file(tensors, path)
        path = out.with_name(f"{double}.safetensors")
        outcome = cli("merge", f"--family={folder.name}", "--method=ties", "--out", path)
        assert outcome.status == 0, outcome.err
        results.append(load_file(path))
    agree(*results)


def hugging(model: open_clip.CLIP) -> dict[str, torch.Tensor]:
    return {k: v.contiguous() for k, v in hugging_face_names(model).items()}


LAYER = "vision_model.encoder.layers.0.mlp.fc1"


def quantised(dtype: torch.dtype, **parts: torch.Tensor) -> Callable[[open_clip.CLIP], dict]:
    """A CLIPModel with one linear layer in a quantising tool's tensors."""

    def held(model: open_clip.CLIP) -> dict[str, torch.Tensor]:
        tensors = hugging(model)
        whole = tensors.pop(f"{LAYER}.weight")
        named = {f"{LAYER}.{name.replace('__', '.', 1)}": part for name, part in parts.items()}
        if dtype != torch.int32:
            tensors[f"{LAYER}.weight"] = whole.to(dtype)
        return tensors | named

    return held


BYTES = torch.ones(8, dtype=torch.uint8)
QUANTISED_FILES = {
    "bitsandbytes int8": (quantised(torch.int8, SCB=torch.ones(128)), "bitsandbytes in 8 bits"),
    "bitsandbytes nf4": (
        quantised(
            torch.uint8, weight__absmax=torch.ones(8), weight__quant_map=torch.ones(16),
            weight__quant_state=BYTES,
        ),
        "bitsandbytes in 4 bits",
    ),
    "GPTQ": (
        quantised(torch.int32, qweight=BYTES.int(), qzeros=BYTES.int(), scales=torch.ones(2)),
        "GPTQ or AWQ",
    ),
    "compressed-tensors": (
        quantised(torch.int32, weight_packed=BYTES.int(), weight_scale=torch.ones(2)),
        "compressed-tensors",
    ),
    "fp8": (quantised(torch.float8_e4m3fn), "dtype F8_E4M3"),
    "HQQ": (quantised(torch.int32, W_q=BYTES, scale=torch.ones(2)), "HQQ"),
}  # fmt: skip


@pytest.mark.parametrize("held, said", QUANTISED_FILES.values(), ids=QUANTISED_FILES.keys())
def test_quantised_files_are_named_with_the_way_to_the_full_ones(
    held, said, model, tmp_path, cli, out, refused
):
    save_file(held(model), tmp_path / "m.safetensors")
    outcome = cli("convert", tmp_path / "m.safetensors", out)
    refused(outcome, "m.safetensors: is quantised", said, LAYER)
    assert "take the full-precision model that it was made from" in outcome.err
    assert ("dequantize()" in outcome.err) == ("bitsandbytes" in said)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_model_quantised_by_torch_is_named(tmp_path, cli, out, refused):
    mixed = torch.ao.quantization.quantize_dynamic(open_clip_model(), {torch.nn.Linear})
    torch.save(mixed.state_dict(), tmp_path / "m.pt")
    refused(cli("convert", tmp_path / "m.pt", out), "m.pt: is quantised by torch", "zero_point")


def small(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With 5 values that half precision makes zero, and 2 that are zero already."""
    tensors = {name: tensor.half().float() for name, tensor in tensors.items()}
    tensors["visual.proj"][:3, 0], tensors["visual.proj"][3:5, 0] = 1e-9, 0
    tensors["visual.ln_pre.bias"][:2] = torch.tensor([1e-9, -1e-9])
    return tensors


def test_values_that_become_zero_are_said_with_count_and_tensor(model, tmp_path, cli, out):
    save_file(small(tower(model)), tmp_path / "m.safetensors")
    outcome = cli("convert", tmp_path / "m.safetensors", out, "--dtype", "fp16")
    count = sum(tensor.numel() for tensor in tower(model).values())
    said = f"fp16 makes 5 of {count} values, most in visual.proj (3), zero: they are too small"
    assert outcome.status == 0 and outcome.err == f"warning: {said} for it; fp32 keeps them\n"
    for dtype in ("bf16", "fp32"):
        path = out.with_name(dtype)
        assert cli("convert", tmp_path / "m.safetensors", path, "--dtype", dtype).err == ""


def test_values_that_become_infinite_are_refused_with_count_and_tensor(
    model, tmp_path, cli, out, refused
):
    tensors = tower(model)
    tensors["visual.proj"][:2, 0] = torch.tensor([1e6, -7e5])
    save_file(tensors, tmp_path / "m.safetensors")
    outcome = cli("convert", tmp_path / "m.safetensors", out, "--dtype", "fp16")
    refused(outcome, "--dtype fp16: cannot hold 2 values of visual.proj, up to 1e+06; use fp32")


def test_a_merge_says_what_becomes_zero(tmp_path, monkeypatch, cli, out):
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path))
    folder = write_family(tmp_path / "tiny", dtype=torch.float32)
    for path in (folder / "base.safetensors", *(folder / "sources").iterdir()):
        tensors = small(load_file(path))
        path.unlink()
        save_file(tensors, path)
    method = ("merge", "--family=tiny", "--method=simple-average", "--dtype=fp16", "--out", out)
    assert re.match(
        r"warning: fp16 makes \d of \d+ values, most in visual\.proj \(3\)", cli(*method).err
    )
