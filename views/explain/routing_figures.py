"""Plotly figures of which source each token goes to. No streamlit, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.subplots import make_subplots

from views.explain.alignment_figures import LIMIT
from views.shared.figures import ROW
from views.shared.theme import HUES, MAGNITUDES, framed


def shares(
    table: Float[np.ndarray, "tasks q"], tasks: Sequence[str], sources: Sequence[str]
) -> go.Figure:
    """Share of each task's tokens that go to each source."""
    heat = go.Heatmap(
        z=table, x=list(sources), y=list(tasks), zmin=0, zmax=1, colorscale=MAGNITUDES, xgap=1,
        ygap=1, texttemplate="%{z:.0%}", colorbar={"tickformat": ".0%", "thickness": 12},
        hovertemplate="images of %{y}<br>%{z:.1%} of the tokens go to %{x}<extra></extra>",
    )  # fmt: skip
    figure = go.Figure(heat)
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return framed(figure, 30 * len(tasks) + 150)


def own(blocks: Float[np.ndarray, " blocks"], chance: float) -> go.Figure:
    """Share of tokens that go to their task's own source, by block; NaN is not drawn.

    Args:
        chance: what it would be if tokens went anywhere.
    """
    figure = go.Figure(
        go.Bar(
            x=blocks, y=np.arange(len(blocks)), orientation="h", marker={"color": HUES[0]},
            hovertemplate="block %{y}<br>%{x:.1%} go to the own source<extra></extra>",
        )
    )  # fmt: skip
    figure.add_vline(x=chance, line={"color": LIMIT, "dash": "dash", "width": 2})
    figure.add_annotation(
        x=chance, text="by chance", showarrow=False, yref="paper", y=1.0, yanchor="bottom"
    )
    figure.update_xaxes(title="to the own source", tickformat=".0%", range=[0, 1], nticks=5)
    rows = {"title": "block", "dtick": 1, "showgrid": False, "zeroline": False}
    figure.update_yaxes(**rows, range=[-0.5, len(blocks) - 0.5])
    return framed(figure, ROW * len(blocks) + 110)


def patches(
    grids: Mapping[str, Int[np.ndarray, "h w"]], names: Sequence[str], places: Sequence[int]
) -> go.Figure:
    """Each layer's patches of one picture, coloured by the source that each goes to.

    Args:
        grids: by the layer's name.
        places: of the sources among the family's, for their colours.
    """
    columns = 2 if len(grids) > 1 else 1
    figure = make_subplots(
        rows=columns, cols=columns, horizontal_spacing=0.03, vertical_spacing=0.12
    )
    hues = [HUES[place % len(HUES)] for place in places]
    for i, (layer, grid) in enumerate(grids.items()):
        heat = go.Heatmap(
            z=grid, zmin=-0.5, zmax=len(names) - 0.5, colorscale=steps(hues), showscale=False,
            xgap=1, ygap=1, customdata=np.array(names, dtype=object)[grid],
            hovertemplate=layer + "<br>row %{y}, column %{x}<br>goes to %{customdata}"
            "<extra></extra>",
        )  # fmt: skip
        row, column = divmod(i, columns)
        figure.add_trace(heat, row=row + 1, col=column + 1)
        inner = "center" if columns == 1 else ("left" if column else "right")
        across = {"title": {"text": layer, "standoff": 4}, "constraintoward": inner}
        figure.update_xaxes(**across, constrain="domain", row=row + 1, col=column + 1)
        axis = f"x{i + 1}" if i else "x"
        figure.update_yaxes(scaleanchor=axis, constrain="domain", row=row + 1, col=column + 1)
    for name, hue in zip(names, hues, strict=True):
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=name, hoverinfo="skip",
            marker={"symbol": "square", "size": 11, "color": hue},
        )  # fmt: skip
    hidden = {"showgrid": False, "zeroline": False, "showticklabels": False, "ticks": ""}
    figure.update_xaxes(**hidden)
    figure.update_yaxes(**hidden, autorange="reversed")
    return framed(figure, 520 if columns == 2 else 400, legend="below")


def steps(hues: Sequence[str]) -> list[tuple[float, str]]:
    """A scale of plain colours, each as wide as the others."""
    edges = np.linspace(0, 1, len(hues) + 1).tolist()
    return [(at, hue) for i, hue in enumerate(hues) for at in (edges[i], edges[i + 1])]
