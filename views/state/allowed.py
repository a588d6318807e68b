"""What a visitor may do on this server: one place decides, pages ask it, and actions refuse.

$MLOSS_MODE is one of

    open    everything, as on one's own machine
    class   runs are renamed, deleted and cancelled by whoever began them, in the same visit; so
            many jobs in so many minutes for each
    view    looking: nothing is merged, measured, written or deleted
"""

from __future__ import annotations

import time
import uuid
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.scriptrunner import get_script_run_ctx

from mloss_core import MlossError
from views.state import serving
from views.state.job_board import Job, elapsed

JOBS, WINDOW = 12, 600.0  # of a class, each visitor begins so many in so many seconds
ONCE = ("references", "confidences")  # of a family, for everybody: no visitor's setting decides
# Work that takes the place of what its visitor asked for before, or is done when nothing else is.
MODEST = ("live", "details", "grid", "look")


class NotAllowed(MlossError):
    """Raised where this server's visitors may not do that; its text says why."""


def visitor() -> str:
    """Who this is, for as long as the page is open."""
    return st.session_state.setdefault("visitor", uuid.uuid4().hex)


def why_only_looking() -> str:
    """Why nothing is begun, written or taken here at all; empty where it may be."""
    if serving.mode() != "view":
        return ""
    return f"This server is for looking ({serving.MODE}=view): nothing is begun or changed here."


def why_no_job(jobs: int = 1) -> str:
    """Why this visitor may not begin so many jobs now; empty where he may."""
    if serving.mode() != "class":
        return why_only_looking()
    now = time.monotonic()
    recent = sorted(at for at in _begun().values() if now - at < WINDOW)
    over = len(recent) + jobs - JOBS
    if over <= 0:
        return ""
    left = WINDOW - (now - recent[over - 1])
    return (
        f"You have begun {len(recent)} jobs in the last {elapsed(WINDOW)}; so that everybody has a "
        f"turn, a class may begin {JOBS} each. Go on in {elapsed(left)}."
    )


def why_no_change(run: str) -> str:
    """Why this visitor may not rename or delete a run; empty where he may."""
    if serving.mode() != "class" or run in st.session_state.get("own-runs", ()):
        return why_only_looking()
    return "In a class, whoever began a run renames or deletes it, and while the page stays open."


def why_no_cancel(job: Job) -> str:
    """Why this visitor may not cancel a job; empty where he may."""
    if serving.mode() != "class" or job.owner == visitor():
        return why_only_looking()
    return "Somebody else in the class has begun it."


def refuse(why: str) -> None:
    """Raises NotAllowed where there is a reason."""
    if why:
        raise NotAllowed(why)


def admit(job: Job) -> None:
    """Lets a job onto the board in its visitor's name, or raises NotAllowed."""
    if job.kind in ONCE:
        return
    refuse(why_only_looking())
    if get_script_run_ctx() is None:  # a route's, which belongs to no page
        return
    if job.kind not in MODEST:
        refuse(why_no_job())
        _begun()[job.id] = time.monotonic()
    job.owner = visitor()


def stands_back(job: Job) -> None:
    """What a page has begun by itself doesn't count: whatever anybody asked for goes first."""
    _begun().pop(job.id, None)


def _begun() -> dict[str, float]:
    """When this visitor's jobs were begun."""
    return st.session_state.setdefault("jobs-begun", {})


def own(run: str) -> None:
    """The run is this visitor's."""
    st.session_state.setdefault("own-runs", set()).add(run)


def button(label: str, why: str, place: DeltaGenerator | None = None, **options: Any) -> bool:
    """Whether a button is pressed: never where the action is not allowed. There it is disabled, and
    its help is the reason.

    Args:
        why: the reason; empty where it is allowed.
        place: a column, instead of the page.
    """
    if why:
        options |= {"disabled": True, "help": why}
    pressed = (place or st).button(label, **options)
    return pressed and not why  # whatever a browser sends
