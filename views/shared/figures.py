"""Plotly figures that several pages share, drawn from arrays in one style. No streamlit, no torch.

Cividis for magnitudes (monotone lightness, even steps also for the colour-blind), blue over grey to
orange for differences, one colour a block or task, real values on every tick and in every hover
text. Palette, frame and the writing of numbers are in looks.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from views.shared.theme import HUES, MAGNITUDES, framed, written_alike

ROW = 22  # pixels per block: suits 12 and 24 of them


def node_groups(scores: Float[np.ndarray, "b nodes"], size: int) -> Float[np.ndarray, "b groups"]:
    """Mean of each run of `size` consecutive nodes; the last group may be smaller."""
    starts = np.arange(0, scores.shape[1], size)
    lengths = np.diff([*starts, scores.shape[1]])
    return np.add.reduceat(scores, starts, axis=1) / lengths


def heatmap(
    scores: Mapping[int, Float[np.ndarray, " nodes"]],
    blocks: int,
    size: int,
    colours: str = "log",
    what: str = "M-Loss",
    beside: Mapping[int, Float[np.ndarray, " nodes"]] | None = None,
) -> go.Figure:
    """The paper's Figure 3: blocks by node groups; blocks without scores yet stay empty.

    Args:
        scores: node scores of the blocks known so far.
        blocks: how many there will be.
        size: nodes a group.
        colours: "log", "linear" or "rank".
        beside: another map that stands beside it: equal colours are equal values in both.
    """
    nodes = len(next(iter(scores.values())))
    groups = node_groups(_table(scores, blocks), size)
    other = groups[:0] if beside is None else node_groups(_table(beside, blocks), size)
    z, ticks, labels = _scaled(np.concatenate([groups, other]), colours)
    ends = {} if beside is None else {"zmin": ticks[0], "zmax": ticks[-1]}
    z, nodes_text = z[:blocks], spans(groups.shape, size, nodes)
    figure = go.Figure(
        go.Heatmap(
            z=z,
            customdata=np.dstack([groups.astype(object), nodes_text.astype(object)]),
            colorscale=MAGNITUDES,
            colorbar={"title": {"text": what}, "tickvals": ticks, "ticktext": labels},
            hovertemplate="block %{y}, nodes %{customdata[1]}<br>"
            + what
            + " %{customdata[0]:.3g}<extra></extra>",
            hoverongaps=False,
            xgap=1,
            ygap=1,
            **ends,
        )
    )
    return framed_map(figure, size, blocks)


def _table(
    scores: Mapping[int, Float[np.ndarray, " nodes"]], blocks: int
) -> Float[np.ndarray, "b nodes"]:
    """A row per block; NaN where there are no scores."""
    table = np.full((blocks, len(next(iter(scores.values())))), np.nan)
    for block, values in scores.items():
        table[block] = values
    return table


def framed_map(figure: go.Figure, size: int, blocks: int) -> go.Figure:
    """The axes and the frame of every map of blocks by node groups.

    Args:
        size: nodes per group.
    """
    figure.update_xaxes(title=f"node group ({size} nodes each)", showgrid=False, zeroline=False)
    rows = {"title": "block", "dtick": 1, "showgrid": False, "zeroline": False}
    figure.update_yaxes(**rows, range=[-0.5, blocks - 0.5])
    return framed(figure, ROW * blocks + 110)


def spans(shape: tuple[int, ...], size: int, nodes: int) -> np.ndarray:
    """The nodes of each cell, in words."""
    first = np.arange(shape[1]) * size
    last = np.minimum(first + size, nodes) - 1
    return np.broadcast_to([f"{a} to {b}" for a, b in zip(first, last, strict=True)], shape)


def _scaled(groups: np.ndarray, colours: str) -> tuple[np.ndarray, list[float], list[str]]:
    """Values as coloured, and colour-bar ticks that show real values."""
    finite = groups[np.isfinite(groups)]
    if colours == "rank":
        order = np.sort(finite)
        share = np.linspace(0, 1, 5)
        z = np.where(
            np.isfinite(groups), np.searchsorted(order, groups) / max(1, len(order) - 1), np.nan
        )
        return z, list(share), written_alike(np.quantile(order, share))
    if colours == "log":
        floor = finite[finite > 0].min(initial=np.inf)
        if np.isinf(floor):  # nothing but zeros
            return groups, [0.0], ["0"]
        z = np.log10(np.maximum(groups, floor))
        ticks = np.unique(np.linspace(np.nanmin(z), np.nanmax(z), 5))
        clipped = "≤ " if finite.min() < floor else ""
        first, *others = written_alike(10**ticks)
        return z, list(ticks), [clipped + first, *others]
    ticks = np.unique(np.linspace(finite.min(), finite.max(), 5))
    return groups, list(ticks), written_alike(ticks)


def block_means(
    means: Mapping[int, tuple[float, float, float]], blocks: int, what: str = "mean node M-Loss"
) -> go.Figure:
    """Mean M-Loss per block with its 95 % interval over calibration images, beside the heatmap."""
    rows = sorted(means)
    mean, low, high = np.array([means[b] for b in rows]).T
    figure = go.Figure(
        go.Scatter(
            x=mean,
            y=rows,
            mode="markers",
            marker={"size": 9, "color": HUES[0]},
            cliponaxis=False,  # a mean near zero is seen whole
            error_x={
                "type": "data",
                "symmetric": False,
                "array": high - mean,
                "arrayminus": mean - low,
            },
            hovertemplate="block %{y}<br>mean %{x:.3g}<extra></extra>",
        )
    )
    figure.update_xaxes(title=what, rangemode="tozero", nticks=4, exponentformat="power")
    figure.update_yaxes(title="block", dtick=1, range=[-0.5, blocks - 0.5], zeroline=False)
    return framed(figure, ROW * blocks + 110)


def cosine_matrix(cosines: Float[np.ndarray, "q q"], names: Sequence[str]) -> go.Figure:
    """Cosine similarity of each pair of task vectors; the diagonal is left out."""
    z = np.where(np.eye(len(names), dtype=bool), np.nan, cosines)
    off_diagonal = cosines[np.isfinite(z)]
    figure = go.Figure(
        go.Heatmap(
            z=z,
            # Task vectors at right angles must not look far apart for a thousandth of difference.
            zmin=min(0.0, *off_diagonal),
            zmax=max(0.2, *off_diagonal),
            x=list(names),
            y=list(names),
            colorscale=MAGNITUDES,
            texttemplate="%{z:.2f}",
            hovertemplate="%{y} and %{x}<br>cosine %{z:.4f}<extra></extra>",
            hoverongaps=False,
            colorbar={"title": {"text": "cosine"}},
        )
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(showgrid=False)
    return framed(figure, 34 * len(names) + 150)
