"""Checkpoints that try to run code, to unpack without end, or that are damaged: refused, unrun."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dialect_files import OLD, WRITERS
from mloss_core import Checkpoint, MlossError
from mloss_core.checkpoints.read import read_head
from pickle_tricks import RAW, TRICKS, Calls, archive, legacy, trick
from scripts.torture.mutate import damage
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
