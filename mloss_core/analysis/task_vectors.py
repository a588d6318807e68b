"""Norms and cosines of a family's task vectors, computed before merging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from ..families.family import Family


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Norms and angles of task vectors.

    Args:
        norms: Euclidean norm of each task vector.
        relative_norms: the same over the norm of the base.
        block_norms: of the part in each block.
        cosines: cosine similarity of each pair of task vectors.
    """

    norms: Float[np.ndarray, " q"]
    relative_norms: Float[np.ndarray, " q"]
    block_norms: Float[np.ndarray, "blocks q"]
    cosines: Float[np.ndarray, "q q"]


def geometry(family: Family, sources: Sequence[str]) -> Geometry:
    """Norms and cosines of the sources' task vectors over all tensors, in float64."""
    base, files, model = family.base(), [family.source(name) for name in sources], family.model
    block_of = {name: b for b in range(model.blocks) for name in model.block_names(b)}
    gram = torch.zeros(len(sources), len(sources), dtype=torch.float64)
    squares = torch.zeros(model.blocks, len(sources), dtype=torch.float64)
    square = 0.0
    for name in base.shapes:
        origin = base.read([name])[name].double().flatten()
        vectors = torch.stack([f.read([name])[name].double().flatten() for f in files]) - origin
        own = vectors @ vectors.T
        gram += own
        if name in block_of:
            squares[block_of[name]] += own.diagonal()
        square += float(origin @ origin)
    norms = gram.diagonal().sqrt()
    cosines = gram / torch.outer(norms, norms).clamp_min(torch.finfo(torch.float64).tiny)
    return Geometry(
        norms=norms.numpy(),
        relative_norms=(norms / max(square, 1e-300) ** 0.5).numpy(),
        block_norms=squares.sqrt().numpy(),
        cosines=cosines.numpy(),
    )
