"""Style of all figures: palette, colour scales and layout.

No streamlit, no torch.
"""

from __future__ import annotations

from collections.abc import Iterable

import plotly.graph_objects as go

# Twelve hues that stay apart, each 3 to 1 and more against white and against near-black.
HUES = (
    "#4477aa", "#ee6677", "#228833", "#a98a1f", "#1f9bc4", "#b43c80",
    "#d4702c", "#7a6fd0", "#329c8b", "#7b932a", "#cc6699", "#888888",
)  # fmt: skip
GUIDE = "#89939f"  # lines that help the eye, and what is only compared with
# What a merge stands beside keeps its colour everywhere, by the name that people read.
MARKS = {
    "base": GUIDE,
    "own source": "#228833",
    "TIES, same k": "#d4702c",
    "ensemble": "#7a6fd0",
}
CHOSEN = HUES[1]  # marks of what is chosen: apart from every shade of a map
# A node's gap: the merged model's activation, the ensemble's, and what lies between.
MERGED, ENSEMBLED, GAP = HUES[6], MARKS["ensemble"], HUES[5]
MAGNITUDES = "Cividis"
# Differences: blue where lower, orange where higher; equal is grey, which stands off neither the
# light nor the dark page.
DIVERGING = ("#2166ac", "#6fa8d6", "#b9bcc0", "#f0a35e", "#b35806")


def diverging(reverse: bool = False) -> list[tuple[float, str]]:
    """The scale of differences, as plotly takes it.

    Args:
        reverse: higher is better, so that blue stands for it.
    """
    colours = DIVERGING[::-1] if reverse else DIVERGING
    return [(i / (len(colours) - 1), colour) for i, colour in enumerate(colours)]


def faint(colour: str, share: float) -> str:
    """A colour of the palette so thin that what lies behind it shows."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share:g})"


def written(value: float) -> str:
    """A number in the core's one format, which is loaded with the first of them."""
    return written_alike([value])[0]


def written_alike(values: Iterable[float]) -> list[str]:
    """Numbers that stand together, as `mloss_core.text` writes them."""
    from mloss_core.text import three_digits_alike

    return three_digits_alike([float(value) for value in values])


def framed(figure: go.Figure, height: int, legend: str = "right") -> go.Figure:
    """Margins that keep the mode bar off the colour bar and grow with long names; colours come from
    the app's theme.

    Args:
        legend: "right", or "above" or "below" where it takes no width on a narrow screen.
    """
    top, bottom = 40, 50
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 20, "t": top, "b": bottom},
        hoverlabel={"align": "left"},
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    if legend != "right":
        over = legend == "above"
        y = 1.03 if over else -72 / (height - top - bottom)  # under tick labels and title
        place = {"y": y, "yanchor": "bottom" if over else "top", "x": 0}
        figure.update_layout(legend={"orientation": "h", **place}, showlegend=True)
    return figure
