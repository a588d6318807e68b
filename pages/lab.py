"""Lab page: fine-tune an expert, and see while it trains whether it merges."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from mloss_core import Family, InputError
from mloss_core.training.lesson import Lesson
from views.jobs import lab, strip
from views.lab import parts, pictures
from views.shared import nav, readouts, sources
from views.state import allowed, session
from views.state.error_text import error_text
from views.state.job_board import Job

MERGE = "Merge the checkpoints"


def learnt(family: Family) -> Lesson | None:
    """What is to be learnt; None, with the reason, where that cannot be."""
    try:
        lesson = pictures.lesson(family)
    except InputError as error:
        st.error(error_text(error))
        return None
    if lesson is not None:
        parts.about(lesson)
    return lesson


def choose(family: Family) -> tuple[lab.Training | None, tuple[str, ...]]:
    """What the page's choices would train; None, with the reason, where that cannot be. And the
    sources to merge it with."""
    lesson, settings = learnt(family), None
    try:
        settings = parts.settings(family)
    except InputError as error:
        parts.wrong(error)
    others = parts.others(family, lesson.name if lesson is not None else "")
    now = parts.during(family)
    if lesson is None or settings is None:
        return None, others
    return lab.training(family, lesson, settings, others if now else ()), others


def begin(work: lab.Training) -> None:
    """The button that trains; one that was stopped goes on."""
    now = session.job_of("lab_job")
    running = now is not None and now.active and now.spec.key == work.key
    label = "Go on, or show it again" if lab.on_disk(work) and not running else "Train"
    why, stops = allowed.why_no_job(), "Stops within a step when it is cancelled."
    if allowed.button(label, why, type="primary", help=stops, disabled=running):
        job = lab.train(work)
        session.choose_value("lab_job", job.id)
        session.choose_value("along_job", "")
        session.head_start(job)
        session.remember()
        st.rerun()


def trained(job: Job) -> None:
    """A training live, with its merges on the way."""
    merges = session.job_of("along_job") or job

    def draw() -> None:
        strip.outcome(job, gone=False)
        strip.progress(job)
        parts.live(job)
        if lab.merged_with(merges):
            names = ", ".join(map(job.spec.family.title, lab.merged_with(merges)))
            st.markdown(f"**Does it merge?** With {names}:")
            if merges is not job:
                strip.outcome(merges, gone=False)
                strip.progress(merges)
            parts.merged(merges)

    session.while_active(merges if merges.active else job)(draw)()


def along(job: Job, names: Sequence[str]) -> None:
    """The button that merges the checkpoints with other sources than those of the picture."""
    work: lab.Training = job.spec
    shown = lab.merged_with(session.job_of("along_job") or job)
    if not names or tuple(names) == shown or not set(names) <= set(work.family.sources):
        return
    why, ready = allowed.why_no_job(), bool(lab.on_disk(work)) and not job.active
    with_ = ", ".join(map(work.family.title, names))
    if allowed.button(MERGE, why, disabled=not ready, help=f"Each with {with_}."):
        merges = lab.merges(work, names)
        session.choose_value("along_job", merges.id)
        session.head_start(merges)
        session.remember()
        st.rerun()


def keep(job: Job) -> None:
    """The result as a file, and as a source of a family of the visitor's own."""
    parts.download(job)
    work: lab.Training = job.spec
    with st.expander("Keep it as a source of a family of yours"):
        family, source, beside = parts.target(work.family, work.lesson, lab.merged_with(job))
        if not allowed.button("Keep", allowed.why_only_looking()):
            return
        try:
            lab.keep(job, family, source, beside)
        except InputError as error:
            st.error(error_text(error))
            return
        st.success(f"{source} is a source of {family} now: choose that family on any page.")


st.title("Lab")
st.caption("Train an expert of your own, and see at which step it still merges with the others.")
with st.columns([1, 2])[0]:
    family = sources.choose_family()
work, others = choose(family)
if work is not None:
    parts.beforehand(work)
    begin(work)
job = session.job_of("lab_job")
if job is None:
    strip.outcome(None, gone=bool(session.chosen("lab_job")))
else:
    st.subheader(f"Training on {readouts.plain(job.spec.lesson.title)}")
    trained(job)
    along(job, others)
    if job.result is not None:
        keep(job)
nav.next_step("explore", "Merge on Explore")
