"""Plotly figures of the grid of experts. No streamlit, no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mloss_core import METHODS
from mloss_core.experiments.expert_grid import PREDICTORS, Point, by_task
from mloss_core.experiments.experts import BATCHES, MERGES
from mloss_core.text import three_digits_alike
from views.shared.theme import HUES, MAGNITUDES, framed

HEIGHT = 300  # pixels of a panel


def curves(grid: Sequence[Point], titles: Mapping[str, str]) -> go.Figure:
    """Merged accuracy over the steps by rate, with its interval; each expert alone, dashed.

    Args:
        titles: of the tasks, each a row of panels.
    """
    tasks, methods = by_task(grid), [METHODS[method].title for method in MERGES]
    names = [f"{titles[task]}: {method}" for task in tasks for method in methods]
    figure = make_subplots(
        rows=len(tasks), cols=len(MERGES), subplot_titles=names, shared_yaxes=True,
        shared_xaxes=True, vertical_spacing=0.12, horizontal_spacing=0.04,
    )  # fmt: skip
    colours = dict(zip(sorted({_row(point) for point in grid}), HUES, strict=False))
    for row, own in enumerate(tasks.values(), 1):
        for column, method in enumerate(MERGES, 1):
            for key, colour in colours.items():
                line = sorted((p for p in own if _row(p) == key), key=lambda p: p.steps)
                first = (row, column) == (1, 1)
                for trace in _lines(line, method, _rate(key), colour, first):
                    figure.add_trace(trace, row, column)
    figure.update_xaxes(type="log", tickvals=sorted({point.steps for point in grid}))
    figure.update_xaxes(title="steps", row=len(tasks))
    figure.update_yaxes(tickformat=".0%")
    figure.update_yaxes(title="accuracy", col=1)
    return framed(figure, HEIGHT * len(tasks) + 100, legend="below")


def _row(point: Point) -> tuple[float, int]:
    return point.rate, point.batch


def _rate(key: tuple[float, int]) -> str:
    """A row of the grid in words; the usual batch goes without saying."""
    rate, batch = key
    return f"rate {rate:g}" + f", batch {batch}" * (batch != BATCHES[0])


def _lines(
    line: Sequence[Point], method: str, name: str, colour: str, shown: bool
) -> tuple[go.Scatter, go.Scatter]:
    """One rate: the merge, mean over the tasks, and the expert alone on its task."""
    means = [point.mean(method) for point in line]
    steps = [point.steps for point in line]
    bars = {
        "type": "data", "symmetric": False, "thickness": 1,
        "array": [high - mean for mean, _, high in means],
        "arrayminus": [mean - low for mean, low, _ in means],
    }  # fmt: skip
    merged = go.Scatter(
        x=steps, y=[mean for mean, _, _ in means], error_y=bars, name=name, legendgroup=name,
        showlegend=shown, mode="lines+markers", line={"color": colour},
        hovertemplate="%{x} steps<br>merged, mean over the tasks %{y:.1%}",
    )  # fmt: skip
    alone = go.Scatter(
        x=steps, y=[point.own_accuracy.rate for point in line], name=f"{name}, alone",
        legendgroup=name, showlegend=shown, mode="lines", line={"color": colour, "dash": "dash"},
        hovertemplate="%{x} steps<br>alone, on its task %{y:.1%}",
    )  # fmt: skip
    return merged, alone


# Of one task, what is drawn over rate and steps: title, value, and whether it is a share.
Value = Callable[[Point], float]
MAPS: tuple[tuple[str, Value, bool], ...] = (
    ("accuracy alone", lambda point: point.own_accuracy.rate, True),
    *((METHODS[m].title, lambda point, m=m: point.mean(m)[0], True) for m in MERGES),
    (
        f"{METHODS[MERGES[-1]].title}, on its task",
        lambda point: float(point.merged[MERGES[-1]][point.task].mean()),
        True,
    ),
    *(
        (PREDICTORS[name][0], PREDICTORS[name][1], name == "conflict")
        for name in ("norm", "mloss", "conflict", "overlap")
    ),
)
COLUMNS = 4


def maps(grid: Sequence[Point]) -> go.Figure:
    """Accuracies and measures of one task's experts over rate and steps, each on its own scale."""
    keys, steps = sorted({_row(p) for p in grid}), sorted({p.steps for p in grid})
    rows = math.ceil(len(MAPS) / COLUMNS)
    figure = make_subplots(
        rows=rows, cols=COLUMNS, subplot_titles=[title for title, _, _ in MAPS],
        shared_yaxes=True, horizontal_spacing=0.03, vertical_spacing=0.16,
    )  # fmt: skip
    places = {(_row(point), point.steps): point for point in grid}
    for i, (title, value, share) in enumerate(MAPS):
        cells = [[places.get((key, step)) for step in steps] for key in keys]
        values = [[None if p is None else value(p) for p in line] for line in cells]
        measured = [v for line in values for v in line if v is not None]
        texts = iter([f"{v:.1%}" for v in measured] if share else three_digits_alike(measured))
        labels = [["" if v is None else next(texts) for v in line] for line in values]
        trace = go.Heatmap(
            z=values, x=[str(step) for step in steps], y=[_rate(key) for key in keys],
            text=labels, texttemplate="%{text}", colorscale=MAGNITUDES, showscale=False,
            xgap=1, ygap=1, hoverongaps=False,
            hovertemplate=f"%{{y}}, %{{x}} steps<br>{title} %{{text}}<extra></extra>",
        )  # fmt: skip
        figure.add_trace(trace, i // COLUMNS + 1, i % COLUMNS + 1)
    figure.update_xaxes(type="category")
    figure.update_xaxes(title="steps", row=rows)
    figure.update_yaxes(type="category")
    return framed(figure, HEIGHT * rows)
