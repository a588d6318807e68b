"""The live merge: at every change of the recipe a new one is asked for, and shown as it comes."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np
import streamlit as st

from mloss_core import Accuracy, BlockMerged, Family, MergeRecipe, TaskEvaluated, mean_accuracy

from . import live_table, readouts, session, work
from .jobs import Job, elapsed

# Seconds between two looks at the job: until its first readouts, and while it is refined, which is
# idle work that may wait for minutes beside a launched merge.
EVERY, REFINING = 0.2, 2.0
Hits = Mapping[str, np.ndarray]


def switch(family: Family) -> bool:
    """The choice between merging at every change and at a click, on at first for small families."""
    told = session.chosen("live")
    on = told == "on" or (not told and family.model.width <= work.NARROW)
    wanted = st.toggle(
        "Live", on, key=session.widget("w-live"),
        help="Every change of the recipe merges anew and measures on a few images, then on all. "
        "Nothing is recorded until you launch.",
    )  # fmt: skip
    if wanted != on:
        session.choose_value("live", "on" if wanted else "off")
    return wanted


def asked(family: Family, recipe: MergeRecipe) -> Job:
    """The live merge of this recipe, asked for once: a page that is drawn again does not take the
    place of what another window asked for since."""
    known = st.session_state.get("live_asked")
    job = session.board().get(known[1]) if known and known[0] == recipe else None
    if job is None:
        job = work.live(family, recipe)
        st.session_state.live_asked = recipe, job.id
    return job


def panel(family: Family, recipe: MergeRecipe, job: Job) -> None:
    """What is known of the merge of this recipe; until something is, what was known before it."""
    often = not job.idle

    def draw() -> None:
        _draw(family, recipe, job)
        if often and job.idle and job.active:
            st.rerun()

    session.while_active(job, EVERY if often else REFINING)(draw)()


def _draw(family: Family, recipe: MergeRecipe, job: Job) -> None:
    tasks = work.own_tasks(family)
    hits = judged(job)
    ready = bool(tasks) and hits.keys() >= set(tasks)
    if ready:
        st.session_state.live_former = recipe, hits
    of, shown = st.session_state.get("live_former", (recipe, {}))
    if of.family != family.name:
        of, shown = recipe, {}
    st.html(_words(family, recipe, job, hits if ready else {}, of if shown else None))
    st.html(live_table.table(_rows(family, shown), former=not ready))
    if job.state == "failed":
        st.error(job.error)
    elif job.state == "cancelled":
        st.info("Another window has asked for another merge since.")
    if job.state in ("failed", "cancelled") and st.button("Merge again", key="live-again"):
        del st.session_state["live_asked"]
        st.rerun()


def judged(job: Job) -> dict[str, np.ndarray]:
    """The newest hits of each task."""
    found = [event for event in list(job.events) if isinstance(event, TaskEvaluated)]
    return {event.task: event.hits for event in found}


def _words(
    family: Family, recipe: MergeRecipe, job: Job, hits: Hits, former: MergeRecipe | None
) -> str:
    """Two lines: which recipe, and how far it is; whose readouts stand below, if not its own."""
    steps = [event for event in list(job.events) if isinstance(event, BlockMerged)]
    if hits:
        least = min(map(len, hits.values()))
        far = f"{merged_in(job)}, measured on {least} images a task"
        if job.active:
            far += "; all of them follow"
    elif len(steps) == family.model.blocks:
        far = f"{merged_in(job)}, measuring"
    elif job.state in ("failed", "cancelled"):
        far = f"live: {job.state}"
    elif job.state == "queued":
        far = "live: waiting for the work before it"
    else:
        far = f"live: merging, block {len(steps)} of {family.model.blocks}"
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
    """The tasks' mean and a row a task, beside base and own source on the same images."""
    known = work.known_references(family)
    tasks = work.own_tasks(family)
    if not hits:
        return [live_table.Row(title=title) for title in ("Average", *map(family.title, tasks))]
    rows = []
    for task in tasks:
        images = len(hits[task])
        base, own = (_rate(known.get((model, task)), images) for model in ("base", "own"))
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
    known = [rate for rate in rates if rate is not None]
    return float(np.mean(known)) if len(known) == len(rates) else None
