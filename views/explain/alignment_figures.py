"""Plotly figures of the alignment of task vectors and their merge. No streamlit, no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from views.shared.figures import ROW
from views.shared.theme import GUIDE, HUES, MAGNITUDES, MERGED, framed

LIMIT = HUES[3]  # a line over bars
BY_CHANCE = 0.5  # of signs that have nothing to do with each other, half are opposite


def _blocks(figure: go.Figure, count: int, extra: int = 110) -> go.Figure:
    """Blocks upward, as on every map of the app."""
    rows = {"title": "block", "dtick": 1, "showgrid": False, "zeroline": False}
    figure.update_yaxes(**rows, range=[-0.5, count - 0.5])
    return framed(figure, ROW * count + extra)


def overlaps(
    shares: Float[np.ndarray, "blocks parts"],
    chances: Float[np.ndarray, "blocks parts"],
    parts: Sequence[str],
) -> go.Figure:
    """Overlap of leading singular subspaces, blocks by matrices; NaN is not drawn.

    Args:
        chances: what random subspaces of the same sizes give.
    """
    most = float(np.nanmax(shares)) if np.isfinite(shares).any() else 1.0
    heat = go.Heatmap(
        z=shares, x=list(parts), y=np.arange(len(shares)), zmin=0, zmax=most or 1.0,
        colorscale=MAGNITUDES, customdata=chances, xgap=1, ygap=1, hoverongaps=False,
        texttemplate="%{z:.2f}", colorbar={"title": {"text": "overlap"}, "thickness": 12},
        hovertemplate="block %{y}, %{x}<br>overlap %{z:.3f}<br>by chance %{customdata:.3f}"
        "<extra></extra>",
    )  # fmt: skip
    figure = go.Figure(heat)
    figure.update_xaxes(showgrid=False)
    return _blocks(figure, len(shares))


def kept(shares: Float[np.ndarray, "blocks q"], names: Sequence[str]) -> go.Figure:
    """How much of each source's own change a merge has, mean over a block's matrices."""
    finite = shares[np.isfinite(shares)]
    heat = go.Heatmap(
        z=shares, x=list(names), y=np.arange(len(shares)), zmin=min(0.0, *finite, 0.0),
        zmax=max(1.0, *finite, 1.0), colorscale=MAGNITUDES, xgap=1, ygap=1, hoverongaps=False,
        texttemplate="%{z:.2f}", colorbar={"title": {"text": "share"}, "thickness": 12},
        hovertemplate="block %{y}, %{x}<br>the merge has %{z:.3f} of its change<extra></extra>",
    )  # fmt: skip
    figure = go.Figure(heat)
    figure.update_xaxes(showgrid=False)
    return _blocks(figure, len(shares), 150)


def conflict(shares: Float[np.ndarray, " blocks"]) -> go.Figure:
    """Sign conflict of each block, as bars, with what chance gives."""
    figure = go.Figure(
        go.Bar(
            x=shares, y=np.arange(len(shares)), orientation="h", marker={"color": HUES[0]},
            hovertemplate="block %{y}<br>%{x:.1%} opposite signs<extra></extra>",
        )
    )  # fmt: skip
    line = {"color": LIMIT, "dash": "dash", "width": 2}
    note = {"text": "by chance", "showarrow": False, "yref": "paper", "y": 1.0, "yanchor": "bottom"}
    figure.add_vline(x=BY_CHANCE, line=line)
    figure.add_annotation(x=BY_CHANCE, **note)
    figure.update_xaxes(title="opposite signs", tickformat=".0%", range=[0, 0.6], nticks=4)
    return _blocks(figure, len(shares))


def counted(
    in_sum: Float[np.ndarray, " r"], in_merge: Float[np.ndarray, " r"] | None, sources: int
) -> go.Figure:
    """How often the sum, and the merge, count what the sources do along each direction."""
    figure = go.Figure()
    x = np.arange(1, len(in_sum) + 1)
    mode = "lines+markers" if len(x) <= 60 else "lines"
    for name, values, colour in (
        ("sum of the task vectors", in_sum, HUES[0]),
        ("merge", in_merge, MERGED),
    ):
        if values is not None:
            figure.add_scatter(
                x=x, y=values, name=name, mode=mode, line={"color": colour, "width": 2},
                hovertemplate=f"direction %{{x}}<br>{name}: %{{y:.3g}} times<extra></extra>",
            )  # fmt: skip
    for y, words in ((1, "once"), (sources, f"{sources} times: all alike")):
        line = {"color": GUIDE, "dash": "dash", "width": 1}
        figure.add_hline(y=y, line=line, annotation_text=words, annotation_position="top right")
    figure.update_xaxes(title="direction of the sum, from the largest on", rangemode="tozero")
    figure.update_yaxes(title="counted how often", zeroline=True)
    return framed(figure, 360, legend="below")
