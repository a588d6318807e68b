"""Live merge of the Merge page: a new merge at every change of the recipe, shown as it runs."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from mloss_core import Accuracy, BlockMerged, Family, MergeRecipe, TaskEvaluated, mean_accuracy
from views.jobs import kinds
from views.merge import live as live_table
from views.shared import readouts
from views.shared.theme import INTERVAL, MARKS, POINT
from views.state import session
from views.state.job_board import Job, elapsed

# Seconds for which the page itself waits for the first readouts, and between two looks at the job.
PATIENCE, GLANCE, REFINING = 4.0, 0.02, 2.0
Hits = Mapping[str, np.ndarray]


def switch(family: Family) -> bool:
    """The choice between merging at every change and at a click, on at first for small families."""
    choice = session.chosen("live")
    on = choice == "on" or (not choice and family.model.width <= kinds.NARROW)
    wanted = st.toggle(
        "Live", on, key=session.widget("w-live"),
        help="Every change of the recipe merges anew and measures on a few images, then on all. "
        "Nothing is recorded until you launch.",
    )  # fmt: skip
    if wanted != on:
        session.choose_value("live", "on" if wanted else "off")
    return wanted


def job_for(family: Family, recipe: MergeRecipe) -> Job:
    """The live merge of this recipe, asked for once: a page that is drawn again does not take the
    place of what another window asked for since."""
    latest = st.session_state.get("live_asked")
    job = session.board().get(latest[1]) if latest and latest[0] == recipe else None
    if job is None:
        job = kinds.live(family, recipe)
        st.session_state.live_asked = recipe, job.id
    return job


def panel(place: DeltaGenerator, family: Family, recipe: MergeRecipe, job: Job) -> None:
    """What is known of the merge of this recipe; until something is, what was known before it.

    Comes last on the page: it waits for the merge and its readouts, and shows each as soon as it is
    there. A fragment that looked as often would take a fifth of a core from the merge.

    Args:
        place: where on the page it stands.
    """

    def draw(last: bool) -> None:
        # Fragments both times: what is drawn later takes the very place of what was drawn before.
        def fragment() -> None:
            _draw(family, recipe, job)
            if last:
                _outcome(job)

        with place.container():
            session.while_active(job if last else None, REFINING)(fragment)()

    end, stage = time.monotonic() + PATIENCE, None
    launched = session.board().active()  # is done first, and has progress of its own to draw
    while job.active and not job.idle and not launched and time.monotonic() < end:
        if stage != (stage := (job.state, _blocks(job) == family.model.blocks)):
            draw(last=False)
        job.wait(GLANCE)
        session.chosen("keep")  # Streamlit ends this run here where the visitor has moved on
    draw(last=True)


def _blocks(job: Job) -> int:
    """How many blocks are merged."""
    return sum(isinstance(event, BlockMerged) for event in list(job.events))


def _draw(family: Family, recipe: MergeRecipe, job: Job) -> None:
    tasks = kinds.own_tasks(family)
    hits = newest_hits(job)
    ready = bool(tasks) and hits.keys() >= set(tasks)
    if ready:
        st.session_state.live_former = recipe, hits
    of, shown = st.session_state.get("live_former", (recipe, {}))
    if of.family != family.name:
        of, shown = recipe, {}
    st.html(_words(family, recipe, job, hits if ready else {}, of if shown else None))
    st.html(live_table.table(_rows(family, shown), former=not ready))


def _outcome(job: Job) -> None:
    """What became of a merge that did not finish; drawn once a run, for it holds a button."""
    if job.state == "failed":
        st.error(job.error)
    elif job.state == "cancelled":
        st.info("Another window started another merge, so this one stopped.")
    if job.state in ("failed", "cancelled") and st.button("Merge again", key="live-again"):
        del st.session_state["live_asked"]
        st.rerun()


def newest_hits(job: Job) -> dict[str, np.ndarray]:
    """The newest hits of each task."""
    events = [event for event in list(job.events) if isinstance(event, TaskEvaluated)]
    return {event.task: event.hits for event in events}


def _words(
    family: Family, recipe: MergeRecipe, job: Job, hits: Hits, former: MergeRecipe | None
) -> str:
    """Two lines: which recipe, and how far it is; whose readouts stand below, if not its own."""
    steps = _blocks(job)
    if hits:
        least = min(map(len, hits.values()))
        far = f"{merged_in(job)}, measured on {least} images per task"
        if job.active:
            far += "; all of them follow"
    elif steps == family.model.blocks:
        far = f"{merged_in(job)}, measuring"
    elif job.state in ("failed", "cancelled"):
        far = f"live: {job.state}"
    elif job.state == "queued":
        far = "live: waiting for the work before it"
    else:
        far = "live: merging" + f", block {steps} of {family.model.blocks}" * (steps > 0)
    if not hits and former is not None:
        far += f". Still below, in grey: {readouts.summary(former)}"
    said = html.escape(readouts.summary(recipe))
    return (
        '<div style="min-height:4.5rem" role="status">'
        f"<strong>{said}</strong><br>{html.escape(far)}</div>"
    )


def merged_in(job: Job) -> str:
    """How long merging took, in words."""
    events = list(job.events)
    last = max(i for i, event in enumerate(events) if isinstance(event, BlockMerged))
    return f"live: merged in {elapsed(sum(event.seconds for event in events[: last + 1]))}"


def _rows(family: Family, hits: Hits) -> list[live_table.Row]:
    """The tasks' mean and a row per task, beside base and own source on the same images."""
    references = kinds.known_references(family)
    tasks = kinds.own_tasks(family)
    if not hits:
        return [live_table.Row(title=title) for title in ("Average", *map(family.title, tasks))]
    rows = []
    for task in tasks:
        images = len(hits[task])
        base, own = (_rate(references.get((model, task)), images) for model in ("base", "own"))
        accuracy = Accuracy(correct=int(hits[task].sum()), total=images)
        rows.append(live_table.row(family.title(task), accuracy, base, own))
    mean = live_table.Row(
        title="Average",
        rate=mean_accuracy(hits),
        images=sum(row.images for row in rows),
        base=_mean([row.base for row in rows]),
        own=_mean([row.own for row in rows]),
    )
    return [mean, *rows]


def _rate(hits: np.ndarray | None, images: int) -> float | None:
    """Accuracy on the first images, where they were measured."""
    return None if hits is None else float(hits[:images].mean())


def _mean(rates: Sequence[float | None]) -> float | None:
    """Unweighted mean, where all are known."""
    measured = [rate for rate in rates if rate is not None]
    return float(np.mean(measured)) if len(measured) == len(rates) else None


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
