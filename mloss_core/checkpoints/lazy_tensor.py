"""Lazily read tensors of a file: shape and dtype at once, values mapped on demand."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from safetensors import safe_open
from torch import Tensor

from .files import FileId, FormatError, check_unchanged

# Storage types of pickled tensors: safetensors' word for the dtype, and the dtype.
STORAGES = {
    "HalfStorage": ("F16", torch.float16),
    "BFloat16Storage": ("BF16", torch.bfloat16),
    "FloatStorage": ("F32", torch.float32),
    "DoubleStorage": ("F64", torch.float64),
    "LongStorage": ("I64", torch.int64),
    "IntStorage": ("I32", torch.int32),
    "ShortStorage": ("I16", torch.int16),
    "CharStorage": ("I8", torch.int8),
    "ByteStorage": ("U8", torch.uint8),
    "BoolStorage": ("BOOL", torch.bool),
}
DTYPES = dict(STORAGES.values())
# Bytes of an element of storages that no weights lie in, but what else a training script saves.
ODD_STORAGES = {
    "UntypedStorage": 1, "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16, "QInt8Storage": 1,
    "QUInt8Storage": 1, "QInt32Storage": 4, "QUInt4x2Storage": 1, "QUInt2x4Storage": 1,
}  # fmt: skip


def itemsize(word: str) -> int:
    """Bytes of an element of that dtype or kind of storage; raises FormatError if unknown."""
    if word in DTYPES:
        return DTYPES[word].itemsize
    if word not in ODD_STORAGES:
        raise FormatError(f"holds values of dtype {word or 'unknown'}")
    return ODD_STORAGES[word]


@dataclass(frozen=True)
class Stored:
    """A tensor of a file, read on demand.

    Args:
        dtype: in safetensors' words, e.g. "F16".
        fetch: gives its values on the CPU, mapped where they lie as asked for.
    """

    shape: tuple[int, ...]
    dtype: str
    fetch: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of its values; of a dtype that is not read, as many as there are values."""
        width = DTYPES[self.dtype].itemsize if self.dtype in DTYPES else 1
        return math.prod(self.shape) * width


@functools.lru_cache(maxsize=64)
def safetensors(at: FileId) -> safe_open:
    """The mapped safetensors file, cached: a merge reads every file once per block."""
    check_unchanged(at)
    return safe_open(at.path, framework="pt")


@functools.lru_cache(maxsize=64)
def _mapped(at: FileId) -> Tensor:
    """All bytes of a file, mapped privately: writes to them never reach the file."""
    check_unchanged(at)
    return torch.from_file(str(at.path), shared=False, size=at.size, dtype=torch.uint8)


def from_safetensors(at: FileId, key: str) -> Stored:
    """A tensor of a safetensors file, read on demand."""
    part = safetensors(at).get_slice(key)
    return Stored(tuple(part.get_shape()), part.get_dtype(), partial(_from_safetensors, at, key))


def from_bytes(
    at: FileId, start: int, word: str, offset: int, size: Sequence[int], stride: Sequence[int]
) -> Stored:
    """A tensor, read on demand, whose storage's elements start at this byte of the file."""
    fetch = partial(_from_bytes, at, start, word, offset, tuple(size), tuple(stride))
    return Stored(tuple(size), word, fetch)


def fused(parts: Sequence[Stored]) -> Stored:
    """One tensor of several concatenated along the first dimension."""
    first = parts[0]
    rows = sum(part.shape[0] for part in parts)
    return Stored((rows, *first.shape[1:]), first.dtype, partial(_fused, tuple(parts)))


def transposed(matrix: Stored) -> Stored:
    """A matrix with rows and columns exchanged."""
    return Stored(matrix.shape[::-1], matrix.dtype, partial(_transposed, matrix))


def as_single(tensor: Stored) -> Stored:
    """A tensor of double precision in single, in which all is computed; any other as it is."""
    if tensor.dtype != "F64":
        return tensor
    return Stored(tensor.shape, "F32", partial(_single, tensor))


def _single(tensor: Stored) -> Tensor:
    return tensor.fetch().float()


def _from_safetensors(at: FileId, key: str) -> Tensor:
    return safetensors(at).get_tensor(key)


def _from_bytes(
    at: FileId, start: int, word: str, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> Tensor:
    if word not in DTYPES:
        raise FormatError(f"holds tensors of dtype {word}", "save it as F16, BF16 or F32")
    dtype = DTYPES[word]
    if 0 in size:
        return torch.empty(size, dtype=dtype)
    steps = [(n - 1) * step for n, step in zip(size, stride, strict=True)]
    first = offset + sum(step for step in steps if step < 0)
    elements = 1 + offset + sum(step for step in steps if step > 0)
    held = _mapped(at)[start : start + elements * dtype.itemsize]
    if start % dtype.itemsize:
        held = held.clone()  # legacy files pack storages without alignment
    typed = held.view(dtype)
    first += typed.storage_offset()  # as_strided counts from the file's first byte
    tensor = typed.as_strided(size, [abs(step) for step in stride], first)
    backwards = [i for i, step in enumerate(stride) if step < 0]
    return tensor.flip(backwards) if backwards else tensor.contiguous()


def _fused(parts: tuple[Stored, ...]) -> Tensor:
    return torch.cat([part.fetch() for part in parts])


def _transposed(matrix: Stored) -> Tensor:
    return matrix.fetch().T.contiguous()
