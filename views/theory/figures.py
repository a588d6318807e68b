"""Plotly figures of the Theory page, drawn from arrays. No streamlit, no torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from views.shared.theme import GUIDE, HUES, faint, framed

EXACT, PRINTED, SIMULATED = HUES[0], HUES[1], HUES[8]
MOST_DOTS = 1500
Values = Float[np.ndarray, " n"]


def over_shift(
    shifts: Values,
    exact: Values,
    band: tuple[Values, Values],
    lines: Mapping[str, Values],
    here: tuple[float, float],
) -> go.Figure:
    """Expected M-Loss over the sources' shift s, in multiples of ReLU's formula: over the seven
    decades that it runs through itself, all estimates would lie on one line.

    Args:
        band: ends of the Monte Carlo's 95 % interval.
        lines: other estimates by name; the paper's is told by the word "paper".
        here: the chosen s, and the exact value there.
    """
    figure = go.Figure()
    low, high = band
    hidden = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_scatter(x=shifts, y=low, showlegend=False, **hidden)
    shade = {"fill": "tonexty", "fillcolor": faint(SIMULATED, 0.35)}
    figure.add_scatter(x=shifts, y=high, name="Monte Carlo, 95 % band", **shade, **hidden)
    dashes = iter(("dash", "dashdot"))
    for name, values in lines.items():
        from_paper = "paper" in name
        line = {
            "color": PRINTED if from_paper else GUIDE,
            "dash": "dot" if from_paper else next(dashes),
            "width": 2,
        }
        _curve(figure, shifts, values, name, line)
    _curve(figure, shifts, exact, "exact", {"color": EXACT, "width": 3})
    figure.add_scatter(
        x=[here[0]],
        y=[here[1]],
        name="chosen s",
        mode="markers",
        marker={"size": 12, "color": EXACT, "symbol": "diamond"},
        hovertemplate="chosen s = %{x:.3g}<br>%{y:.4f}<extra></extra>",
    )
    figure.update_xaxes(title="shift s of the sources (log)", type="log", exponentformat="power")
    figure.update_xaxes(dtick=1)
    figure.update_yaxes(title="expected M-Loss ÷ (q−1)s²/(4qK)", rangemode="tozero")
    return framed(figure, 420, legend="below")


def _curve(figure: go.Figure, x: Values, y: Values, name: str, line: dict) -> None:
    hover = name + "<br>s = %{x:.3g}: %{y:.4f}<extra></extra>"
    figure.add_scatter(x=x, y=y, name=name, mode="lines", line=line, hovertemplate=hover)


def blocks_beside(predicted: Mapping[str, Values], measured: Values) -> go.Figure:
    """Mean M-Loss of each block, measured and as each theory predicts it."""
    figure = go.Figure()
    rows = np.arange(len(measured))
    styles = zip(("square", "diamond"), (PRINTED, SIMULATED), strict=True)
    figure.add_scatter(
        x=rows, y=measured, name="measured", mode="lines+markers",
        line={"color": EXACT, "width": 3}, marker={"size": 8},
        hovertemplate="block %{x}<br>measured %{y:.3g}<extra></extra>",
    )  # fmt: skip
    for (name, values), (symbol, colour) in zip(predicted.items(), styles, strict=False):
        figure.add_scatter(
            x=rows, y=values, name=name, mode="lines+markers",
            line={"color": colour, "width": 2, "dash": "dot"},
            marker={"size": 8, "symbol": symbol},
            hovertemplate="block %{x}<br>" + name + " %{y:.3g}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title="block", dtick=1 if len(rows) <= 12 else 2, zeroline=False)
    figure.update_yaxes(title="mean M-Loss", rangemode="tozero", exponentformat="power")
    return framed(figure, 380, legend="below")


def nodes_beside(predicted: Values, measured: Values) -> go.Figure:
    """Measured over predicted M-Loss, a dot per node (at most MOST_DOTS, evenly chosen), log axes,
    with the line on which both are equal."""
    some = np.linspace(0, len(measured) - 1, min(len(measured), MOST_DOTS)).astype(int)
    x, y = predicted[some], measured[some]
    positive = (x > 0) & (y > 0)
    figure = go.Figure(
        go.Scatter(
            x=x[positive],
            y=y[positive],
            name="nodes",
            mode="markers",
            marker={"size": 4, "color": EXACT, "opacity": 0.45},
            hovertemplate="predicted %{x:.3g}<br>measured %{y:.3g}<extra></extra>",
        )
    )
    if positive.any():
        ends = [
            min(x[positive].min(), y[positive].min()),
            max(x[positive].max(), y[positive].max()),
        ]
        figure.add_scatter(
            x=ends, y=ends, name="equal", mode="lines", line={"color": GUIDE, "dash": "dash"},
            hoverinfo="skip",
        )  # fmt: skip
    power = {"type": "log", "exponentformat": "power", "dtick": 1}
    figure.update_xaxes(title="predicted M-Loss of the node (log)", **power)
    figure.update_yaxes(title="measured M-Loss (log)", **power)
    return framed(figure, 400, legend="below")
