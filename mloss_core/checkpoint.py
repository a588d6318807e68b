"""Reading and writing of image towers: safetensors only, audited before use, never half-written."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import BadFile, BadTensor

FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
KEY = "mloss"  # the one metadata key of our files: safetensors shuffles several


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An image tower in a file, by open_clip's names. Opening reads the header only.

    Args:
        name: what messages call it, e.g. "source letters".
        shapes, dtypes: of every tensor (dtypes in safetensors' words, e.g. "F16").
        metadata: our own metadata, empty for others' files.
    """

    name: str
    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, object]

    @classmethod
    def open(cls, path: Path, name: str) -> Checkpoint:
        """Reads the header; raises BadFile if the file is missing, truncated or hostile."""
        try:
            with safe_open(path, framework="pt") as file:
                slices = {key: file.get_slice(key) for key in file.keys()}
                text = (file.metadata() or {}).get(KEY, "{}")
                return cls(
                    name=name,
                    path=path,
                    shapes={key: tuple(s.get_shape()) for key, s in slices.items()},
                    dtypes={key: s.get_dtype() for key, s in slices.items()},
                    metadata=json.loads(text),
                )
        except FileNotFoundError as error:
            raise BadFile(name, path, "does not exist", "check the path") from error
        except (OSError, SafetensorError, ValueError, RecursionError) as error:
            remedy = "fetch or write it again"
            problem = f"cannot be read as safetensors ({error})"
            raise BadFile(name, path, problem, remedy) from error

    def audit(self, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str] | None = None):
        """Raises BadTensor naming the first tensors whose name, shape or dtype differ.

        Args:
            shapes: what the family has.
            dtypes: the base's, where this is a source.
        """
        remedy = "use checkpoints fine-tuned from the same base"
        for problem, names in (
            ("lacks", sorted(shapes.keys() - self.shapes.keys())),
            ("has more tensors than its family:", sorted(self.shapes.keys() - shapes.keys())),
        ):
            if names:
                shown = ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
                raise BadTensor(self.name, self.path.name, f"{problem} {shown}", remedy)
        for key, shape in shapes.items():
            if self.shapes[key] != shape:
                problem = f"{key} has shape {self.shapes[key]}, its family {shape}"
                raise BadTensor(self.name, self.path.name, problem, remedy)
            if self.dtypes[key] not in FLOATS:
                problem = f"{key} has dtype {self.dtypes[key]}"
                raise BadTensor(self.name, self.path.name, problem, f"use {', '.join(FLOATS)}")
            if dtypes and self.dtypes[key] != dtypes[key]:
                problem = f"{key} has dtype {self.dtypes[key]}, the base {dtypes[key]}"
                raise BadTensor(self.name, self.path.name, problem, "convert one of the two")

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The named tensors as they are stored, on the CPU; raises BadFile."""
        try:
            stat = self.path.stat()
            file = _opened(self.path, stat.st_size, stat.st_mtime_ns)
            return {name: file.get_tensor(name) for name in names}
        except (OSError, SafetensorError) as error:
            problem = f"cannot be read ({error})"
            raise BadFile(self.name, self.path, problem, "fetch it again") from error

    def load(self, device: torch.device) -> dict[str, Tensor]:
        """All tensors in fp32 on the device."""
        return {k: t.to(device, torch.float32) for k, t in self.read(self.shapes).items()}

    def check_finite(self) -> None:
        """Raises BadTensor naming a tensor with NaN or infinity; a file is read for it once."""
        stat = self.path.stat()
        name = _first_not_finite(self.path, stat.st_size, stat.st_mtime_ns)
        if name is not None:
            problem = f"{name} holds NaN or infinity"
            raise BadTensor(self.name, self.path.name, problem, "train or fetch it again")

    @property
    def sha256(self) -> str:
        """Hash of the file's bytes, computed once as long as the file does not change."""
        stat = self.path.stat()
        return _sha256(self.path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _opened(path: Path, size: int, mtime_ns: int) -> safe_open:
    """The mapped file; kept, because a merge reads every file once a block."""
    return safe_open(path, framework="pt")


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.lru_cache(maxsize=256)
def _first_not_finite(path: Path, size: int, mtime_ns: int) -> str | None:
    file = _opened(path, size, mtime_ns)
    return next((k for k in file.keys() if not _finite(file.get_tensor(k))), None)


def _finite(tensor: Tensor) -> bool:
    """Whether a floating-point tensor holds neither NaN nor infinity: its extremes tell."""
    return not tensor.numel() or all(math.isfinite(x) for x in tensor.aminmax())


def check_output(path: Path) -> None:
    """Raises BadFile if the output exists or its folder doesn't."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise BadFile("--out", path, f"cannot be written ({error})", "name another file") from error
    else:
        raise BadFile("--out", path, "exists and is never overwritten", "name another file")
    if not path.parent.is_dir():
        raise BadFile(
            "--out", path, "is in a folder that does not exist", "create the folder first"
        )
    if not os.access(path.parent, os.W_OK):
        raise BadFile("--out", path, "is in a folder that cannot be written to", "name another")


def _put(aside: Path, path: Path) -> None:
    """Gives the written file its name, never replacing one that came in between."""
    try:
        os.link(aside, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        check_output(path)
        aside.rename(path)


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, object]) -> None:
    """Writes a safetensors file whole or not at all, with metadata as one sorted JSON value.

    Raises:
        BadFile: the path exists, its folder doesn't, or the disk is full.
    """
    check_output(path)
    aside = path.with_name(f".{path.name[:80]}.{uuid4().hex}.part")
    try:
        # save_file orders tensors by dtype and name: the same tensors give the same bytes.
        contiguous = {name: tensors[name].contiguous() for name in sorted(tensors)}
        save_file(contiguous, aside, {KEY: json.dumps(metadata, sort_keys=True)})
        aside.chmod(0o644)  # safetensors leaves files that only their owner can read
        _put(aside, path)
    except (OSError, SafetensorError) as error:
        raise BadFile(
            "--out", path, f"cannot be written ({error})", "free space or go elsewhere"
        ) from error
    finally:
        aside.unlink(missing_ok=True)
