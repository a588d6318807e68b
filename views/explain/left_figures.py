"""Plotly strip of what is left in each block, after plain averaging and after a merge."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from views.shared.figures import ROW
from views.shared.theme import GUIDE, MERGED, framed

AVERAGE = "simple average"
LEGEND = 50  # pixels


def sums(
    average: Float[np.ndarray, " blocks"], merge: Float[np.ndarray, " blocks"], name: str
) -> go.Figure:
    """Sum over each block's nodes: a mark each for plain averaging and the merge, and a line
    between them; NaN is not drawn.

    Args:
        name: of the merge.
    """
    blocks = len(average)
    figure = go.Figure()
    for block, (before, after) in enumerate(zip(average, merge, strict=True)):
        figure.add_scatter(
            x=[before, after], y=[block, block], mode="lines", hoverinfo="skip",
            line={"color": GUIDE, "width": 2}, showlegend=False,
        )  # fmt: skip
    for label, values, marker in (
        (AVERAGE, average, {"symbol": "circle-open", "color": GUIDE, "line": {"width": 2}}),
        (name, merge, {"symbol": "circle", "color": MERGED}),
    ):
        figure.add_scatter(
            x=values, y=np.arange(blocks), mode="markers", name=label, cliponaxis=False,
            marker={"size": 9, **marker},
            hovertemplate=f"block %{{y}}<br>{label}: %{{x:.3g}}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title="sum over the nodes", rangemode="tozero", nticks=4)
    figure.update_yaxes(title="block", dtick=1, range=[-0.5, blocks - 0.5], zeroline=False)
    # The legend stands under the axis, so that the rows stay in line with those of the maps.
    height = ROW * blocks + 110 + LEGEND
    framed(figure, height)
    place = {"orientation": "h", "x": 0, "yanchor": "top", "y": -72 / (ROW * blocks + 20)}
    return figure.update_layout(margin={"b": 50 + LEGEND}, legend=place, showlegend=True)
