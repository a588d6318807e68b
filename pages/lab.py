"""Lab page: fine-tune an expert, and see while it trains whether it merges."""

from __future__ import annotations

import streamlit as st

from mloss_core import Family, InputError
from mloss_core.training.keep_as import keep_as
from views.jobs import lab, strip
from views.lab import parts
from views.shared import nav, sources
from views.state import allowed, session
from views.state.error_text import error_text
from views.state.job_board import Job


def choose(family: Family) -> lab.Training | None:
    """What the page's choices would train; None, with the reason, where that cannot be."""
    try:
        lesson = parts.lesson(family)
        if lesson is None:
            return None
        parts.about(lesson)
        return lab.training(family, lesson, parts.settings(family))
    except InputError as error:
        st.error(error_text(error))
        return None


def begin(work: lab.Training) -> None:
    """The button that trains; one that was stopped goes on."""
    stopped = bool(lab.on_disk(work))
    label = "Go on, or show it again" if stopped else "Train"
    why, stops = allowed.why_no_job(), "Stops within a step when it is cancelled."
    if allowed.button(label, why, type="primary", help=stops):
        job = lab.train(work)
        session.choose_value("lab_job", job.id)
        session.choose_value("along_job", "")
        session.head_start(job)
        session.remember()
        st.rerun()


def trained(job: Job) -> None:
    """A training live; once it is complete, its file and its way into a family."""

    def draw() -> None:
        strip.outcome(job, gone=False)
        parts.live(job)

    session.while_active(job)(draw)()
    if job.result is not None:
        parts.download(job)
        keep(job)


def keep(job: Job) -> None:
    """Keeps the result as a source of a family of the visitor's own."""
    work: lab.Training = job.spec
    with st.expander("Keep it as a source of a family of yours"):
        target = st.text_input("Family", "mine", help="Made where there is none; the demo stays.")
        name = st.text_input("Source", work.lesson.name)
        beside = st.multiselect(
            "Sources that a new family gets, too", list(work.family.sources),
            format_func=work.family.title,
        )  # fmt: skip
        why = allowed.why_only_looking()
        if not allowed.button("Keep", why):
            return
        tuned = job.result
        try:
            keep_as(work.family, work.lesson, tuned.weights, tuned.metadata, target, name, beside)
        except InputError as error:
            st.error(error_text(error))
            return
        st.success(f"{name} is a source of {target} now: choose that family on any page.")


def along(job: Job) -> None:
    """The merges of its checkpoints with other sources, as they come."""
    work: lab.Training = job.spec
    st.subheader("Does it merge?")
    names = parts.others(work.family, work.lesson.name)
    if not names:
        st.info("Choose a source or more.")
        return
    label, why = "Merge the checkpoints", allowed.why_no_job()
    ready = bool(lab.on_disk(work))
    if allowed.button(label, why, disabled=not ready, help="Each with these sources."):
        merges = lab.merges(work, names)
        session.choose_value("along_job", merges.id)
        session.head_start(merges)
        session.remember()
        st.rerun()
    strip.followed(
        session.job_of("along_job"), label, lambda merges: parts.merged(merges, work.lesson.title)
    )


st.title("Lab")
st.caption("Train an expert of your own, and see at which step it still merges with the others.")
family = sources.choose_family()
work = choose(family)
if work is not None:
    begin(work)
job = session.job_of("lab_job")
if job is None:
    strip.outcome(None, gone=bool(session.chosen("lab_job")))
else:
    st.subheader(f"Training on {job.spec.lesson.title}")
    trained(job)
    along(job)
nav.next_step("explore", "Merge on Explore")
