"""Checkpoints of image towers: read from any dialect, audited, and written as safetensors."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..architecture import ViTConfig
from ..atomic_files import written
from ..errors import BadFile, BadTensor, LostLink
from ..parallel import thread_map
from ..places import lost_link, snapshot
from ..version import __version__
from . import hashes
from . import read as formats
from .infer import blocks, differences
from .read import KEY, FormatError, as_bad_file, tower_shapes

PROJECTION, POSITIONS = "visual.proj", "visual.positional_embedding"
SAME_BASE = "use checkpoints fine-tuned from the same base"
FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An image tower in a file or folder, by open_clip's names. Opening reads no tensor.

    It stays what it was when it was opened; `changed` says whether its files have changed since.

    Args:
        name: what messages call it, e.g. "source letters".
        files: the weight files as they were; of an adapter, its config and its base's files, too.
        tensors: of the tower, read on demand.
        shapes, dtypes: of every tensor (dtypes in safetensors' words, e.g. "F16").
        metadata: our own metadata, empty for others' files.
        dialect: how it is stored (docs/dialects.md).
        activation: where the file itself tells it.
        said: what people are told of it: which model was chosen, and what was left out.
        lender: the base, of a source that was saved without its projection.
    """

    name: str
    path: Path
    files: tuple[formats.FileId, ...]
    tensors: Mapping[str, formats.Stored]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, object]
    dialect: str = "open_clip"
    activation: str | None = None
    said: tuple[str, ...] = ()
    lender: Checkpoint | None = None

    @classmethod
    def open(
        cls, path: Path, name: str, base: Checkpoint | None = None, part: str = ""
    ) -> Checkpoint:
        """Opens the checkpoint of a file or folder; raises BadFile if it is missing or damaged.

        Args:
            base: of a source. A LoRA adapter is read on top of it, and is refused without.
            part: which model of several in the files is meant.
        """
        path = snapshot(path)
        with as_bad_file(name, path):
            if lost := lost_link(path):
                raise LostLink(name, lost)
            files = formats.file_ids(path, base.files if base else (), part)
            contents = formats.contents(files)
        checkpoint = cls(
            name=name,
            path=path,
            files=files,
            tensors=contents.tensors,
            shapes={key: tensor.shape for key, tensor in contents.tensors.items()},
            dtypes={key: tensor.dtype for key, tensor in contents.tensors.items()},
            metadata=contents.metadata,
            dialect=contents.dialect,
            activation=contents.activation,
            said=contents.said,
        )
        return checkpoint.completed(base) if base else checkpoint

    def completed(self, base: Checkpoint) -> Checkpoint:
        """This checkpoint, with the base's projection where a CLIPVisionModel lacks its own.

        Its tuning cannot have changed a projection that it never had.
        """
        if self.dialect != "hugging_face" or base.shapes.keys() - self.shapes.keys() != {
            PROJECTION
        }:
            return self
        shapes = {**self.shapes, PROJECTION: base.shapes[PROJECTION]}
        dtypes = {**self.dtypes, PROJECTION: base.dtypes[PROJECTION]}
        return dataclasses.replace(self, shapes=shapes, dtypes=dtypes, lender=base)

    @property
    def config(self) -> Mapping[str, Any]:
        """The config.json beside the weights; without one, the activation read from the weights."""
        with as_bad_file(self.name, self.path):
            fallback = {"hidden_act": self.activation} if self.activation else {}
            return formats.read_config(self.path) or fallback

    @property
    def normalisation(self) -> formats.Normalisation | None:
        """Mean and std that the files beside the weights give; None where they don't."""
        with as_bad_file(self.name, self.path):
            return formats.read_normalisation(self.path)

    def changed(self) -> bool:
        """Whether the weight files are no longer those that were opened."""
        try:
            return formats.file_ids(self.path, self.files[2:], self.files[0].part) != self.files
        except (FormatError, OSError):
            return True

    def audit(self, shapes: Mapping[str, tuple[int, ...]], base: Checkpoint | None = None):
        """Raises BadTensor naming the first tensors whose name, shape or dtype differ.

        Args:
            shapes: what the family has.
            base: of this source; both have the same dtypes, but for what an adapter changes.
        """
        self.check_tower()
        missing, more = shapes.keys() - self.shapes.keys(), self.shapes.keys() - shapes.keys()
        for problem, names in (("lacks", missing), ("has more tensors than its family:", more)):
            if names:
                shown = ", ".join(sorted(names)[:10]) + (" ..." if len(names) > 10 else "")
                remedy = self._remedy(shapes)
                raise BadTensor(self.name, self.path.name, f"{problem} {shown}", remedy)
        for key, shape in shapes.items():
            if self.shapes[key] != shape:
                problem = f"{key} has shape {self.shapes[key]}, its family {shape}"
                remedy = self._remedy(shapes)
                raise BadTensor(self.name, self.path.name, problem, remedy)
            if self.dtypes[key] not in FLOATS:
                problem = f"{key} has dtype {self.dtypes[key]}"
                raise BadTensor(self.name, self.path.name, problem, f"use {', '.join(FLOATS)}")
            if base and self.dtypes[key] != base.dtypes[key] and self.dialect != formats.LORA:
                problem = f"{key} has dtype {self.dtypes[key]}, the base {base.dtypes[key]}"
                narrow = base if self.dtypes[key] == "F32" else self
                raise BadTensor(self.name, self.path.name, problem, _conversion(narrow.path))

    def check_tower(self) -> None:
        """Raises BadTensor where the names are those of no image tower."""
        if self.dialect == formats.PLAIN:
            shown = ", ".join(sorted(self.shapes)[:4]) or "no tensor"
            problem = f"holds no image tower by any dialect's names, but {shown}"
            remedy = "give a whole CLIP ViT or its image tower"
            raise BadTensor(self.name, self.path.name, problem, remedy)

    def _remedy(self, shapes: Mapping[str, tuple[int, ...]]) -> str:
        """What to do about names or shapes that differ from the family's, by their cause."""
        missing, more = shapes.keys() - self.shapes.keys(), self.shapes.keys() - shapes.keys()
        odd = {key for key in shapes.keys() - missing if shapes[key] != self.shapes[key]}
        if not odd <= {POSITIONS} or blocks(shapes) != blocks(self.shapes):
            return SAME_BASE
        if 2 * len(missing) > len(shapes):
            return SAME_BASE
        if missing == {PROJECTION} and self.dialect == "hugging_face":
            return formats.NO_PROJECTION
        if missing:
            return "save the state dict of the whole image tower: a part of it is not in the file"
        if more:
            return (
                "save it without them, or train without them: CLIP's image tower has no such part"
            )
        return "use fine-tunes at the base's image size: this one has another"

    def check_config(self, base: Checkpoint, model: ViTConfig) -> None:
        """Raises BadFile naming the file that says that this is another model than its base.

        Heads and activation show in no tensor: such sources would be merged to nonsense.
        """
        found = differences(self.config, base.config, model)
        if found:
            theirs = " and ".join(f"{key} {value!r}" for key, value, _ in found)
            ours = " and ".join(repr(value) for *_, value in found)
            with as_bad_file(self.name, self.path):
                place = formats.config_file(self.path)
            problem = f"says {theirs}, its base {ours}"
            remedy = "use fine-tunes of one model; if this is one, correct what the file says"
            if place is None:
                problem = f"has classes that say {theirs}, its base {ours}"
                remedy = "use fine-tunes of one model"
            raise BadFile(self.name, place or self.path, problem, remedy)

    def read(self, names: Collection[str]) -> dict[str, Tensor]:
        """The named tensors as they are stored, on the CPU; raises BadFile."""
        with as_bad_file(self.name, self.path):
            own = {name: self.tensors[name].fetch() for name in names if name in self.tensors}
        borrowed = [name for name in names if name not in own]
        return own | self.lender.read(borrowed) if self.lender and borrowed else own

    def load(self, device: torch.device) -> dict[str, Tensor]:
        """All tensors in fp32 on the device."""
        return {k: t.to(device, torch.float32) for k, t in self.read(self.shapes).items()}

    def check_finite(self) -> None:
        """Raises BadTensor naming a tensor with NaN or infinity; a file is read for it once."""
        with as_bad_file(self.name, self.path):
            name = _first_not_finite(self.files)
        if name is not None:
            problem = f"{name} holds NaN or infinity"
            raise BadTensor(self.name, self.path.name, problem, "train or fetch it again")

    @property
    def sha256(self) -> str:
        """Hash of the weight file's bytes, or of the hashes of several; computed once a file.

        The name of a part that was asked for belongs to it.
        """
        with as_bad_file(self.name, self.path):
            digests = [hashes.sha256(at) for at in self.files]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256("".join(digests).encode()).hexdigest()


def _conversion(path: Path) -> str:
    """The remedy of a dtype mismatch: the command that converts a file to fp32."""
    return f"use what python -m mloss_core convert {path} NEW.safetensors --dtype fp32 writes"


def read_through(checkpoints: Iterable[Checkpoint]) -> None:
    """Hashes files and looks for NaN in them, several at a time and each while it is in memory, so
    that `sha256` and `check_finite` need not; what is wrong is left to these."""
    steps = dict.fromkeys(
        step
        for checkpoint in checkpoints
        for step in (
            *((hashes.sha256, at) for at in checkpoint.files),
            (_first_not_finite, checkpoint.files),
        )
    )

    def take(step: tuple[Callable[[Any], object], Any]) -> None:
        with contextlib.suppress(*formats.DAMAGE):
            step[0](step[1])

    for _ in thread_map(take, steps, torch.device("cpu")):
        pass


@functools.lru_cache(maxsize=256)
def _first_not_finite(files: tuple[formats.FileId, ...]) -> str | None:
    tensors = formats.contents(files).tensors
    return next((name for name, t in tensors.items() if not is_finite(t.fetch())), None)


def is_finite(tensor: Tensor) -> bool:
    """Whether a floating-point tensor holds neither NaN nor infinity."""
    return not tensor.numel() or all(math.isfinite(x) for x in tensor.aminmax())


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, object]) -> None:
    """Writes a safetensors file whole or not at all, with metadata as one sorted JSON value.

    Raises:
        BadFile: the path exists, its folder doesn't, or the disk is full.
    """
    with written(path) as aside:
        save_file(savable(tensors), aside, {KEY: json.dumps(metadata, sort_keys=True)})


def savable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors takes them: by name, contiguous, none in another's memory.

    Those that share memory are copied, so that tied ones are written by value. save_file orders
    tensors by dtype and name: the same tensors give the same bytes.
    """
    contiguous = {name: tensors[name].contiguous() for name in sorted(tensors)}
    end = 0
    for name, tensor in sorted(contiguous.items(), key=lambda item: item[1].data_ptr()):
        if tensor.data_ptr() < end:
            contiguous[name] = tensor.clone()
        end = max(end, tensor.data_ptr() + tensor.nbytes)
    return contiguous


@dataclass(frozen=True)
class Converted:
    """An image tower to be written by our names.

    Args:
        about: the metadata to save with it.
        said: what people are told of the file that it is from.
    """

    tensors: Mapping[str, Tensor]
    about: Mapping[str, object]
    said: tuple[str, ...]


def convert(path: Path, name: str, part: str = "") -> Converted:
    """The image tower of a checkpoint.

    Args:
        name: what messages call it.
        part: which model of several is meant.

    Raises:
        BadFile: it cannot be read.
        BadTensor: it is no image tower of a CLIP ViT, lacks a part, or holds NaN.
    """
    checkpoint = Checkpoint.open(path, name, part=part)
    checkpoint.check_tower()
    checkpoint.audit(tower_shapes(checkpoint.shapes))
    checkpoint.check_finite()
    about = {"converted": checkpoint.sha256, "dialect": checkpoint.dialect, "version": __version__}
    return Converted(checkpoint.read(checkpoint.shapes), about, checkpoint.said)
