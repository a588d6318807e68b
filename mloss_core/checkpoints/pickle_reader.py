"""A pickle reader that yields plain data: a stack machine without classes, which runs no code.

Python's own unpickler imports what a file names and calls it. Here names stay text. What torch's
files build their tensors with is known by name and becomes a description of a tensor; everything
else becomes a OpaqueObject, which holds what the file says of an object and can do nothing.
"""

from __future__ import annotations

import io
import mmap
import pickletools
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, Any, cast

from .files import FormatError
from .lazy_tensor import STORAGES

MOST_STEPS = 5_000_000  # a whole ViT-L/14 takes fewer than a hundred thousand
DAMAGE = (
    ValueError, TypeError, LookupError, AttributeError, OverflowError, EOFError, struct.error,
    DeprecationWarning,  # where warnings are errors: a name with an escape that Python doesn't know
)  # fmt: skip


def plain(file: io.BytesIO | mmap.mmap, words: dict[str, str] | None = None) -> Any:
    """Reads a file's next pickle as dicts, lists, numbers, texts, Strided and OpaqueObject.

    Args:
        words: gets the dtype of each storage, by its key.

    Raises:
        FormatError: it is damaged, or asks for something that checkpoints have no use for.
    """
    machine = _Machine({} if words is None else words)
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], file))):
            if step > MOST_STEPS:
                raise FormatError("holds a pickle of too many steps")
            machine.step(opcode.name, argument)
        return machine.stack.pop()
    except (*DAMAGE, RecursionError, MemoryError) as error:
        raise FormatError(f"holds a damaged pickle ({type(error).__name__})") from error


class _Machine:
    """The stack, the marks on it and the memo of a pickle that is being read."""

    def __init__(self, words: dict[str, str]) -> None:
        self.words = words
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Executes one opcode; raises FormatError for one that is not on the list."""
        if opcode in PUSHED:
            self.stack.append(argument)
        elif opcode in FRESH:
            self.stack.append(FRESH[opcode]())
        elif opcode in STEPS:
            STEPS[opcode](self, argument)
        elif opcode not in IGNORED:
            raise FormatError(f"holds a pickle with {opcode}, which checkpoints have no use for")

    def above_mark(self) -> list[Any]:
        """Pops the values above the last mark."""
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def take(self, n: int) -> tuple:
        """Pops the last n values."""
        if len(self.stack) < n:
            raise IndexError("an empty stack")
        taken = tuple(self.stack[-n:])
        del self.stack[-n:]
        return taken

    def make(self, name: object, arguments: object) -> None:
        """Pushes the data that calling the name would give."""
        self.stack.append(
            emulate_call(name, tuple(arguments) if isinstance(arguments, tuple) else ())
        )

    def global_(self, module: object, name: object) -> None:
        """Pushes a class or function name; raises TypeError for anything but texts."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name that is no text")
        self.stack.append(Name(f"{module}.{name}"))

    def build(self, state: Any) -> None:
        """Records an object's state; ignores that of dicts and tensors (hooks, metadata)."""
        if isinstance(self.stack[-1], OpaqueObject):
            slotted = isinstance(state, tuple) and len(state) == 2
            self.stack[-1].state = state[0] if slotted else state

    def outside(self, saved: tuple) -> None:
        """Pushes a persistent value, and records a storage's dtype."""
        value = persistent(saved)
        if isinstance(value, Storage):
            self.words[value.key] = value.word
        self.stack.append(value)

    def set_items(self, items: list[Any]) -> None:
        """Adds items to a dict; ignores them on anything else."""
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(dict_of(zip(items[::2], items[1::2], strict=True)))

    def extend(self, items: list[Any]) -> None:
        """Adds items to a list; ignores them on anything else."""
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)


PUSHED = {  # numbers, texts and bytes
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
IGNORED = {"PROTO", "FRAME", "STOP"}
FRESH: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.above_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.above_mark())),
    "TUPLE1": lambda m, _: m.stack.append(m.take(1)),
    "TUPLE2": lambda m, _: m.stack.append(m.take(2)),
    "TUPLE3": lambda m, _: m.stack.append(m.take(3)),
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    "APPENDS": lambda m, _: m.extend(m.above_mark()),
    "ADDITEMS": lambda m, _: m.extend(m.above_mark()),
    "FROZENSET": lambda m, _: m.stack.append(m.above_mark()),
    "SETITEM": lambda m, _: m.set_items(list(m.take(2))),
    "SETITEMS": lambda m, _: m.set_items(m.above_mark()),
    "GLOBAL": lambda m, text: m.global_(*text.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.global_(*m.take(2)),
    "REDUCE": lambda m, _: m.make(*m.take(2)),
    "NEWOBJ": lambda m, _: m.make(*m.take(2)),
    "NEWOBJ_EX": lambda m, _: m.make(*m.take(3)[:2]),
    "BUILD": lambda m, _: m.build(m.stack.pop()),
    "BINPERSID": lambda m, _: m.outside(m.stack.pop()),
    "MEMOIZE": lambda m, _: m.memo.update({len(m.memo): m.stack[-1]}),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, i: m.memo.update({i: m.stack[-1]})),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, i: m.stack.append(m.memo[i])),
}


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


def _step(value: object) -> int:
    """The value as a stride, which may count backwards; raises ValueError for anything else."""
    return -count(-value) if type(value) is int and value < 0 else count(value)


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
    sizes, strides = tuple(map(count, size)), tuple(map(_step, stride))
    first = last = count(offset)
    for n, step in zip(sizes, strides, strict=True):
        first, last = first + min((n - 1) * step, 0), last + max((n - 1) * step, 0)
    word = storage.word
    if len(rest) > 2 and isinstance(rest[2], Name):  # _v3: a dtype without a storage type
        word = rest[2].text.removeprefix("torch.")
    elif 0 not in sizes and (first < 0 or last >= storage.numel):
        raise ValueError("a tensor beyond its storage")
    if any(isinstance(about, dict) and (about.get("neg") or about.get("conj")) for about in rest):
        raise FormatError("holds a tensor stored as its negative", "save it again with torch.save")
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
