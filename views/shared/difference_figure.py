"""Plotly heatmap of the difference of two runs' M-Loss. No streamlit, no torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from views.shared.figures import framed_map, node_groups, spans
from views.shared.theme import diverging, written_alike

CLIP = 0.99  # share of cells within the ends of a difference's colours


def difference(
    first: Mapping[int, Float[np.ndarray, " nodes"]],
    second: Mapping[int, Float[np.ndarray, " nodes"]],
    blocks: int,
    size: int,
) -> go.Figure:
    """M-Loss of one run minus another's, by block and node group, where both measured it."""
    common = sorted(first.keys() & second.keys())
    table = np.full((blocks, len(first[common[0]])), np.nan)
    for block in common:
        table[block] = first[block].astype(float) - second[block]
    groups = node_groups(table, size)
    magnitudes = np.abs(groups[np.isfinite(groups)])
    end = float(np.quantile(magnitudes, CLIP)) or float(magnitudes.max()) or 1.0
    ticks = [-end, -end / 2, 0.0, end / 2, end]
    clipped = magnitudes.max() > end
    labels = written_alike(ticks)
    labels = [f"≤ {labels[0]}", *labels[1:-1], f"≥ {labels[-1]}"] if clipped else labels
    figure = go.Figure(
        go.Heatmap(
            z=groups,
            zmin=-end,
            zmax=end,
            colorscale=diverging(),
            colorbar={"title": {"text": "difference"}, "tickvals": ticks, "ticktext": labels},
            customdata=spans(groups.shape, size, table.shape[1]),
            hovertemplate="block %{y}, nodes %{customdata}<br>difference %{z:.3g}<extra></extra>",
            hoverongaps=False,
            xgap=1,
            ygap=1,
        )
    )
    return framed_map(figure, size, blocks)
