"""Conversion of any dialect's image tower to open_clip's names, with an audit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .checkpoint import Checkpoint
from .dialects import tower_shapes
from .errors import BadTensor
from .version import __version__


def convert(path: Path, name: str) -> tuple[dict[str, Tensor], Mapping[str, object]]:
    """The tensors of a checkpoint by open_clip's names, and the metadata to save with them.

    Args:
        name: what messages call it.

    Raises:
        BadFile: it cannot be read.
        BadTensor: it is no image tower of a CLIP ViT, lacks a part, or holds NaN.
    """
    checkpoint = Checkpoint.open(path, name)
    if checkpoint.dialect == "plain":
        remedy = "give a whole CLIP ViT or its image tower"
        raise BadTensor(name, path.name, "holds no image tower by any dialect's names", remedy)
    checkpoint.audit(tower_shapes(checkpoint.shapes))
    checkpoint.check_finite()
    about = {"converted": checkpoint.sha256, "dialect": checkpoint.dialect, "version": __version__}
    return checkpoint.read(checkpoint.shapes), about
