"""Plotly figures of the Lab. No streamlit, no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from mloss_core.training.along import Collapse, MergedAt
from mloss_core.training.events import Looked, Stepped
from views.shared.figures import ROW
from views.shared.theme import CHOSEN, HUES, MAGNITUDES, MARKS, MERGED, faint, framed

OWN, LOSS = MARKS["own source"], HUES[5]
TICKS = 9  # steps named below a map, at most
HEIGHT = 360


def learning(steps: Sequence[Stepped], looks: Sequence[Looked]) -> go.Figure:
    """Loss of every step, and accuracy on held-out pictures with its interval."""
    figure = go.Figure()
    figure.add_scatter(
        x=[s.step for s in steps], y=[s.loss for s in steps], name="loss", mode="lines",
        line={"color": LOSS, "width": 1.5}, yaxis="y2",
        hovertemplate="step %{x}<br>loss %{y:.3f}<extra></extra>",
    )  # fmt: skip
    rates = [look.accuracy.rate for look in looks]
    ends = [look.accuracy.interval() for look in looks]
    _curve(figure, [look.step for look in looks], rates, ends, "held-out accuracy", OWN, "solid")
    figure.update_yaxes(title="accuracy", tickformat=".0%", range=[0, 1.02])
    return _beside(figure, "loss", "")


def distances(looks: Sequence[Looked]) -> go.Figure:
    """How far each block is from the base, by step."""
    table = np.array([look.distances for look in looks]).T
    return _by_step(table, [look.step for look in looks], "distance", "%{z:.4f} of its norm")


def conflict(points: Sequence[MergedAt]) -> go.Figure:
    """Mean M-Loss of each block of the merge with each checkpoint."""
    table = np.array([point.mloss[0] for point in points]).T
    return _by_step(table, [point.step for point in points], "M-Loss", "M-Loss %{z:.3g}")


def merging(points: Sequence[MergedAt], collapse: Collapse | None) -> go.Figure:
    """Own accuracy, merged accuracy and M-Loss against steps; the collapse where it is there."""
    figure, steps = go.Figure(), [point.step for point in points]
    own = [point.own_accuracy for point in points]
    merged = [point.merged_accuracy() for point in points]
    _curve(figure, steps, [a.rate for a in own], [a.interval() for a in own], "own", OWN, "dash")
    ends = [(low, high) for _, low, high in merged]
    _curve(figure, steps, [mean for mean, _, _ in merged], ends, "merged, mean", MERGED, "solid")
    figure.add_scatter(
        x=steps, y=[float(np.nanmean(point.mloss[0])) for point in points], name="M-Loss",
        mode="lines+markers", yaxis="y2", line={"color": LOSS, "width": 2, "dash": "dot"},
        hovertemplate="step %{x}<br>M-Loss %{y:.3g}<extra></extra>",
    )  # fmt: skip
    if collapse is not None and collapse.there:
        side = "right" if 2 * collapse.best < collapse.last else "left"  # where there is room
        figure.add_vline(
            x=collapse.best, line={"color": CHOSEN, "dash": "dash"},
            annotation_text="merges worse from here", annotation_position=f"top {side}",
        )  # fmt: skip
    figure.update_yaxes(title="accuracy", tickformat=".0%")
    return _beside(figure, "M-Loss", ".2g")


def _beside(figure: go.Figure, title: str, written: str) -> go.Figure:
    """The figure with a second axis at its right, whose ticks are its own."""
    figure.update_xaxes(title="step", rangemode="tozero")
    figure.update_layout(
        yaxis2={
            "title": {"text": title}, "overlaying": "y", "side": "right", "showgrid": False,
            "tickformat": written, "rangemode": "tozero", "tickmode": "auto", "nticks": 6,
            "zeroline": False,
        }
    )  # fmt: skip
    return framed(figure, HEIGHT, legend="below")


def _curve(
    figure: go.Figure,
    steps: Sequence[int],
    values: Sequence[float],
    ends: Sequence[tuple[float, float]],
    name: str,
    colour: str,
    dash: str,
) -> None:
    """A curve and the band of its 95 % intervals."""
    lows, highs = zip(*ends, strict=True)
    figure.add_scatter(
        x=[*steps, *steps[::-1]], y=[*highs, *lows[::-1]], fill="toself", mode="lines",
        fillcolor=faint(colour, 0.15), line={"width": 0}, hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    figure.add_scatter(
        x=list(steps), y=list(values), name=name, mode="lines+markers",
        line={"color": colour, "width": 2, "dash": dash}, customdata=list(ends),
        hovertemplate=f"step %{{x}}<br>{name} %{{y:.1%}} "
        "(%{customdata[0]:.1%} to %{customdata[1]:.1%})<extra></extra>",
    )  # fmt: skip


def _by_step(table: np.ndarray, steps: Sequence[int], what: str, words: str) -> go.Figure:
    """A map of blocks by steps."""
    heat = go.Heatmap(
        z=table, x=[str(step) for step in steps], y=np.arange(len(table)), colorscale=MAGNITUDES,
        xgap=1, ygap=1, hoverongaps=False,
        colorbar={"title": {"text": what}, "thickness": 12, "tickformat": ".2g"},
        hovertemplate=f"block %{{y}}, step %{{x}}<br>{words}<extra></extra>",
    )  # fmt: skip
    figure = go.Figure(heat)
    figure.update_xaxes(title="step", type="category", nticks=TICKS, tickangle=0, showgrid=False)
    figure.update_yaxes(title="block", dtick=1, showgrid=False, zeroline=False)
    return framed(figure, max(HEIGHT, ROW * len(table) + 110))
