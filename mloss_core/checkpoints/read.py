"""Readers of CLIP checkpoints in every common format, by open_clip's names (docs/dialects.md).

A file is recognised by its content, never by its ending. Nothing in it is executed, and nothing but
its table of contents is read until tensors are asked for.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import BadFile, BadTensor
from .adapter_config import adapter_config
from .files import FileId, FormatError, check_unchanged, file_id
from .folders import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    OPEN_CLIP_CONFIG,
    WEIGHTS,
    config_file,
    read_config,
    read_json,
    weight_files,
)
from .foreign import ENDINGS, check_is_checkpoint
from .infer import HEAD_WIDTH, NO_PROJECTION, Architecture, architecture, tower_shapes
from .lazy_tensor import Stored, as_single, from_safetensors, safetensors
from .lora import LORA, expanded
from .naming import PLAIN, is_head, is_left_out, left_out, text_tower, to_open_clip_names
from .parts import chosen, parts
from .preprocessing import Normalisation, normalisation, read_normalisation
from .quantised import check_not_quantised
from .state_dict import StateDict, flat, state_dicts
from .torch_archive import ZIP_MAGIC, Archive, check_unpacked, read_legacy, read_zip

__all__ = [
    "ADAPTER",
    "ADAPTER_WEIGHTS",
    "DAMAGE",
    "ENDINGS",
    "HEAD_WIDTH",
    "KEY",
    "LORA",
    "NO_PROJECTION",
    "OPEN_CLIP_CONFIG",
    "PLAIN",
    "WEIGHTS",
    "Architecture",
    "Contents",
    "FileId",
    "FormatError",
    "Normalisation",
    "Stored",
    "architecture",
    "as_bad_file",
    "config_file",
    "contents",
    "file_ids",
    "normalisation",
    "read_config",
    "read_head",
    "read_normalisation",
    "tower_shapes",
]

KEY = "mloss"  # the one metadata key of our files: safetensors shuffles several
PICKLE = b"\x80"  # every pickle that torch writes begins with this
# What goes wrong in a damaged file.
DAMAGE = (OSError, SafetensorError, ValueError, RuntimeError, RecursionError, FormatError)


@dataclass(frozen=True, eq=False)
class Contents:
    """The contents of a checkpoint file or folder.

    Args:
        dialect: open_clip, hugging_face, openai_jit, pickled_module, lora, or plain: no names of
            CLIP.
        tensors: the image tower's, by our names; all of them where the dialect is plain.
        metadata: our own metadata, empty for others' files.
        activation: quick_gelu or gelu where the file itself tells, else None.
        text: the text tower's tensors by our names, empty where the file has none.
        said: what people are told of it: which model was chosen, and what was left out.
    """

    dialect: str
    tensors: Mapping[str, Stored]
    metadata: Mapping[str, object]
    activation: str | None = None
    text: Mapping[str, Stored] = field(default_factory=dict)
    said: tuple[str, ...] = ()


@contextlib.contextmanager
def as_bad_file(name: str, path: Path) -> Iterator[None]:
    """Translates every error of reading a checkpoint file or folder into BadFile."""
    try:
        yield
    except FileNotFoundError as error:
        raise BadFile(name, path, "does not exist", "check the path") from error
    except FormatError as error:
        raise BadFile(name, path, error.problem, error.remedy) from error
    except DAMAGE as error:
        problem = f"cannot be read as a checkpoint ({error})"
        raise BadFile(name, path, problem, "fetch or write it again") from error


def file_ids(path: Path, base: tuple[FileId, ...] = (), part: str = "") -> tuple[FileId, ...]:
    """Identities of a path's weight files as they are now; raises FormatError, OSError.

    Args:
        base: the base's, which follow those of an adapter: its weights depend on them, too.
        part: which model of several in the files is meant.
    """
    files = tuple(file_id(file, part) for file in weight_files(path))
    return files + base if _is_adapter(files) else files


def _is_adapter(files: tuple[FileId, ...]) -> bool:
    return len(files) > 1 and files[1].path.name == ADAPTER


@functools.lru_cache(maxsize=64)
def contents(files: tuple[FileId, ...]) -> Contents:
    """The tables of contents of a checkpoint's files; raises one of DAMAGE.

    An adapter's are those of its base as it changes it.
    """
    if _is_adapter(files):
        return _adapter(files[0], files[1], files[2:])
    read = [_file(at) for at in files]
    dicts: dict[str, StateDict] = {}
    for file in read:
        for place, held in file.dicts.items():
            former = dicts.get(place, StateDict({})).tensors
            if former.keys() & held.tensors.keys():
                raise FormatError("holds a tensor in two of its files")
            dicts[place] = replace(held, tensors={**former, **held.tensors})
    models, wanted = parts(dicts), files[0].part
    if not models and wanted:
        raise FormatError(f"holds no model called {wanted[:80]!r}", "give a whole CLIP ViT")
    if not models:
        return _of_names(flat(dicts), read[0], StateDict({}), ())
    model, said = chosen(models, wanted)
    beside = [name for name in model.beside if not is_left_out(name.rpartition(".")[2])]
    return _of_names(model.tensors, read[0], model.held, (said, left_out(beside)))


def _of_names(
    tensors: Mapping[str, Stored], file: File, held: StateDict, said: tuple[str, ...]
) -> Contents:
    """The contents of a model by our names.

    Args:
        file, held: the file and the state dict that it is from.
        said: of the choice; empty texts are nothing.
    """
    dialect, named = to_open_clip_names(tensors)
    if dialect != PLAIN:
        check_not_quantised(tensors)
    if dialect != PLAIN and file.scripted:
        dialect = "openai_jit"
    elif dialect != PLAIN and held.module:
        dialect = "pickled_module"
    heads = [name for name in tensors if is_head(name)] if dialect != PLAIN else []
    said = tuple(filter(None, (*said, left_out(heads))))
    return Contents(dialect, named, file.metadata, held.activation, text_tower(tensors), said)


def _adapter(weights: FileId, config: FileId, base: tuple[FileId, ...]) -> Contents:
    """An adapter on its base; raises FormatError where there is none, or where it does not fit."""
    check_unchanged(config)
    about = adapter_config(read_json(config.path))
    if not base:
        named = f" of {about.base[-80:]}" if about.base else ""
        problem = f"is a LoRA adapter{named}, which is no model without its base"
        raise FormatError(problem, "make it a source of a family with that base")
    whole = contents(base).tensors
    changed = expanded(flat(_file(weights).dicts), about, whole)
    return Contents(LORA, {**whole, **changed}, {})


@dataclass(frozen=True)
class File:
    """What one file holds, by its own names."""

    dicts: Mapping[str, StateDict]
    metadata: Mapping[str, object] = field(default_factory=dict)
    scripted: bool = False


def _file(at: FileId) -> File:
    with at.path.open("rb") as file:
        magic = file.read(4)
    if magic == ZIP_MAGIC:
        return _archive(read_zip(at))
    if magic[:1] == PICKLE and at.size >= 8 and not _is_safetensors(at):
        return _archive(read_legacy(at))
    if not _is_safetensors(at):
        check_is_checkpoint(at)
    file = safetensors(at)
    about = file.metadata() or {}
    tensors = {key: as_single(from_safetensors(at, key)) for key in file.keys()}
    # safetensors' save_model leaves out what shares memory, and says whose values it has.
    tied = {key: tensors[other] for key, other in about.items() if other in tensors}
    return File({"": StateDict(tied | tensors)}, json.loads(about.get(KEY, "{}")))


def _is_safetensors(at: FileId) -> bool:
    """Whether a file is safetensors: it begins with a header of a length that fits."""
    with at.path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return length + 8 <= at.size and file.read(1) == b"{"


def _archive(archive: Archive) -> File:
    dicts = state_dicts(archive.value, lambda tensor: as_single(archive.stored(tensor)))
    # Views may repeat a few values without end.
    sizes = (tensor.nbytes for held in dicts.values() for tensor in held.tensors.values())
    check_unpacked(sum(sizes), archive.at)
    return File(dicts, scripted=archive.scripted)


def read_head(path: Path) -> Tensor:
    """A task's zero-shot head, classes x embedding, from a head_<Task>.pt of task-vectors.

    Raises:
        BadFile: the path is missing or cannot be read.
        BadTensor: it holds no matrix `weight`, a bias, or NaN.
    """
    with as_bad_file("head", path):
        tensors = contents(file_ids(path)).tensors
        by_name = {name.rpartition(".")[2]: tensor for name, tensor in tensors.items()}
        weight, bias = by_name.get("weight"), by_name.get("bias")
        if weight is None or len(tensors) > 2 or len(weight.shape) != 2:
            problem = f"holds no head but {len(tensors)} tensors"
            raise BadTensor("head", path.name, problem, "give one matrix, weight")
        if weight.dtype not in ("F16", "BF16", "F32"):
            raise BadTensor("head", path.name, f"has dtype {weight.dtype}", "save it as F32")
        if bias is not None and bias.fetch().any():
            raise BadTensor("head", path.name, "has a bias, which no zero-shot head has", "drop it")
        head = weight.fetch().to(torch.float32, copy=True)
    if not head.isfinite().all():
        raise BadTensor("head", path.name, "holds NaN or infinity", "fetch or write it again")
    return head
