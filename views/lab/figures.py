"""Plotly figures of the Lab. No streamlit, no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from mloss_core.training.along import Collapse, MergedAt
from mloss_core.training.events import Looked, Stepped
from views.shared.figures import ROW
from views.shared.theme import CHOSEN, HUES, MAGNITUDES, MERGED, framed

OWN, LOSS = HUES[0], HUES[5]


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
    _curve(
        figure, [look.step for look in looks], rates, ends, "held-out accuracy (95 %)", OWN, "solid"
    )
    figure.update_xaxes(title="step", rangemode="tozero")
    figure.update_yaxes(title="accuracy", tickformat=".0%", range=[0, 1.02])
    right = {"title": {"text": "loss"}, "overlaying": "y", "side": "right", "showgrid": False}
    figure.update_layout(yaxis2=right | {"tickformat": None, "range": None, "rangemode": "tozero"})
    return framed(figure, 340, legend="below")


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
        figure.add_vline(
            x=collapse.best, line={"color": CHOSEN, "dash": "dash"},
            annotation_text="merges worse from here", annotation_position="top left",
        )  # fmt: skip
    figure.update_xaxes(title="step", rangemode="tozero")
    figure.update_yaxes(title="accuracy", tickformat=".0%")
    right = {"title": {"text": "M-Loss"}, "overlaying": "y", "side": "right", "showgrid": False}
    figure.update_layout(yaxis2=right | {"tickformat": ".2g", "rangemode": "tozero"})
    return framed(figure, 380, legend="below")


def _curve(
    figure: go.Figure,
    steps: Sequence[int],
    values: Sequence[float],
    ends: Sequence[tuple[float, float]],
    name: str,
    colour: str,
    dash: str,
) -> None:
    """A curve with its intervals as bars."""
    figure.add_scatter(
        x=list(steps), y=list(values), name=name, mode="lines+markers",
        line={"color": colour, "width": 2, "dash": dash},
        error_y={
            "type": "data", "symmetric": False, "thickness": 1, "width": 3,
            "array": [high - v for v, (_, high) in zip(values, ends, strict=True)],
            "arrayminus": [v - low for v, (low, _) in zip(values, ends, strict=True)],
        },
        hovertemplate=f"step %{{x}}<br>{name} %{{y:.1%}}<extra></extra>",
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
    figure.update_xaxes(title="step", type="category", showgrid=False)
    figure.update_yaxes(title="block", dtick=1, showgrid=False, zeroline=False)
    return framed(figure, ROW * len(table) + 110)
