"""Hierarchical clustering of sources by a matrix of distances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """A dendrogram of average linkage, with leaves ordered so that neighbours are near.

    Args:
        order: places of the sources, as they should stand side by side.
        across: of each joint the four x of its bracket; leaves stand at 0, 1, 2, ...
        heights: of each joint the four heights of its bracket.
    """

    order: tuple[int, ...]
    across: Float[np.ndarray, "joints 4"]
    heights: Float[np.ndarray, "joints 4"]


def clusters(distances: Float[np.ndarray, "q q"]) -> Clusters:
    """Clusters of two or more sources; the matrix is symmetric with zeros on its diagonal."""
    tree = linkage(squareform(distances, checks=False), "average", optimal_ordering=True)
    drawn = dendrogram(tree, no_plot=True)
    return Clusters(
        order=tuple(int(i) for i in drawn["leaves"]),
        across=(np.array(drawn["icoord"], dtype=float) - 5) / 10,  # scipy's leaves: 5, 15, 25, ...
        heights=np.array(drawn["dcoord"], dtype=float),
    )
