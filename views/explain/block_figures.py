"""Plotly figures of chosen blocks: distribution of M-Loss, accuracy over cost. No streamlit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from mloss_core.experiments import Row, Tried
from views.experiments import figures as experiment_figures
from views.shared.theme import HUES, MARKS, framed

DASHES = ("solid", "dash", "dot", "dashdot")  # a hue comes again after twelve blocks, dashed


def distributions(
    scores: Mapping[int, Float[np.ndarray, " nodes"]], what: str = "M-Loss"
) -> go.Figure:
    """Share of each block's nodes whose M-Loss is at most x: a line per block, a point per node."""
    figure = go.Figure(layout={"showlegend": False})
    for place, (block, node) in enumerate(scores.items(), 1):
        figure.add_scatter(
            x=np.sort(node), y=np.arange(1, len(node) + 1) / len(node), name=f"block {block}",
            mode="lines", line={
                "shape": "hv", "width": 2, "color": HUES[block % len(HUES)],
                "dash": DASHES[block // len(HUES) % len(DASHES)],
            },
            hovertemplate=f"block {block}<br>%{{y:.0%}} of the nodes at most %{{x:.3g}}"
            "<extra></extra>",
        )  # fmt: skip
        _label(figure, f"{block}", np.sort(node), place / (len(scores) + 1), block)
    positive = any((node > 0).any() for node in scores.values())
    figure.update_xaxes(
        title=f"{what} of a node{' (log)' * positive}", type="log" if positive else "linear",
        nticks=6, exponentformat="power",
    )  # fmt: skip
    figure.update_yaxes(title="share of the block's nodes", tickformat=".0%", range=[-0.02, 1.03])
    return framed(figure, 400)


def _label(
    figure: go.Figure, text: str, node: Float[np.ndarray, " nodes"], height: float, block: int
) -> None:
    """The block's number on its line, at a height that no other label has."""
    at = float(node[int(height * (len(node) - 1))])
    figure.add_scatter(
        x=[at], y=[height], mode="text", text=[f"<b>{text}</b>"], hoverinfo="skip",
        textposition="middle right", textfont={"color": HUES[block % len(HUES)], "size": 14},
    )  # fmt: skip


KINDS = {  # name, colour and mark of each kind of point
    "this choice": (HUES[1], "star"),
    "other choices": (HUES[0], "circle"),
    "all blocks": (HUES[2], "square"),
    "no block (TIES)": (MARKS["TIES, same k"], "diamond"),
    "other settings": (MARKS["base"], "circle-open"),
}


def frontier(tried: Sequence[Tried], blocks: Sequence[int], ensemble: float | None) -> go.Figure:
    """Mean accuracy over cost of every choice tried, and the best so far at most at each cost.

    Args:
        blocks: the choice that stands now.
        ensemble: its mean accuracy, where it was measured.
    """
    kinds = {t.row.label: kind_of(t, blocks) for t in tried}
    ordered = sorted((t.row for t in tried), key=lambda row: list(KINDS).index(kinds[row.label]))
    figure = experiment_figures.frontier(ordered, lambda row: kinds[row.label])
    for name, (colour, symbol) in KINDS.items():
        marker = {"color": colour, "symbol": symbol, "size": 15 if symbol == "star" else 9}
        figure.update_traces(marker=marker, selector={"name": name})
    steps = best([t.row for t in tried if t.same])
    if steps:
        x, y = zip(*steps, (1.0, steps[-1][1]), strict=True)
        figure.add_scatter(
            x=x, y=y, mode="lines", name="best at most at this cost", hoverinfo="skip",
            line={"shape": "hv", "width": 1, "dash": "dot", "color": HUES[0]},
        )  # fmt: skip
    if ensemble is not None:
        line = {"color": MARKS["ensemble"], "dash": "dash", "width": 1}
        figure.add_scatter(
            x=[0, 1], y=[ensemble] * 2, mode="lines", name="ensemble", line=line,
            hovertemplate="ensemble<br>mean %{y:.2%}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(range=[-0.04, 1.04])
    return figure.update_layout(legend={"orientation": "h", "y": -0.2})


def kind_of(tried: Tried, blocks: Sequence[int]) -> str:
    """What a choice is beside the one that stands now."""
    if not tried.same:
        return "other settings"
    if tried.blocks == tuple(blocks):
        return "this choice"
    return tried.row.label if tried.row.label in KINDS else "other choices"


def best(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """Cost and mean accuracy of each choice that beats all cheaper ones."""
    pareto: list[tuple[float, float]] = []
    for price, mean in sorted((r.cost.products if r.cost else 0.0, -r.mean[0]) for r in rows):
        if not pareto or -mean > pareto[-1][1]:
            pareto.append((price, -mean))
    return pareto
