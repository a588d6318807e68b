"""Clickable marks and targets over the heatmap, and the block choice that a click gives.

Clicks on a heatmap itself tell Streamlit nothing; those on points of a scatter do. So invisible
points lie on the cells, and a mark left of each row says, and changes, whether its block is
chosen. No streamlit, no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from views.shared.theme import CHOSEN, RING

TARGETS = 6000  # points that a browser draws without being slow; above, marks alone are pointed at
ACROSS = 30  # targets across the map at least, so that marks need little room


@dataclass(frozen=True, kw_only=True)
class Pointed:
    """What was pointed at.

    Args:
        marks: blocks whose marks were pointed at.
        cells: cells, as block and group of nodes.
    """

    marks: tuple[int, ...]
    cells: tuple[tuple[int, int], ...]


def pointable(
    figure: go.Figure, chosen: Sequence[int], focus: tuple[int, int] | None = None
) -> go.Figure:
    """A heatmap of `figures.heatmap` with marks of the chosen blocks, and targets to point at.

    Args:
        focus: block and group of nodes of the node in focus.
    """
    heat: Any = figure.data[0]
    shown = np.asarray(heat.customdata, dtype=object)
    blocks, groups = shown.shape[:2]
    parts = max(1, math.ceil(ACROSS / groups))
    few = blocks * groups * parts <= TARGETS
    if few:
        _cells(figure, shown, parts, heat.hovertemplate)
        heat.hoverinfo, heat.hovertemplate = "skip", None
    _marks(figure, blocks, -0.5 - 0.7 / parts, chosen)
    if focus is not None:
        _focus(figure, focus)
    for first, last in runs(chosen) if len(chosen) < blocks else ():
        figure.add_shape(
            type="rect", x0=-0.5, x1=groups - 0.5, y0=first - 0.5, y1=last + 0.5,
            line={"color": CHOSEN, "width": 2},
        )  # fmt: skip
    figure.update_xaxes(range=[-0.5 - 1.4 / parts, groups - 0.5])
    # Where a figure asks for boxes, Streamlit turns clicks off; the mode bar's button keeps both.
    figure.update_layout(dragmode="pan", hovermode="closest", showlegend=False)
    if few:
        figure.update_layout(hoverdistance=-1)  # the nearest target is the cell's own
    return figure


def _cells(figure: go.Figure, shown: np.ndarray, parts: int, hover: str) -> None:
    """Invisible points, several on a wide cell."""
    blocks, groups = shown.shape[:2]
    within = (np.arange(groups * parts) + 0.5) / parts - 0.5
    figure.add_scatter(
        x=np.tile(within, blocks), y=np.repeat(np.arange(blocks), groups * parts),
        customdata=np.repeat(shown, parts, axis=1).reshape(-1, shown.shape[2]),
        mode="markers", marker={"size": 6, "symbol": "square", "opacity": 0}, name="cells",
        selected={"marker": {"opacity": 0}}, unselected={"marker": {"opacity": 0}},
        hovertemplate=hover.replace("%{y}", "%{y:d}"),
    )  # fmt: skip


def _marks(figure: go.Figure, blocks: int, x: float, chosen: Sequence[int]) -> None:
    """A square left of each row: full where the block is chosen."""
    states = ["chosen" if block in chosen else "not chosen" for block in range(blocks)]
    symbols = ["square" if state == "chosen" else "square-open" for state in states]
    same = {"marker": {"opacity": 1}}
    figure.add_scatter(
        x=[x] * blocks, y=list(range(blocks)), mode="markers", text=states, name="marks",
        marker={"size": 10, "symbol": symbols, "color": CHOSEN, "line": {"width": 2}},
        selected=same, unselected=same, cliponaxis=False,
        hovertemplate="block %{y:d}: %{text}<extra>click to change</extra>",
    )  # fmt: skip


def _focus(figure: go.Figure, focus: tuple[int, int]) -> None:
    """A ring round the cell of the node in focus, which no shade of the map hides."""
    for size, colour in zip((13, 10), RING, strict=True):
        figure.add_scatter(
            x=[focus[1]], y=[focus[0]], mode="markers", hoverinfo="skip", name="focus",
            marker={"size": size, "symbol": "circle-open", "color": colour, "line": {"width": 2}},
        )  # fmt: skip


def runs(chosen: Iterable[int]) -> list[tuple[int, int]]:
    """Chosen blocks as first and last of each unbroken run."""
    intervals: list[tuple[int, int]] = []
    for block in sorted(set(chosen)):
        if intervals and intervals[-1][1] == block - 1:
            intervals[-1] = (intervals[-1][0], block)
        else:
            intervals.append((block, block))
    return intervals


def pointed(points: Iterable[Mapping[str, Any]]) -> Pointed:
    """What the points of a chart's event stand for: marks lie left of the cells."""
    marks, cells = set(), set()
    for point in points:
        block, x = round(point["y"]), float(point["x"])
        if x < -0.5:
            marks.add(block)
        else:
            cells.add((block, math.floor(x + 0.5)))
    return Pointed(marks=tuple(sorted(marks)), cells=tuple(sorted(cells)))


def choice_after(chosen: Sequence[int], pointed: Pointed, add: bool) -> tuple[int, ...]:
    """The choice after pointing: a mark changes its block; cells choose theirs, alone or added.

    A box over cells and marks chooses what it touches.
    """
    touched = {block for block, _ in pointed.cells}
    if touched:
        return tuple(sorted(touched | set(pointed.marks) | (set(chosen) if add else set())))
    return tuple(sorted(set(chosen) ^ set(pointed.marks)))


def highest(node: Float[np.ndarray, " nodes"], group: int, size: int) -> int:
    """The node of highest M-Loss in a group of so many consecutive nodes."""
    first = group * size
    return first + int(np.argmax(node[first : first + size]))
