"""Before merging: norms and confidence of the sources, warnings, and the choice of equal norms."""

from __future__ import annotations

from typing import Any

import streamlit as st

from mloss_core import METHODS, Family
from mloss_core.analysis.before import Before, Confidence, warnings_of
from mloss_core.analysis.task_vectors import Geometry
from mloss_core.fields import FIELDS
from views.jobs import analyses
from views.state import session
from views.state.job_board import Job

NORM, SURE = "norm", "confidence"
WAITS = "measuring…"


def standing(family: Family, geometry: Geometry, job: Job) -> Before:
    """What is measured so far; the rest is unknown, and says why."""
    why = "not measured" if job.state in ("failed", "cancelled") else WAITS
    done = {event.source: event for event in list(job.events) if isinstance(event, Confidence)}
    waiting = {name: Confidence(source=name, per_image=None, why=why) for name in family.sources}
    sure = tuple((waiting | done)[name] for name in family.sources)
    return Before(sources=family.sources, geometry=geometry, confidences=sure)


def row(measured: Before, place: int) -> dict[str, Any]:
    """A source's columns in the table of sources."""
    sure = measured.confidences[place]
    unknown = WAITS if sure.why == WAITS else "unknown"
    return {
        NORM: float(measured.geometry.norms[place]),
        SURE: unknown if sure.mean is None else f"{sure.mean:.1%}",
    }


def columns(measured: Before) -> dict[str, Any]:
    """How those columns are drawn; the help says why a confidence is unknown."""
    said = "Mean of the largest probability, on calibration images of the source's own task."
    reasons = dict.fromkeys(sure.why for sure in measured.confidences if sure.why)
    whys = " ".join(f"Unknown: {why}." for why in reasons if why != WAITS)
    norm = "Euclidean norm of the task vector: source minus base, all tensors together."
    return {
        NORM: st.column_config.NumberColumn(format="%.3g", help=norm),
        SURE: st.column_config.TextColumn(help=f"{said} {whys}".strip()),
    }


def section(family: Family, measured: Before, job: Job) -> None:
    """What speaks against merging them as they are, and what can be done about it."""
    st.subheader("Before merging")
    if job.state == "failed":
        st.error(job.error)
        if st.button("Measure confidence again", help="When what it says has been mended."):
            analyses.confidences_job(family, again=True)
            st.rerun()
    titles = [family.title(name) for name in measured.sources]
    sentences = warnings_of(measured, titles)
    for sentence in sentences:
        st.warning(sentence)
    st.caption(verdict(measured, bool(sentences)))
    _norms()


def verdict(measured: Before, warned: bool) -> str:
    """What was looked at, and that nothing speaks against a merge where nothing does."""
    looked = (
        "Merges fail most on task vectors of unequal norms and on sources of low confidence "
        "(Yoshida et al. 2026); a factor of two counts as unequal here."
    )
    sure = [confidence.mean is not None for confidence in measured.confidences]
    if warned:
        return looked
    if all(sure):
        return f"{looked} These sources are of a kind in both."
    return f"{looked} Their norms are of a kind; not every confidence is measured."


def _norms() -> None:
    """The recipe's field on norms, as a button and its undoing."""
    field = FIELDS["norms"]
    equal = session.chosen(field.link or "norms") == "equal"
    readers = [method.title for method in METHODS.values() if "norms" in method.reads]
    st.button(
        "Norms as they are" if equal else "Make norms equal", key="equal-norms",
        on_click=session.choose_value, args=("norms", "own" if equal else "equal"),
        help="In merges from here on, every task vector is scaled to their mean norm, or none is. "
        f"Read by methods that need no images: {', '.join(readers)}.",
    )  # fmt: skip
    chosen = METHODS[session.chosen("method")]
    unread = "" if "norms" in chosen.reads else f" {chosen.title}, the chosen method, ignores it."
    st.caption(f"{field.label}: {field.choices['equal' if equal else 'own']}.{unread}")
