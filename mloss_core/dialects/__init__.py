"""Checkpoints of CLIP image towers as the field writes them, by our names (docs/dialects.md).

A file is recognised by its content, never by its ending. Nothing in it is executed, and nothing but
its table of contents is read until tensors are asked for.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import BadFile, BadTensor
from .architecture import HEAD_WIDTH, NO_PROJECTION, Architecture, architecture, tower_shapes
from .archives import ZIP_MAGIC, Archive, read_legacy, read_zip
from .folders import ADAPTER, OPEN_CLIP_CONFIG, WEIGHTS, read_config, weight_files
from .modules import is_module, state_dict, told_activation
from .names import PLAIN, house, text_tower
from .preprocessing import Normalisation, normalisation, read_normalisation
from .stored import Stamp, Stored, Unreadable, from_safetensors, safetensors, stamp

__all__ = [
    "ADAPTER",
    "HEAD_WIDTH",
    "KEY",
    "NO_PROJECTION",
    "OPEN_CLIP_CONFIG",
    "WEIGHTS",
    "Architecture",
    "Contents",
    "Normalisation",
    "Stamp",
    "Stored",
    "Unreadable",
    "architecture",
    "contents",
    "normalisation",
    "read_config",
    "read_head",
    "read_normalisation",
    "refused",
    "stamps",
    "tower_shapes",
]

KEY = "mloss"  # the one metadata key of our files: safetensors shuffles several
PICKLE = b"\x80"  # every pickle that torch writes begins with this
# What goes wrong in a damaged file.
DAMAGE = (OSError, SafetensorError, ValueError, RuntimeError, RecursionError, Unreadable)


@dataclass(frozen=True, eq=False)
class Contents:
    """What a file or folder holds.

    Args:
        dialect: open_clip, hugging_face, openai_jit, pickled_module, or plain: no names of CLIP.
        tensors: the image tower's, by our names; all of them where the dialect is plain.
        metadata: our own metadata, empty for others' files.
        activation: quick_gelu or gelu where the file itself tells, else None.
        text: the text tower's tensors by our names, empty where the file has none.
    """

    dialect: str
    tensors: Mapping[str, Stored]
    metadata: Mapping[str, object]
    activation: str | None = None
    text: Mapping[str, Stored] = field(default_factory=dict)


@contextlib.contextmanager
def refused(name: str, path: Path) -> Iterator[None]:
    """Says BadFile for everything that reading the file or folder may run into."""
    try:
        yield
    except FileNotFoundError as error:
        raise BadFile(name, path, "does not exist", "check the path") from error
    except Unreadable as error:
        raise BadFile(name, path, error.problem, error.remedy) from error
    except DAMAGE as error:
        problem = f"cannot be read as a checkpoint ({error})"
        raise BadFile(name, path, problem, "fetch or write it again") from error


def stamps(path: Path) -> tuple[Stamp, ...]:
    """The weight files of a path as they are now; raises Unreadable, OSError."""
    return tuple(map(stamp, weight_files(path)))


@functools.lru_cache(maxsize=64)
def contents(files: tuple[Stamp, ...]) -> Contents:
    """Reads the tables of contents of a checkpoint's files; raises one of DAMAGE."""
    parts = [_file(at) for at in files]
    tensors: dict[str, Stored] = {}
    for part in parts:
        if part.tensors.keys() & tensors.keys():
            raise Unreadable("holds a tensor in two of its files")
        tensors |= part.tensors
    dialect, named = house(tensors)
    if dialect != PLAIN and parts[0].dialect:
        dialect = parts[0].dialect
    text = text_tower(tensors)
    return Contents(dialect, named, parts[0].metadata, parts[0].activation, text)


def _file(at: Stamp) -> Contents:
    """One file by its own names; its dialect is empty where only names tell it."""
    with at[0].open("rb") as file:
        magic = file.read(4)
    if magic == ZIP_MAGIC:
        return _archive(read_zip(at))
    if magic[:1] == PICKLE and at[1] >= 8 and not _is_safetensors(at):
        return _archive(read_legacy(at))
    file = safetensors(at)
    metadata = json.loads((file.metadata() or {}).get(KEY, "{}"))
    return Contents("", {key: from_safetensors(at, key) for key in file.keys()}, metadata)


def _is_safetensors(at: Stamp) -> bool:
    """Whether the file begins with a header of a length that fits: 0x80 may be that length's."""
    with at[0].open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return length + 8 <= at[1] and file.read(1) == b"{"


def _archive(archive: Archive) -> Contents:
    tensors = {key: archive.stored(part) for key, part in state_dict(archive.value).items()}
    if archive.scripted:
        dialect = "openai_jit"
    else:
        dialect = "pickled_module" if is_module(archive.value) else ""
    return Contents(dialect, tensors, {}, told_activation(archive.value))


def read_head(path: Path) -> Tensor:
    """A task's zero-shot head, classes x embedding, from a head_<Task>.pt of task-vectors.

    Raises:
        BadFile: the path is missing or cannot be read.
        BadTensor: it holds no matrix `weight`, a bias, or NaN.
    """
    with refused("head", path):
        tensors = contents(stamps(path)).tensors
        found = {name.rpartition(".")[2]: tensor for name, tensor in tensors.items()}
        weight, bias = found.get("weight"), found.get("bias")
        if weight is None or len(tensors) > 2 or len(weight.shape) != 2:
            problem = f"holds no head but {len(tensors)} tensors"
            raise BadTensor("head", path.name, problem, "give one matrix, weight")
        if weight.dtype not in ("F16", "BF16", "F32", "F64"):
            raise BadTensor("head", path.name, f"has dtype {weight.dtype}", "save it as F32")
        if bias is not None and bias.fetch().any():
            raise BadTensor("head", path.name, "has a bias, which no zero-shot head has", "drop it")
        head = weight.fetch().to(torch.float32, copy=True)
    if not head.isfinite().all():
        raise BadTensor("head", path.name, "holds NaN or infinity", "fetch or write it again")
    return head
