"""Job strip of every page: progress and cancel button of each active job, and job outcomes."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from views.state import allowed, session
from views.state.job_board import Job, elapsed

EARLY = 0.1  # share of the work before which nothing is said of the time left


def show() -> None:
    """One row for each job that waits or works; nothing where there is none."""
    # style.py lays it over the foot of the page, so that rows come and go and nothing moves.
    with st.container(key="strip", gap=None):
        for job in session.board().active():
            session.while_active(job)(lambda job=job: _row(job))()


def _row(job: Job) -> None:
    if not job.active:
        return
    left, right = st.columns([5, 1], vertical_alignment="center")
    waiting = " (waiting for the job before it)" if job.state == "queued" else ""
    stopping = job.cancelled.is_set()
    left.progress(job.share, f"{'Cancelling: ' * stopping}{job.title}{waiting} · {far(job)}")
    why = allowed.why_no_cancel(job)
    if allowed.button(
        "Cancel", why, right, key=f"cancel-{job.id}", help="Stops within two seconds.",
        disabled=stopping,
    ):  # fmt: skip
        job.cancel()
        job.wait(1.0)
        st.rerun()


def far(job: Job) -> str:
    """How far a job is: steps where they are things that people count, time, and time left."""
    parts = [elapsed(job.seconds)]
    if job.kind == "experiment" and job.planned:
        parts.insert(0, f"{round(job.share * job.planned.steps)} of {job.planned.steps} cells")
    if job.share > EARLY and job.seconds > 1 / EARLY:
        parts.append(f"about {elapsed(job.seconds * (1 - job.share) / job.share)} left")
    return ", ".join(parts)


def progress(job: Job | None) -> None:
    """How far a job is, where its result will stand; nothing once it has ended."""
    if job is not None and job.active:
        st.progress(job.share, f"{job.title} · {elapsed(job.seconds)} (cancel it at the foot)")


def followed(job: Job | None, label: str, draw: Callable[[Job], None]) -> None:
    """Draws what a job has measured as it comes; or says which button begins it.

    Args:
        label: of that button, which stands above where there is no job.
        draw: what there is so far.
    """
    if job is None:
        st.info(f"Not measured yet. Press *{label}* above.")
        return

    def so_far() -> None:
        outcome(job, gone=False)
        progress(job)
        draw(job)

    session.while_active(job)(so_far)()


def outcome(job: Job | None, gone: bool) -> None:
    """What became of the job that this page shows: failed, cancelled, or no longer known.

    Args:
        gone: the link names a job that this server does not know.
    """
    if gone:
        st.info(
            "The job of this link is gone: the server was started anew. What it wrote "
            "is on the Runs page; start the job again to see the rest."
        )
    elif job is not None and job.state == "failed":
        st.error(job.error)
    elif job is not None and job.state == "cancelled":
        st.info(f"Cancelled: {job.title}. What is shown was measured before.")
