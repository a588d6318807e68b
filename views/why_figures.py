"""Figures that explain one node: arrays in, plotly figures out. No streamlit, no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from .figures import HUES, written

CURVE = "#8c96a3"  # stands off white and near-black alike, and is no source's colour
MERGED, ENSEMBLED, GAP = "#e07b39", "#7a6fd0", "#d6336c"
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
        line={"color": CURVE, "width": 3},
        hovertemplate="σ(%{x:.3g}) = %{y:.3g}<extra></extra>", secondary_y=True,
    )  # fmt: skip
    for values, name, place in zip(h, names, places, strict=True):
        counts = np.histogram(values, edges)[0] / len(values)
        figure.add_scatter(
            x=middles, y=counts, name=name, mode="lines",
            line={"color": HUES[place % len(HUES)], "width": 2, "shape": "hvh"},
            hovertemplate=name + ": %{y:.1%} of the tokens near %{x:.3g}<extra></extra>",
        )  # fmt: skip
    figure.add_vline(x=mean, line={"color": CURVE, "dash": "dash", "width": 1})
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
    """The gap at one place: above as it is, below with the tangent at the mean taken away, which
    leaves of the curve only its bend, and of the ensemble only the gap.

    Args:
        curve: of the activation around these pre-activations.
        mean: alpha . h, sigma of it, alpha . sigma(h), and the slope of sigma there.
    """
    centre, merged, ensembled, slope = mean
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    for row, tilt in ((1, 0.0), (2, slope)):

        def above(x, y, row=row, tilt=tilt):
            return y if row == 1 else y - merged - tilt * (np.asarray(x) - centre)

        shown = {"showlegend": row == 1, "row": row, "col": 1}
        figure.add_scatter(
            x=curve[0], y=above(*curve), name="activation σ", mode="lines",
            line={"color": CURVE, "width": 3}, hoverinfo="skip", **shown,
        )  # fmt: skip
        for x, y, name, place in zip(h, activated, names, places, strict=True):
            figure.add_scatter(
                x=[x], y=[above(x, y)], name=name, mode="markers",
                marker={"size": 10, "color": HUES[place % len(HUES)]},
                hovertemplate=f"{name}: h = {x:.4g}, σ(h) = {y:.4g}<extra></extra>", **shown,
            )  # fmt: skip
        ends = [above(centre, merged), above(centre, ensembled)]
        figure.add_scatter(
            x=[centre, centre], y=ends, name="gap", mode="lines",
            line={"color": GAP, "width": 5}, hoverinfo="skip", **shown,
        )  # fmt: skip
        for y, value, colour, shape, name in (
            (ends[0], merged, MERGED, "diamond", "merged: σ(mean h)"),
            (ends[1], ensembled, ENSEMBLED, "square", "ensemble: mean of σ(h)"),
        ):
            marker = {"size": 11, "color": colour, "symbol": shape}
            figure.add_scatter(
                x=[centre], y=[y], name=name, mode="markers", marker=marker,
                hovertemplate=f"{name} = {written(value)}<extra></extra>", **shown,
            )  # fmt: skip
    figure.update_xaxes(zeroline=False)
    figure.update_xaxes(title="pre-activation h", row=2, col=1)
    figure.update_yaxes(zeroline=False, title="σ(h)", row=1, col=1)
    figure.update_yaxes(
        zeroline=False, title="σ(h) less tangent", exponentformat="power", row=2, col=1
    )
    return _framed(figure, 520)


def _framed(figure: go.Figure, height: int) -> go.Figure:
    """The legend under the plot, where it covers nothing on a narrow screen either."""
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 60, "t": 40, "b": 50},
        hoverlabel={"align": "left"},
        legend={"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0},
    )
    return figure
