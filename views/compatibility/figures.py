"""Plotly figures of the Compatibility page, drawn from arrays. No streamlit, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from views.shared.theme import GUIDE, HUES, MAGNITUDES, MARKS, diverging, framed, written

SHAPES = {2: ("pairs", "circle"), 3: ("triples", "diamond")}
Clustered = tuple[Float[np.ndarray, "joints 4"], Float[np.ndarray, "joints 4"]]  # across, heights


def matrix(
    values: Float[np.ndarray, "q q"],
    names: Sequence[str],
    what: str,
    limits: tuple[float, float],
    tree: Clustered | None = None,
) -> go.Figure:
    """A value of each pair, the diagonal left out, with its tree of clusters above it.

    Args:
        what: the value's name, for the hover text.
        limits: values of the darkest and the brightest colour.
        tree: brackets over the columns, in the order of the names.
    """
    q = len(names)
    share = 0.16 if tree else 0.001
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.01, row_heights=[share, 1 - share]
    )
    for xs, ys in zip(*tree, strict=True) if tree else ():
        line = {"color": GUIDE, "width": 1.5}
        figure.add_scatter(
            x=xs, y=ys, mode="lines", line=line, hoverinfo="skip", showlegend=False, row=1, col=1
        )
    shown = np.where(np.eye(q, dtype=bool), np.nan, values)
    rounded = np.round(shown, 2) + 0.0  # no -0.00
    text = [
        [f"{v:.2f}" if np.isfinite(v) and max(limits) >= 0.1 else "" for v in r] for r in rounded
    ]
    both = [[f"{a} and {b}" for b in names] for a in names]
    heat = go.Heatmap(
        z=shown, zmin=limits[0], zmax=limits[1], colorscale=MAGNITUDES, customdata=both,
        text=text, texttemplate="%{text}" if q <= 12 else None, hoverongaps=False, xgap=1, ygap=1,
        hovertemplate="%{customdata}<br>" + what + " %{z:.3g}<extra></extra>",
        colorbar={"orientation": "h", "y": -0.02, "yanchor": "top", "thickness": 8, "nticks": 4,
                  "ticklabelposition": "outside bottom"},
    )  # fmt: skip
    figure.add_trace(heat, row=2, col=1)
    places = {"tickvals": list(range(q)), "ticktext": list(names), "showgrid": False}
    figure.update_xaxes(**places, zeroline=False, showticklabels=False, range=[-0.5, q - 0.5])
    figure.update_yaxes(visible=False, row=1, col=1)
    figure.update_yaxes(**places, zeroline=False, range=[q - 0.5, -0.5], row=2, col=1)
    return framed(figure, 26 * q + 150)


def left_out(
    gains: Float[np.ndarray, "q blocks"], names: Sequence[str], blocks: Sequence[int]
) -> go.Figure:
    """By how much each block's M-Loss falls without each source, on a diverging scale."""
    most = float(np.abs(gains).max(initial=1e-9))
    figure = go.Figure(
        go.Heatmap(
            z=gains, x=list(blocks), y=list(names), zmin=-most, zmax=most,
            colorscale=diverging(reverse=True), xgap=1, ygap=1,
            colorbar={"tickformat": ".0%", "thickness": 12},
            hovertemplate="without %{y}, block %{x}<br>M-Loss falls by %{z:.1%}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title="block", dtick=1, showgrid=False, zeroline=False)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return framed(figure, 26 * len(names) + 110)


def gains(
    estimates: Float[np.ndarray, "3 q"],
    names: Sequence[str],
    tasks: Sequence[int],
    alike: Float[np.ndarray, " q"],
) -> go.Figure:
    """By how much the total falls without each source, with 95 % intervals.

    Args:
        tasks: place of each source's task among the family's, for its colour.
        alike: what each source would give if all were alike: a dashed line.
    """
    mean, low, high = estimates
    figure = go.Figure()
    for i, name in enumerate(names):
        error = {"array": [high[i] - mean[i]], "arrayminus": [mean[i] - low[i]]}
        figure.add_scatter(
            x=[mean[i]], y=[name], mode="markers", showlegend=False,
            marker={"size": 10, "color": HUES[tasks[i] % len(HUES)]},
            error_x={"type": "data", "symmetric": False, **error},
            hovertemplate="without %{y}<br>falls by %{x:.1%}<extra></extra>",
        )  # fmt: skip
    for i, gain in enumerate(alike):
        if np.isfinite(gain):
            line = {"dash": "dash", "color": GUIDE}
            figure.add_shape(type="line", x0=gain, x1=gain, y0=i - 0.5, y1=i + 0.5, line=line)
    figure.add_vline(x=0, line={"color": GUIDE, "width": 1})
    figure.update_xaxes(title="total M-Loss falls by", tickformat=".0%", zeroline=False, nticks=6)
    figure.update_yaxes(autorange="reversed")
    return framed(figure, 26 * len(names) + 110)


def drops(
    x: Float[np.ndarray, " n"],
    drop: Float[np.ndarray, "3 n"],
    sets: Sequence[Sequence[str]],
    what: str,
) -> go.Figure:
    """What every set lost over what was known of it before, with 95 % intervals."""
    figure = go.Figure()
    for colour, (size, (label, shape)) in zip(HUES, SHAPES.items(), strict=False):
        rows = [i for i, members in enumerate(sets) if len(members) == size]
        if not rows:
            continue
        mean, low, high = drop[:, rows]
        figure.add_scatter(
            x=x[rows], y=mean, name=label, mode="markers",
            text=[", ".join(sets[i]) for i in rows],
            marker={"size": 9, "symbol": shape, "color": colour},
            error_y={"type": "data", "symmetric": False, "array": high - mean,
                     "arrayminus": mean - low, "thickness": 1, "width": 0},
            hovertemplate="%{text}<br>" + what + " %{x:.3g}<br>lost %{y:.1f} points<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title=what, nticks=6, exponentformat="power", zeroline=False)
    figure.update_yaxes(title="accuracy lost (points)", zeroline=True)
    return framed(figure, 400, legend="above")


def correlations(
    rows: Mapping[str, Mapping[str, tuple[float, tuple[float, float]]]],
) -> go.Figure:
    """Rank correlations with intervals: predictor -> sets -> value and interval."""
    figure = go.Figure()
    kinds = list(dict.fromkeys(kind for row in rows.values() for kind in row))
    lift = np.linspace(0.16, -0.16, len(kinds)) if len(kinds) > 1 else np.zeros(1)
    shapes = {label: shape for label, shape in SHAPES.values()}
    for colour, up, kind in zip(HUES, lift, kinds, strict=False):
        points = [(i, row[kind]) for i, row in enumerate(rows.values()) if kind in row]
        rho = np.array([value for _, (value, _) in points])
        low, high = np.array([ends for _, (_, ends) in points]).T
        figure.add_scatter(
            x=rho, y=[i - up for i, _ in points], name=kind, mode="markers",
            marker={"size": 9, "color": colour, "symbol": shapes.get(kind, "circle")},
            error_x={"type": "data", "symmetric": False, "array": high - rho,
                     "arrayminus": rho - low},
            text=[f"{written(a)} to {written(b)}" for a, b in zip(low, high, strict=True)],
            hovertemplate=kind + " %{x:.2f}<br>95 % interval %{text}<extra></extra>",
        )  # fmt: skip
    figure.add_vline(x=0, line={"color": GUIDE, "width": 1})
    figure.update_xaxes(title="rank correlation", range=[-1.05, 1.05], zeroline=False)
    many = len(rows)
    places = {"tickvals": list(range(many)), "ticktext": list(rows)}
    figure.update_yaxes(**places, range=[many - 0.5, -0.5], showgrid=False, zeroline=False)
    return framed(figure, 44 * many + 120, legend="above")


def ensemble_gap(
    rows: Mapping[str, tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]],
) -> go.Figure:
    """Distance to the ensemble by task: M-TIES' and TIES' means with 95 % intervals."""
    figure = go.Figure()
    for place, name, colour in ((0, "M-TIES", HUES[0]), (1, "TIES, same k", MARKS["TIES, same k"])):
        mean, low, high = np.array([both[place] for both in rows.values()]).T
        figure.add_bar(
            x=list(rows), y=mean, name=name, marker={"color": colour},
            error_y={"type": "data", "symmetric": False, "array": high - mean,
                     "arrayminus": mean - low},
            hovertemplate=name + "<br>%{x}: %{y:.4f}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(barmode="group")
    figure.update_yaxes(title="distance to the ensemble")
    return framed(figure, 360, legend="above")
