"""Plotly figures of the Experiments page, drawn from result rows. No streamlit, no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import plotly.graph_objects as go

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
    """Mean accuracy over k and e; TIES stands where e is 0."""
    cells = {(r.recipe.keep, r.recipe.variation): r for r in rows if r.recipe}
    keeps, variations = (sorted({key[i] for key in cells}) for i in (0, 1))
    z = [[cells[k, e].mean[0] if (k, e) in cells else None for e in variations] for k in keeps]
    figure = go.Figure(
        go.Heatmap(
            z=z, x=[f"{e:g}" if e else "0 (TIES)" for e in variations],
            y=[f"{k:g}" for k in keeps], colorscale=MAGNITUDES, texttemplate="%{z:.1%}",
            hovertemplate="k = %{y}, e = %{x}<br>mean accuracy %{z:.2%}<extra></extra>",
            hoverongaps=False, xgap=1, ygap=1, colorbar={"tickformat": ".1%"},
        )
    )  # fmt: skip
    figure.update_xaxes(title="pruning variation e", type="category")
    figure.update_yaxes(title="base keep rate k", type="category")
    return framed(figure, 380)


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
    """Random ranks as a distribution; M-TIES and the other controls as lines on it."""
    drawn = [r.mean[0] for r in rows if r.recipe and r.recipe.ranks == "random"]
    others = [r for r in rows if r.recipe and r.recipe.ranks != "random"]
    figure = go.Figure()
    figure.add_histogram(
        x=drawn, nbinsx=12, name=f"{len(drawn)} draws of random ranks",
        marker={"color": MARKS["base"]}, hovertemplate="%{x}: %{y} draws<extra></extra>",
    )  # fmt: skip
    top = max(1, len(drawn) // 3)
    for i, row in enumerate(others):
        figure.add_scatter(
            x=[row.mean[0]] * 2, y=[0, top], mode="lines", name=row.label,
            line={"color": HUES[i], "width": 3 if row.label == "M-TIES" else 2,
                  "dash": "solid" if row.label == "M-TIES" else "dot"},
            hovertemplate=f"{row.label}<br>mean accuracy %{{x:.2%}}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title="mean accuracy", tickformat=".2%")
    figure.update_yaxes(title="draws")
    return framed(figure, 420, legend="below")


FIGURES: dict[str, tuple[Callable[[Sequence[Row]], go.Figure], str]] = {
    "methods": (means, "Mean accuracy of every method with its 95 % interval"),
    "keep-and-variation": (grid, "Mean accuracy over keep rate k and pruning variation e"),
    "samples": (samples, "Mean accuracy over the number of calibration images, by seed"),
    "out-of-domain": (means, "Mean accuracy out of domain with its 95 % interval"),
    "few-blocks": (frontier, "Mean accuracy over the cost of each choice of blocks"),
    "controls": (controls, "Mean accuracies of random ranks, with M-TIES and other controls"),
}
