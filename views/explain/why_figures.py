"""Plotly figures that explain one node, drawn from arrays. No streamlit, no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from views.shared.theme import ENSEMBLED, GAP, GUIDE, HUES, MERGED, written

BINS = 60
OUTER = 0.001  # share of the pre-activations beyond either end of the histograms
Curve = tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]  # x and sigma(x)


def span(h: Float[np.ndarray, "*n"], outer: float = OUTER) -> tuple[float, float]:
    """Where nearly all of the pre-activations are, and never nothing."""
    low, high = np.quantile(h, [outer, 1 - outer]).tolist()
    pad = max(0.05 * (high - low), 1e-3 * max(1.0, abs(low)))
    return low - pad, high + pad


def histograms(
    h: Float[np.ndarray, "q n"],
    names: Sequence[str],
    places: Sequence[int],
    curve: Curve,
    mean: float,
) -> go.Figure:
    """Each source's pre-activations of a node, over the activation's curve.

    Args:
        h: of every token.
        places: of the sources among the family's, for their colours.
        curve: of the activation, over the whole figure.
        mean: alpha . h, mean over the tokens.
    """
    low, high = span(h)
    edges = np.linspace(low, high, BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    figure.add_scatter(
        x=curve[0], y=curve[1], name="activation σ", mode="lines",
        line={"color": GUIDE, "width": 3},
        hovertemplate="σ(%{x:.3g}) = %{y:.3g}<extra></extra>", secondary_y=True,
    )  # fmt: skip
    for values, name, place in zip(h, names, places, strict=True):
        counts = np.histogram(values, edges)[0] / len(values)
        figure.add_scatter(
            x=middles, y=counts, name=name, mode="lines",
            line={"color": HUES[place % len(HUES)], "width": 2, "shape": "hvh"},
            hovertemplate=name + ": %{y:.1%} of the tokens near %{x:.3g}<extra></extra>",
        )  # fmt: skip
    figure.add_vline(x=mean, line={"color": GUIDE, "dash": "dash", "width": 1})
    figure.update_xaxes(title="pre-activation h", range=[low, high], zeroline=False)
    figure.update_yaxes(
        title="share of tokens", tickformat=".0%", rangemode="tozero", secondary_y=False
    )
    figure.update_yaxes(title="σ(h)", showgrid=False, zeroline=False, secondary_y=True)
    return _framed(figure, 420)


def gap(
    h: Float[np.ndarray, " q"],
    activated: Float[np.ndarray, " q"],
    names: Sequence[str],
    places: Sequence[int],
    curve: Curve,
    mean: tuple[float, float, float, float],
) -> go.Figure:
    """The gap at one place: above as it is, below with the tangent at the mean removed, which
    leaves of the curve only its bend, and of the ensemble only the gap.

    Args:
        curve: of the activation around these pre-activations.
        mean: alpha . h, sigma of it, alpha . sigma(h), and the slope of sigma there.
    """
    centre, merged, ensembled, slope = mean
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    words = [
        f"{n}: h = {x:.4g}, σ(h) = {y:.4g}" for n, x, y in zip(names, h, activated, strict=True)
    ]
    for row, level, tilt in ((1, 0.0, 0.0), (2, merged, slope)):
        x, y = curve
        _curve(figure, row, x, y - level - tilt * (x - centre))
        heights = activated - level - tilt * (h - centre)
        for i, (name, place) in enumerate(zip(names, places, strict=True)):
            marker = {"size": 10, "color": HUES[place % len(HUES)]}
            _mark(figure, row, (float(h[i]), float(heights[i])), name, words[i], marker)
        _both(figure, row, centre, (merged, ensembled), level)
    figure.update_xaxes(zeroline=False)
    figure.update_xaxes(title="pre-activation h", row=2, col=1)
    figure.update_yaxes(zeroline=False, title="σ(h)", row=1, col=1)
    figure.update_yaxes(
        zeroline=False, title="σ(h) minus tangent", exponentformat="power", row=2, col=1
    )
    return _framed(figure, 520)


def _curve(figure: go.Figure, row: int, x: np.ndarray, y: np.ndarray) -> None:
    figure.add_scatter(
        x=x, y=y, name="activation σ", mode="lines", line={"color": GUIDE, "width": 3},
        hoverinfo="skip", showlegend=row == 1, row=row, col=1,
    )  # fmt: skip


def _mark(
    figure: go.Figure, row: int, at: tuple[float, float], name: str, words: str, marker: dict
) -> None:
    figure.add_scatter(
        x=[at[0]], y=[at[1]], name=name, mode="markers", marker=marker,
        hovertemplate=words + "<extra></extra>", showlegend=row == 1, row=row, col=1,
    )  # fmt: skip


def _both(
    figure: go.Figure, row: int, centre: float, values: tuple[float, float], level: float
) -> None:
    """Both sides of the gap at the mean pre-activation, and the gap between them."""
    figure.add_scatter(
        x=[centre, centre], y=[value - level for value in values], name="gap", mode="lines",
        line={"color": GAP, "width": 5}, hoverinfo="skip", showlegend=row == 1, row=row, col=1,
    )  # fmt: skip
    for value, colour, shape, name in (
        (values[0], MERGED, "diamond", "merged: σ(mean h)"),
        (values[1], ENSEMBLED, "square", "ensemble: mean of σ(h)"),
    ):
        marker = {"size": 11, "color": colour, "symbol": shape}
        _mark(figure, row, (centre, value - level), name, f"{name} = {written(value)}", marker)


def _framed(figure: go.Figure, height: int) -> go.Figure:
    """The legend under the plot, where it covers nothing on a narrow screen either."""
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 60, "t": 40, "b": 50},
        hoverlabel={"align": "left"},
        legend={"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0},
    )
    return figure
