"""Checkpoints as people really have them: ties, extras, several models, other formats, twins."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import functools
import random
import re
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_model
from test_dialects_hostile import archive, tensor_of

from dialect_files import OLD, state
from mloss_core import Checkpoint, MlossError, ViTConfig
from mloss_core.checkpoints.export import write_folder
from mloss_core.checkpoints.image_tower import save
from tiny import CONFIG, open_clip_model

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


# --- 4: tensors that share memory, and views -------------------------------------------------------


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


# --- 5: harmless extras, in every protocol ---------------------------------------------------------


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
