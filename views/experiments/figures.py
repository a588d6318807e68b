"""Plotly figures of the Experiments page, drawn from result rows. No streamlit, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mloss_core.experiments import Row
from views.shared.theme import HUES, MAGNITUDES, MARKS, framed

LINE = 24  # pixels a row of a list


def _interval(row: Row) -> tuple[float, float, float]:
    mean, low, high = row.mean
    return mean, high - mean, mean - low


def _error(rows: Sequence[Row]) -> dict:
    more, less = np.array([_interval(row)[1:] for row in rows]).T
    return {"type": "data", "symmetric": False, "array": more, "arrayminus": less, "thickness": 1}


def means(rows: Sequence[Row]) -> go.Figure:
    """Mean accuracy of each row with its 95 % interval, in the table's order."""
    names = [row.label for row in rows]
    figure = go.Figure(
        go.Scatter(
            x=[row.mean[0] for row in rows], y=names, mode="markers", error_x=_error(rows),
            marker={"size": 9, "color": HUES[0]},
            hovertemplate="%{y}<br>mean accuracy %{x:.2%}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title="mean accuracy", tickformat=".0%")
    figure.update_yaxes(autorange="reversed", automargin=True)
    return framed(figure, LINE * len(rows) + 100)


def grid(rows: Sequence[Row]) -> go.Figure:
    """Mean accuracy over k and e, of M-TIES and of rows trimmed alike; TIES stands where e is 0."""
    ties = {_place(r): r for r in rows if r.recipe and r.recipe.method == "ties"}
    sides = {"M-TIES": {**ties, **_of_ranks(rows, "m-loss")}}
    if alike := _of_ranks(rows, "equal"):
        sides["Rows trimmed alike"] = {**ties, **alike}
    means = [row.mean[0] for side in sides.values() for row in side.values()]
    figure = make_subplots(cols=len(sides), subplot_titles=list(sides), shared_yaxes=True)
    for column, cells in enumerate(sides.values(), 1):
        figure.add_trace(_heatmap(cells, min(means), max(means), column == len(sides)), 1, column)
    figure.update_xaxes(title="pruning variation e", type="category")
    figure.update_yaxes(type="category")
    figure.update_yaxes(title="base keep rate k", col=1)
    return framed(figure, 380)


def _place(row: Row) -> tuple[float, float]:
    """Where a row stands on the grid: k, and e as far as its method reads it."""
    assert row.recipe is not None
    return row.recipe.keep, row.recipe.variation if row.recipe.method != "ties" else 0.0


def _of_ranks(rows: Sequence[Row], ranks: str) -> dict[tuple[float, float], Row]:
    """Rows of M-TIES whose keep rates follow from these ranks, by k and e."""
    wanted = ("m-ties", ranks)
    return {_place(r): r for r in rows if r.recipe and (r.recipe.method, r.recipe.ranks) == wanted}


def _heatmap(
    cells: Mapping[tuple[float, float], Row], low: float, high: float, scale: bool
) -> go.Heatmap:
    """Means over k and e, on colours that run from low to high."""
    keeps, variations = (sorted({key[i] for key in cells}) for i in (0, 1))
    z = [[cells[k, e].mean[0] if (k, e) in cells else None for e in variations] for k in keeps]
    return go.Heatmap(
        z=z, x=[f"{e:g}" if e else "0 (TIES)" for e in variations], y=[f"{k:g}" for k in keeps],
        zmin=low, zmax=high, colorscale=MAGNITUDES, texttemplate="%{z:.1%}", showscale=scale,
        hovertemplate="k = %{y}, e = %{x}<br>mean accuracy %{z:.2%}<extra></extra>",
        hoverongaps=False, xgap=1, ygap=1, colorbar={"tickformat": ".1%"},
    )  # fmt: skip


def samples(rows: Sequence[Row]) -> go.Figure:
    """Mean accuracy over the number of calibration images, a line a seed."""
    figure = go.Figure()
    recipes = [row.recipe for row in rows if row.recipe]
    for i, seed in enumerate(dict.fromkeys(recipe.seed for recipe in recipes)):
        same = [row for row in rows if row.recipe and row.recipe.seed == seed]
        figure.add_scatter(
            x=[row.recipe.samples for row in same if row.recipe],
            y=[row.mean[0] for row in same], error_y=_error(same), name=f"seed {seed}",
            mode="lines+markers", line={"color": HUES[i]},
            hovertemplate="%{x} images<br>mean accuracy %{y:.2%}",
        )  # fmt: skip
    figure.update_xaxes(title="calibration images", type="log", tickvals=_sizes(rows))
    figure.update_yaxes(title="mean accuracy", tickformat=".1%")
    return framed(figure, 360)


def _sizes(rows: Sequence[Row]) -> list[int]:
    return sorted({row.recipe.samples for row in rows if row.recipe})


def frontier(rows: Sequence[Row], kind_of: Callable[[Row], str] | None = None) -> go.Figure:
    """Mean accuracy over the share of c_fc products that a choice of blocks costs.

    Args:
        kind_of: what each row's colour stands for; None tells it by the plan's labels.
    """
    figure = go.Figure()
    kind_of = kind_of or (lambda row: kind_of_choice(row.label))
    for i, kind in enumerate(dict.fromkeys(map(kind_of, rows))):
        same = [row for row in rows if kind_of(row) == kind]
        figure.add_scatter(
            x=[row.cost.products if row.cost else 0 for row in same],
            y=[row.mean[0] for row in same], text=[row.label for row in same], name=kind,
            mode="markers", marker={"size": 9, "color": HUES[i]}, error_y=_error(same),
            hovertemplate="%{text}<br>%{x:.0%} of the products<br>mean %{y:.2%}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title="share of all blocks' c_fc products", tickformat=".0%")
    figure.update_yaxes(title="mean accuracy", tickformat=".1%")
    return framed(figure, 420)


def kind_of_choice(label: str) -> str:
    """How a choice of blocks was made, for its colour."""
    word = label.split()[0]
    kinds = {"block": "single blocks", "first": "first n", "last": "last n"}
    return kinds.get(word, {"best": "best n by M-Loss", "as": "as the paper"}.get(word, label))


def controls(rows: Sequence[Row]) -> go.Figure:
    """At each k: draws of random ranks as points, with M-TIES and the other controls on them."""
    figure = go.Figure()
    by_kind: dict[str, list[Row]] = {}
    for row in rows:
        by_kind.setdefault(_kind_of_control(row), []).append(row)
    # The random draws first: the others are drawn over them.
    for kind, same in sorted(by_kind.items(), key=lambda item: item[0] != RANDOM):
        place = list(by_kind).index(kind)
        figure.add_scatter(
            x=[row.mean[0] for row in same], y=[f"k = {row.recipe.keep:g}" for row in same
                                                if row.recipe],
            text=[row.label for row in same], name=kind, mode="markers",
            marker={"size": 7 if kind == RANDOM else 12, "opacity": 0.6 if kind == RANDOM else 1,
                    "color": MARKS["base"] if kind == RANDOM else HUES[place],
                    "symbol": SYMBOLS.get(kind, "circle")},
            hovertemplate="%{text}<br>mean accuracy %{x:.2%}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title="mean accuracy", tickformat=".1%")
    figure.update_yaxes(title="", type="category", autorange="reversed")
    return framed(figure, 420, legend="below")


RANDOM = "random ranks"
SYMBOLS = {"M-TIES": "diamond", "TIES": "line-ns-open", "rows trimmed alike": "square-open"}


def _kind_of_control(row: Row) -> str:
    """What a row of the controls is, whatever its k and draw."""
    return row.label.partition(": ")[2].partition(",")[0]


FIGURES: dict[str, tuple[Callable[[Sequence[Row]], go.Figure], str]] = {
    "methods": (means, "Mean accuracy of every method with its 95 % interval"),
    "keep-and-variation": (grid, "Mean accuracy over k and e, of M-TIES and of rows trimmed alike"),
    "samples": (samples, "Mean accuracy over the number of calibration images, by seed"),
    "out-of-domain": (means, "Mean accuracy out of domain with its 95 % interval"),
    "few-blocks": (frontier, "Mean accuracy over the cost of each choice of blocks"),
    "fit": (means, "Mean accuracy of our fit, its starts and its controls"),
    "controls": (controls, "Mean accuracies at each k of M-TIES and of its controls"),
}
