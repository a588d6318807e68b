"""HTML table of a live merge's accuracies by task, cheap to redraw several times a second."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from mloss_core import Accuracy

from .looks import INTERVAL, MARKS, POINT

WAITING = "…"
CELL = "padding:.2rem .5rem;text-align:right;white-space:nowrap"
LEFT = CELL.replace("right", "left")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A task, or the mean of tasks.

    Args:
        rate: accuracy with its 95 % interval; None before it is known.
        images: how many it was measured on.
        base, own: accuracies of the base and of the own source on the same images, where known.
    """

    title: str
    rate: tuple[float, float, float] | None = None
    images: int = 0
    base: float | None = None
    own: float | None = None


def row(title: str, accuracy: Accuracy, base: float | None, own: float | None) -> Row:
    """A task's row from its count."""
    rate = (accuracy.rate, *accuracy.interval())
    return Row(title=title, rate=rate, images=accuracy.total, base=base, own=own)


def table(rows: Sequence[Row], former: bool) -> str:
    """Rows of one height, whatever is known, so that nothing jumps.

    Args:
        former: whether all of it belongs to a setting that has been left; drawn in grey.
    """
    names = ("task", "", "accuracy, 95 % interval", "images", "base", "own source")
    head = "".join(f'<th scope="col" style="{CELL}">{name}</th>' for name in names)
    head = head.replace(CELL, LEFT, 1)
    body = "".join(_line(each, former) for each in rows)
    return (
        '<div style="overflow-x:auto" tabindex="0" role="region" aria-label="Live readouts">'
        '<table style="border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _line(row: Row, former: bool) -> str:
    name = f'<th scope="row" style="{LEFT}">{html.escape(row.title)}</th>'
    if row.rate is None:
        values = [WAITING, "", "", ""]
    else:
        rate, low, high = row.rate
        style = "font-style:italic" if former else "font-weight:600"
        said = f'<span style="{style}">{rate:.1%}</span>  ({low:.1%} to {high:.1%})'
        values = [said, f"{row.images}", _share(row.base), _share(row.own)]
    cells = "".join(f'<td style="{CELL}">{value}</td>' for value in values)
    bar = f'<td style="width:34%">{_bar(row, former)}</td>'
    return f'<tr style="height:2rem">{name}{bar}{cells}</tr>'


def _share(rate: float | None) -> str:
    return WAITING if rate is None else f"{rate:.1%}"


def _bar(row: Row, former: bool) -> str:
    """The interval on a line from 0 to 100 %, the rate in it, and the base's as a tick."""
    parts = [_span("background:currentColor;opacity:.25;left:0;right:0;top:9px;height:1px")]
    if row.rate is not None:
        rate, low, high = (100 * value for value in row.rate)
        wide = "border:1px solid currentColor;opacity:.6" if former else f"background:{INTERVAL}"
        size = f"left:{low:.2f}%;width:{high - low:.2f}%"
        parts.append(_span(f"{wide};{size};top:6px;height:7px;border-radius:3px"))
        parts.append(_tick(rate, 4, "currentColor;opacity:.6" if former else POINT))
        if row.base is not None:
            parts.append(_tick(100 * row.base, 2, MARKS["base"]))
    box = "position:relative;display:block;min-width:5rem;height:19px"
    return f'<span aria-hidden="true" style="{box}">{"".join(parts)}</span>'


def _tick(place: float, width: int, colour: str) -> str:
    """A stroke across the line, at a per cent."""
    left = f"left:calc({place:.2f}% - {width // 2}px)"
    return _span(f"background:{colour};{left};width:{width}px;top:2px;height:15px")


def _span(style: str) -> str:
    return f'<span style="position:absolute;box-sizing:border-box;{style}"></span>'
