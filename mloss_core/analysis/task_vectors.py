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
        relative_norms: norm of each task vector over the norm of the base.
        cosines: cosine similarity of each pair of task vectors.
    """

    relative_norms: Float[np.ndarray, " q"]
    cosines: Float[np.ndarray, "q q"]


def geometry(family: Family, sources: Sequence[str]) -> Geometry:
    """Norms and cosines of the sources' task vectors over all tensors, in float64."""
    base, files = family.base(), [family.source(name) for name in sources]
    gram = torch.zeros(len(sources), len(sources), dtype=torch.float64)
    square = 0.0
    for name in base.shapes:
        origin = base.read([name])[name].double().flatten()
        vectors = torch.stack([f.read([name])[name].double().flatten() for f in files]) - origin
        gram += vectors @ vectors.T
        square += float(origin @ origin)
    norms = gram.diagonal().sqrt()
    cosines = gram / torch.outer(norms, norms).clamp_min(torch.finfo(torch.float64).tiny)
    return Geometry(
        relative_norms=(norms / max(square, 1e-300) ** 0.5).numpy(), cosines=cosines.numpy()
    )
