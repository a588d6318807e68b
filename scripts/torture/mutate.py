"""Damages files as disks, networks, editors and attackers do, every draw from one generator."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

MOST = 4  # changes of one file: more, and every reader stops at the first
NUMBERS = (0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**40, 2**63 - 1, 2**64 - 1)
RUN = "touch ran"  # what a reader that trusts a value would do
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**63, 2**200, 1e308, -0.5, float("nan"), float("inf"), "", " ", ".",
    "..", "../../etc/passwd", "/etc/passwd", "~root", "a\0b", "x\ny", "\u202e", "\ud800",
    "A" * 70_000,
    f"$({RUN})", f"`{RUN}`", f"|{RUN}", f"__import__('os').system('{RUN}')",
    f"!!python/object/apply:os.system ['{RUN}']", "{0.__class__.__mro__}", "%s%n", "{}", "{} {}",
    "/dev/zero", "file:///etc/passwd", "ViT-B-32/openai", [], {}, [[[]]], [None], [1, "a"],
    {"": ""}, {"a": {"b": {"c": []}}}, [[]] * 300,
)  # fmt: skip


def damage(content: bytes, cut: float, flips: list[tuple[float, int]]) -> bytes:
    """Truncated to a share of its length, with bits flipped at shares of what is left."""
    left = bytearray(content[: max(1, int(len(content) * cut))])
    for share, bit in flips:
        left[int(share * (len(left) - 1))] ^= 1 << bit
    return bytes(left)


def mutated(content: bytes, draw: Random, other: bytes = b"") -> bytes:
    """A file's bytes after one to MOST changes.

    Args:
        other: bytes of another file, parts of which are spliced in.
    """
    for _ in range(draw.randint(1, MOST)):
        content = draw.choice(CHANGES)(content, draw, other or content)
    return content


def _place(content: bytes, draw: Random) -> int:
    """A place in a file: as often in the first and in the last twentieth as anywhere."""
    low, high = draw.choice(((0.0, 1.0), (0.0, 0.05), (0.95, 1.0)))
    return int(draw.uniform(low, high) * max(0, len(content) - 1))


def _flipped(content: bytes, draw: Random, other: bytes) -> bytes:
    if not content:
        return other[:1]
    at = _place(content, draw) / max(1, len(content) - 1)
    return damage(content, 1.0, [(at, draw.randrange(8))])


def _cut(content: bytes, draw: Random, other: bytes) -> bytes:
    return content[: _place(content, draw)]


def _zeroed(content: bytes, draw: Random, other: bytes) -> bytes:
    at, length = _place(content, draw), draw.choice((1, 4, 64, 4096))
    return content[:at] + bytes(min(length, len(content) - at)) + content[at + length :]


def _removed(content: bytes, draw: Random, other: bytes) -> bytes:
    at = _place(content, draw)
    return content[:at] + content[at + draw.choice((1, 8, 100)) :]


def _repeated(content: bytes, draw: Random, other: bytes) -> bytes:
    at, length = _place(content, draw), draw.choice((1, 8, 100, 5000))
    return content[:at] + content[at : at + length] * draw.randint(2, 9) + content[at:]


def _spliced(content: bytes, draw: Random, other: bytes) -> bytes:
    at, there = _place(content, draw), _place(other, draw)
    length = draw.choice((1, 16, 300, len(other)))
    return content[:at] + other[there : there + length] + content[at + draw.choice((0, length)) :]


def _numbered(content: bytes, draw: Random, other: bytes) -> bytes:
    width, order = draw.choice((1, 2, 4, 8)), draw.choice(("little", "big"))
    number = draw.choice(NUMBERS) % 256**width
    at = _place(content, draw)
    return content[:at] + number.to_bytes(width, order) + content[at + width :]


def _digits(content: bytes, draw: Random, other: bytes) -> bytes:
    """Another number where a text has one: sizes and offsets in a header of JSON."""
    at = _place(content, draw)
    while at < len(content) and not content[at : at + 1].isdigit():
        at += 1
    end = at
    while end < len(content) and content[end : end + 1].isdigit():
        end += 1
    return content[:at] + str(draw.choice(NUMBERS)).encode() + content[end:]


Change = Callable[[bytes, Random, bytes], bytes]
CHANGES: tuple[Change, ...] = (
    _flipped, _cut, _zeroed, _removed, _repeated, _spliced, _numbered, _digits,
)  # fmt: skip


def altered(value: Any, draw: Random) -> Any:
    """A document, as JSON holds it, with one value in it replaced, removed or given a new key."""
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(list(value))
        if draw.random() < 0.15:
            return {name: inner for name, inner in value.items() if name != key}
        if draw.random() < 0.1:
            return value | {str(draw.choice(VALUES))[:80]: value[key]}
        return value | {key: altered(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.7:
        at = draw.randrange(len(value))
        return [*value[:at], altered(value[at], draw), *value[at + 1 :]]
    return draw.choice(VALUES)


def misplaced(path: Path, draw: Random) -> str:
    """Puts something that is no plain file at a path: a pipe, a folder, a link, endless zeros.

    Returns:
        what it is.
    """
    kind = draw.choice(("pipe", "folder", "loop", "lost link", "zeros", "folder link", "giant"))
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "giant":  # holes take no disk
        with path.open("wb") as file:
            file.truncate(1 << 36)
    else:
        targets = {"loop": path, "lost link": "/nowhere", "zeros": "/dev/zero"}
        path.symlink_to(targets.get(kind, path.parent))
    return kind
