"""Plotly figures of the Methods page. No streamlit, no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from mloss_core.experiments import Row
from mloss_core.types import Trained
from views.shared.theme import CHOSEN, HUES, MAGNITUDES, MARKS, framed

# By what a method needs: its symbol and colour.
NEEDS = {
    "nothing": ("circle", HUES[0]),
    "unlabeled images": ("diamond", HUES[6]),
    "training on unlabeled images": ("star", HUES[5]),
}
LEAST, MOST, USUAL = 8, 20, 12  # pixels of a mark: of the smallest memory, the largest, unknown
TICKS = [digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5)]  # seconds
NAMED = 8  # marks that can all carry their names
REFERENCES = {"Base": "base", "Own sources": "own source", "Ensembling": "ensemble"}


def frontier(rows: Sequence[Row], best: Row | None) -> go.Figure:
    """Mean accuracy over seconds of merging: a mark a method, lines for what it is beside."""
    figure = go.Figure()
    marks = [row for row in rows if is_merge(row) and row.seconds]
    low, high = _span([row.seconds or 1.0 for row in marks])
    for row in rows:
        if row.label in REFERENCES and not is_merge(row):
            _line(figure, REFERENCES[row.label], row.mean[0], low, high)
    ahead = pareto(marks)
    figure.add_scatter(
        x=[row.seconds for row in ahead], y=[row.mean[0] for row in ahead], mode="lines",
        name="frontier", line={"color": CHOSEN, "width": 2, "shape": "hv"}, hoverinfo="skip",
    )  # fmt: skip
    most = max((row.peak or 0 for row in marks), default=0)
    labelled = marks if len(marks) <= NAMED else ahead
    for needs in NEEDS:
        same = [row for row in marks if row.needs == needs]
        if same:
            figure.add_trace(_marks(needs, same, most, labelled))
    if best is not None and best in marks:
        size = _size(best, most) + 12
        figure.add_scatter(
            x=[best.seconds], y=[best.mean[0]], mode="markers", name="best that leaves one model",
            marker={"symbol": "circle-open", "size": size, "color": CHOSEN, "line": {"width": 3}},
            hoverinfo="skip",
        )  # fmt: skip
    ends = [math.log10(low), math.log10(high)]
    figure.update_xaxes(title="seconds of merging", type="log", range=ends, tickvals=TICKS)
    figure.update_yaxes(title="mean accuracy", tickformat=".0%")
    return framed(figure, 560, legend="below")


def is_merge(row: Row) -> bool:
    """Whether a row is a method that is compared, and no reference."""
    return row.recipe is not None and row.recipe.method != "ensembling"


def pareto(rows: Sequence[Row]) -> list[Row]:
    """Methods that leave one model, and that none as quick is better than, quickest first."""
    ahead: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.seconds or 0.0, -row.mean[0])):
        if row.one_model and (not ahead or row.mean[0] > ahead[-1].mean[0]):
            ahead.append(row)
    return ahead


def _span(seconds: Sequence[float]) -> tuple[float, float]:
    """The ends of the axis of seconds, with room for names on the right."""
    if not seconds:
        return 0.1, 10.0
    return min(seconds) / 1.6, max(seconds) * 2.5


def _line(figure: go.Figure, name: str, mean: float, low: float, high: float) -> None:
    """A reference: a line from end to end."""
    figure.add_scatter(
        x=[low, high], y=[mean, mean], mode="lines", name=f"{name} {mean:.1%}",
        line={"color": MARKS[name], "width": 2, "dash": "dash"},
        hovertemplate=f"{name}<br>mean accuracy %{{y:.2%}}<extra></extra>",
    )  # fmt: skip


def _size(row: Row, most: int) -> float:
    """Pixels of a mark: its area grows with the memory."""
    if not row.peak or not most:
        return USUAL
    return LEAST + (MOST - LEAST) * math.sqrt(row.peak / most)


def _marks(needs: str, rows: Sequence[Row], most: int, labelled: Sequence[Row]) -> go.Scatter:
    """The methods that need the same; open where more than one model comes out."""
    symbol, colour = NEEDS[needs]
    more, less = np.array(
        [(row.mean[2] - row.mean[0], row.mean[0] - row.mean[1]) for row in rows]
    ).T
    return go.Scatter(
        x=[row.seconds for row in rows], y=[row.mean[0] for row in rows],
        text=[f" {row.label}" if row in labelled else "" for row in rows],
        customdata=[(row.label, _memory(row)) for row in rows],
        mode="markers+text", textposition="bottom right", cliponaxis=False,
        name=f"needs {needs}",
        marker={
            "symbol": [symbol if row.one_model else f"{symbol}-open" for row in rows],
            "size": [_size(row, most) for row in rows], "color": colour,
        },
        error_y={"type": "data", "symmetric": False, "array": more, "arrayminus": less,
                 "thickness": 1},
        hovertemplate="%{customdata[0]}<br>mean accuracy %{y:.2%}<br>%{x:.3g} s"
        "%{customdata[1]}<extra></extra>",
    )  # fmt: skip


def _memory(row: Row) -> str:
    return f"<br>{row.peak / 1e6:.0f} MB at the peak" if row.peak else ""


def curve(steps: Sequence[Trained]) -> go.Figure:
    """The loss over the steps of a training."""
    losses = [event for event in steps if event.loss is not None]
    figure = go.Figure(
        go.Scatter(
            x=[event.step for event in losses], y=[event.loss for event in losses],
            mode="lines", line={"color": HUES[0]},
            hovertemplate="step %{x}<br>loss %{y:.4g}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title="step", range=[0, steps[-1].steps])
    figure.update_yaxes(title="loss, summed over the tasks")
    return framed(figure, 320)


def coefficients(values: Float[np.ndarray, "sources blocks"], names: Sequence[str]) -> go.Figure:
    """Mean coefficient of each source in each block."""
    figure = go.Figure(
        go.Heatmap(
            z=values, x=list(range(values.shape[1])), y=list(names), colorscale=MAGNITUDES,
            xgap=1, ygap=1, colorbar={"title": {"text": "coefficient"}},
            hovertemplate="%{y}, block %{x}<br>coefficient %{z:.3f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title="block", dtick=1, showgrid=False, zeroline=False)
    figure.update_yaxes(autorange="reversed", showgrid=False, zeroline=False)
    return framed(figure, 320)
