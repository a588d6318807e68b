"""Live merge of the Merge page: a new merge at every change of the recipe, shown as it runs."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from mloss_core import Accuracy, BlockMerged, Family, MergeRecipe, TaskEvaluated, mean_accuracy

from . import live_table, readouts, session, work
from .jobs import Job, elapsed

# Seconds for which the page itself waits for the first readouts, and between two looks at the job.
PATIENCE, GLANCE, REFINING = 4.0, 0.02, 2.0
Hits = Mapping[str, np.ndarray]


def switch(family: Family) -> bool:
    """The choice between merging at every change and at a click, on at first for small families."""
    choice = session.chosen("live")
    on = choice == "on" or (not choice and family.model.width <= work.NARROW)
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
        job = work.live(family, recipe)
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
    tasks = work.own_tasks(family)
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
        st.info("Another window has asked for another merge since.")
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
        far = f"{merged_in(job)}, measured on {least} images a task"
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
    """The tasks' mean and a row a task, beside base and own source on the same images."""
    references = work.known_references(family)
    tasks = work.own_tasks(family)
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
