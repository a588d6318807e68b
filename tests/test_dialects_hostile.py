"""Checkpoints that try to run code, to unpack without end, or that are damaged: refused, unrun."""

from __future__ import annotations

import builtins
import contextlib
import functools
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_hostile_fuzz import damage

from dialect_files import OLD, WRITERS
from mloss_core import Checkpoint, MlossError
from mloss_core.checkpoints.read import read_head
from mloss_core.checkpoints.torch_archive import LEGACY_MAGIC
from tiny import open_clip_model

DEVICE = torch.device("cpu")


def opened(path: Path) -> dict[str, torch.Tensor] | None:
    """All that the file holds, or None if it was refused in one line."""
    try:
        return Checkpoint.open(path, "--model").load(DEVICE)
    except MlossError as error:
        assert "\n" not in str(error)
        return None


# --- code -----------------------------------------------------------------------------------------


class Calls:
    """Pickles as a call."""

    def __init__(self, *reduction: object):
        self.reduction = reduction

    def __reduce__(self) -> tuple:
        return self.reduction

    def __call__(self) -> None:
        """Only there because what a pickle calls must look callable when it is written."""


class SetsState:
    """Runs code when its state is set, as the unpickler does after building it."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __setstate__(self, state: dict) -> None:
        Path(state["path"]).touch()


class Fills(dict):
    """Runs code when an item is set, as the unpickler does for mappings."""

    def __setitem__(self, key: str, value: object) -> None:
        Path(str(value)).touch()


class Grows(list):
    """Runs code when it is extended."""

    def extend(self, items: list) -> None:
        Path(items[0]).touch()

    def append(self, item: str) -> None:
        Path(item).touch()


def trick(name: str, path: Path) -> object:
    """An object whose unpickling creates the file at this path."""
    code = f"open({str(path)!r}, 'w').close()"
    shell = f"touch '{path}'"
    tricks = {
        "os.system": lambda: Calls(os.system, (shell,)),
        "eval": lambda: Calls(builtins.eval, (code,)),
        "exec": lambda: Calls(builtins.exec, (code,)),
        "method": lambda: Calls(Path.touch, (path,)),
        "getattr": lambda: Calls(Calls(getattr, (Calls(__import__, ("os",)), "system")), (shell,)),
        "partial": lambda: Calls(functools.partial(os.system, shell), ()),
        "map": lambda: Calls(list, (Calls(map, (os.system, [shell])),)),
        "__setstate__": lambda: SetsState(path),
        "state setter": lambda: Calls(dict, (), shell, None, None, _run_shell),
        "__setitem__": lambda: Calls(Fills, (), None, None, iter([("a", str(path))])),
        "extend": lambda: Calls(Grows, (), None, iter([str(path)])),
        "rebuild": lambda: Calls(
            torch._tensor._rebuild_from_type_v2, (os.system, torch.Tensor, (shell,), {})
        ),
    }
    return tricks[name]()


def _run_shell(_: object, command: str) -> None:
    os.system(command)


TRICKS = [
    "os.system", "eval", "exec", "method", "getattr", "partial", "map", "__setstate__",
    "state setter", "__setitem__", "extend", "rebuild",
]  # fmt: skip


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", TRICKS)
def test_no_code_of_a_file_runs(name, options, tmp_path):
    mark, path = tmp_path / "ran", tmp_path / "m.pt"
    held = {"visual.proj": torch.ones(2, 3), "visual.extra": [trick(name, mark)]}
    torch.save(held, path, **options)
    for key in ("state_dict", "model"):
        torch.save({key: trick(name, mark)}, tmp_path / f"{key}.pt", **options)
    mark.unlink(missing_ok=True)
    loaded = opened(path)
    opened(tmp_path / "state_dict.pt")
    opened(tmp_path / "model.pt")
    for file in (path, tmp_path / "model.pt"):
        with pytest.raises(MlossError):
            read_head(file)
    assert not mark.exists()
    assert loaded is None or torch.equal(loaded["visual.proj"], torch.ones(2, 3))
    # The control: torch, asked to trust the file, runs it.
    with contextlib.suppress(Exception):
        torch.load(path, weights_only=False)
    assert mark.exists()


def archive(path: Path, pickled: bytes, **members: bytes) -> Path:
    """A zip archive as torch writes it, with any pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("m/data.pkl", pickled)
        for name, content in members.items():
            file.writestr(f"m/{name.replace('__', '/')}", content)
    return path


def legacy(path: Path, pickled: bytes) -> Path:
    """A legacy file with any pickle."""
    parts = [pickle.dumps(x, 2) for x in (LEGACY_MAGIC, 1001, {"little_endian": True})]
    path.write_bytes(b"".join([*parts, pickled, pickle.dumps([], 2)]))
    return path


def deep(n: int) -> bytes:
    """A tuple in a tuple in a tuple ..."""
    return b"\x80\x02)" + b"\x85" * n


TOUCH = b"X\x05\x00\x00\x00touch"
LAUGHS = b"\x80\x02]q\x00" + b"".join(
    b"]q" + bytes([i]) + b"(" + (b"h" + bytes([i - 1])) * 9 + b"e" for i in range(1, 200)
)
RAW = {
    "text opcodes": b"cos\nsystem\n(S'touch ran'\ntR.",
    "INST": b"(S'touch ran'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\n" + TOUCH + b"o.",
    "EXT1": b"\x80\x02\x82\x01.",
    "PERSID": b"Pstorage\n.",
    "NEWOBJ of a value": b"\x80\x02K\x01)\x81.",
    "REDUCE of a value": b"\x80\x02K\x01)R.",
    "BUILD of a name": b"\x80\x02cos\nsystem\n}(" + TOUCH + TOUCH + b"ub.",
    "STACK_GLOBAL of numbers": b"\x80\x04K\x01K\x02\x93.",
    "name of a deep value": deep(40) + b"2\x93.",
    "laughing name": LAUGHS + b"h\x05\x93.",
    "laughing dict": LAUGHS + b".",
    "deep key": b"\x80\x02}" + deep(50_000)[2:] + b"K\x01s.",
    "deep value": b"\x80\x02}X\x01\x00\x00\x00a" + deep(50_000)[2:] + b"s.",
    "list in itself": b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.",
    "huge memo": b"\x80\x02]r\xff\xff\xff\xff.",
    "huge text": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.",
    "huge bytes": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"a.",
    "huge number": b"\x80\x02}\x8b" + struct.pack("<i", 90_000) + b"\x7f" * 90_000 + b"K\x01s.",
    "empty stack": b"\x80\x02R.",
    "no mark": b"\x80\x02t.",
    "nothing": b"",
    "only STOP": b"\x80\x02.",
    "a number": b"\x80\x02K\x03.",
}


@pytest.mark.parametrize("write", [archive, legacy])
@pytest.mark.parametrize("name", RAW)
def test_pickles_that_torch_never_writes_are_refused(name, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "m.pt", RAW[name])
    assert not opened(path)
    with pytest.raises(MlossError):
        read_head(path)
    assert not (tmp_path / "ran").exists()


def tensor_of(size: tuple, stride: tuple, offset: int = 0, numel: int = 4, key: str = "0") -> bytes:
    """The pickle of {"visual.proj": a float tensor} with any numbers."""

    class Writer(pickle.Pickler):
        def persistent_id(self, obj: object) -> tuple | None:
            held = obj == "STORAGE"
            return ("storage", torch.FloatStorage, key, "cpu", numel) if held else None

    buffer = io.BytesIO()
    arguments = ("STORAGE", offset, size, stride, False, None)
    Writer(buffer, 2).dump({"visual.proj": Calls(torch._utils._rebuild_tensor_v2, arguments)})
    return buffer.getvalue()


def test_a_tensor_written_by_hand_is_read(tmp_path):
    path = archive(
        tmp_path / "m.pt", tensor_of((2, 2), (1, 2)), data__0=struct.pack("4f", *range(4))
    )
    assert torch.equal(opened(path)["visual.proj"], torch.tensor([[0.0, 2.0], [1.0, 3.0]]))


@pytest.mark.parametrize(
    "numbers",
    [
        {"size": (5,), "stride": (1,)},
        {"size": (4,), "stride": (1,), "offset": 1},
        {"size": (2,), "stride": (4,)},
        {"size": (2**40,), "stride": (0,)},
        {"size": (2**40, 2**40), "stride": (0, 0)},
        {"size": (-1,), "stride": (1,)},
        {"size": (3,), "stride": (-1,), "offset": 1},
        {"size": (2,), "stride": (-1,), "offset": 4},
        {"size": (4,), "stride": (1,), "offset": -1},
        {"size": (4,), "stride": (1, 1)},
        {"size": (4.0,), "stride": (1,)},
        {"size": (1,) * 100, "stride": (1,) * 100},
        {"size": (8,), "stride": (1,), "numel": 8},
        {"size": (2**40,), "stride": (1,), "numel": 2**41},
        {"size": (4,), "stride": (1,), "numel": 2**70},
        {"size": (4,), "stride": (1,), "key": "1"},
        {"size": (4,), "stride": (1,), "key": "../data.pkl"},
        {"size": (4,), "stride": (1,), "key": 7},
    ],
    ids=str,
)
def test_tensors_beyond_their_storage_are_refused(numbers, tmp_path):
    path = archive(tmp_path / "m.pt", tensor_of(**numbers), data__0=bytes(16))
    assert opened(path) is None


# --- archives -------------------------------------------------------------------------------------


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m/data.pkl", tensor_of((4,), (1,)), zipfile.ZIP_STORED)
        file.writestr("m/data/0", bytes(40_000_000))
    with pytest.raises(MlossError, match=r"unpacks to \d+ bytes, \d+ times its size"):
        Checkpoint.open(tmp_path / "m.pt", "--model")


@pytest.mark.parametrize("packed", ["m/data.pkl", "m/data/0"])
def test_compressed_members_are_refused(packed, tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as file:
        for name, content in (("m/data.pkl", tensor_of((4,), (1,))), ("m/data/0", bytes(16))):
            kind = zipfile.ZIP_DEFLATED if name == packed else zipfile.ZIP_STORED
            file.writestr(name, content, kind)
    with pytest.raises(MlossError, match=r"compressed; save it again with torch\.save"):
        Checkpoint.open(tmp_path / "m.pt", "--model")


@pytest.mark.parametrize("names", [("a.npy",), ("m/data.pkl", "n/data.pkl"), ("m/n/data.pkl",)])
def test_other_zip_archives_are_refused(names, tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as file:
        for name in names:
            file.writestr(name, b"\x80\x02}.")
    with pytest.raises(MlossError, match="is a zip archive, but not one of torch"):
        Checkpoint.open(tmp_path / "m.pt", "--model")


def test_big_endian_files_are_refused(tmp_path):
    archive(tmp_path / "m.pt", tensor_of((4,), (1,)), data__0=bytes(16), byteorder=b"big")
    with pytest.raises(MlossError, match="big-endian"):
        Checkpoint.open(tmp_path / "m.pt", "--model")


# --- memory ---------------------------------------------------------------------------------------


def anonymous() -> int:
    """Bytes of this process that no file backs."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs Linux's /proc")
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "legacy"])
def test_reading_maps_and_does_not_load(options, tmp_path):
    large = torch.ones(48 << 20, dtype=torch.float16)  # 96 MiB
    torch.save(
        {"visual.proj": torch.ones(8, 8).half(), "visual.large": large},
        tmp_path / "m.pt",
        **options,
    )
    del large
    before = anonymous()
    loaded = Checkpoint.open(tmp_path / "m.pt", "--model").read(["visual.proj"])
    assert anonymous() - before < 8 << 20
    assert loaded["visual.proj"].sum() == 64


def test_what_is_read_stays_mapped(tmp_path):
    torch.save({"visual.large": torch.ones(48 << 20, dtype=torch.float16)}, tmp_path / "m.pt")
    before = anonymous()
    loaded = Checkpoint.open(tmp_path / "m.pt", "--model").read(["visual.large"])
    assert loaded["visual.large"].count_nonzero() == 48 << 20
    assert anonymous() - before < 48 << 20


# --- damage ---------------------------------------------------------------------------------------

FUZZED = ["whole.pt", "old.pt", "jit.pt", "finetuned.pt", "finetuned_old.pt", "hf.bin", "folder"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each kind."""
    folder = tmp_path_factory.mktemp("written")
    for name in FUZZED:
        WRITERS[name][1](open_clip_model(), folder / name)
    return folder


def pickled_part(content: bytes) -> tuple[float, float]:
    """Where the pickle lies, as shares of the file."""
    at = content.find(b"\x80\x02}") if b"OrderedDict" not in content[:4000] else 0
    first = content.find(b"_rebuild_tensor_v2")
    return max(first - 500, at, 0) / len(content), min(first + 4000, len(content)) / len(content)


# Python's decoder of a damaged text opcode warns, and goes on to what we refuse.
@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@pytest.mark.parametrize("name", FUZZED)
@given(data=st.data())
def test_damaged_files_load_or_are_refused(name, written, tmp_path, data):
    path = written / name
    path = path / "model.safetensors" if path.is_dir() else path
    content = path.read_bytes()
    low, high = pickled_part(content)
    places = st.one_of(st.floats(0, 1), st.floats(low, high), st.floats(0.98, 1))
    flips = data.draw(st.lists(st.tuples(places, st.integers(0, 7)), max_size=4))
    cut = data.draw(st.one_of(st.just(1.0), st.just(1.0), st.floats(0, 1)))
    (tmp_path / "m").write_bytes(damage(content, cut, flips))
    try:
        Checkpoint.open(tmp_path / "m", "--model").load(DEVICE)
        read_head(tmp_path / "m")
    except MlossError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json"])
@given(data=st.data())
def test_damaged_tables_are_read_or_refused(file, tmp_path, data):
    folder = tmp_path / "folder"
    if not folder.exists():
        WRITERS["folder_shards"][1](open_clip_model(), folder)
        (tmp_path / "whole").write_bytes((folder / file).read_bytes())
    content = (tmp_path / "whole").read_bytes()
    flips = data.draw(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), max_size=3))
    (folder / file).write_bytes(damage(content, 1.0, flips))
    try:
        checkpoint = Checkpoint.open(folder, "--model")
        checkpoint.load(DEVICE)
        assert isinstance(checkpoint.config, dict)
    except MlossError as error:
        assert "\n" not in str(error)
