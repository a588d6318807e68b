"""Descriptions of pickled tensors and objects; nothing they name is imported or called."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .stored import STORAGES

LARGEST = 1 << 48  # no count of elements is larger
TENSORS = {f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3")}
PARAMETERS = {f"torch._utils._rebuild_parameter{more}" for more in ("", "_with_state")}
LISTS = {f"{module}.{kind}" for module in ("builtins", "__builtin__") for kind in ("set", "list")}


@dataclass(frozen=True)
class Name:
    """The name of a class or function in a pickle, never imported."""

    text: str


@dataclass
class OpaqueObject:
    """A pickled object that is not built: its class's name and its state."""

    kind: str
    state: object = None


@dataclass(frozen=True)
class Storage:
    """A storage of a file by its key; its elements start at `first`, for a view."""

    key: str
    word: str
    numel: int
    first: int = 0


@dataclass(frozen=True)
class Strided:
    """A tensor: a view of a storage."""

    storage: Storage
    word: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def count(value: object) -> int:
    """The value as a count of elements; raises ValueError for anything else or above LARGEST."""
    if type(value) is not int or not 0 <= value < LARGEST:
        raise ValueError("not a number of elements")
    return value


def emulate_call(name: object, arguments: tuple) -> object:
    """The data that calling the named class or function would give; nothing is called."""
    if not isinstance(name, Name):
        return OpaqueObject("?")
    if name.text in TENSORS:
        return _strided(*arguments)
    if name.text in PARAMETERS:
        return arguments[0]
    if name.text == "torch._tensor._rebuild_from_type_v2":
        function, _, inner, _ = arguments
        return emulate_call(function, tuple(inner))
    if name.text == "collections.OrderedDict":
        return dict_of(arguments[0] if arguments else ())
    if name.text in LISTS:
        return list(arguments[0]) if arguments else []
    if name.text == "torch.Size":
        return tuple(arguments[0])
    return OpaqueObject(name.text)


def _strided(storage: Storage, offset: int, size: tuple, stride: tuple, *rest: Any) -> Strided:
    """A tensor's description, checked to lie within its storage."""
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without storage")
    if len(size) > 8:
        raise ValueError("a tensor of too many dimensions")
    sizes, strides = tuple(map(count, size)), tuple(map(count, stride))
    entries, last = 1, count(offset)
    for n, step in zip(sizes, strides, strict=True):
        entries, last = entries * n, last + (n - 1) * step
    word = storage.word
    if len(rest) > 2 and isinstance(rest[2], Name):  # _v3: a dtype without a storage type
        word = rest[2].text.removeprefix("torch.")
    elif entries and (entries > storage.numel or last >= storage.numel):
        raise ValueError("a tensor beyond its storage")
    return Strided(storage, word, offset, sizes, strides)


def dict_of(pairs: Iterable[tuple[object, object]]) -> dict[str | int, object]:
    """A dict of the pairs whose keys are texts or numbers: only those can name a tensor.

    Other keys are not even hashed: one of tuples in tuples could exhaust the interpreter's stack.
    """
    return {key: value for key, value in pairs if isinstance(key, str | int)}


def persistent(saved: tuple) -> object:
    """The value of a persistent id of torch: a storage, or a legacy module's class."""
    if saved[0] == "module":
        return saved[1]
    if saved[0] != "storage" or not isinstance(saved[1], Name):
        raise ValueError("an unknown kind of outside value")
    _, kind, key, _, numel, *view = saved
    word = STORAGES.get(kind.text.rpartition(".")[2], (kind.text.rpartition(".")[2],))[0]
    if not isinstance(key, str | int):
        raise TypeError("a storage whose key is neither text nor number")
    first, held = 0, numel
    if view and view[0] is not None:
        _, first, held = view[0]
        if count(first) + count(held) > count(numel):
            raise ValueError("a view beyond its storage")
    return Storage(str(key), word, count(held), first)
