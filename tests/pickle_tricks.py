"""Pickles that run code where a reader trusts them, and pickles that torch never writes."""

from __future__ import annotations

import builtins
import functools
import os
import pickle
import struct
import zipfile
from pathlib import Path

import torch

from mloss_core.checkpoints.torch_archive import LEGACY_MAGIC


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
    "an unknown escape": b"cos\\|\nsystem\n.",
    "only STOP": b"\x80\x02.",
    "a number": b"\x80\x02K\x03.",
}
