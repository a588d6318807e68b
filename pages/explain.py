"""Explain: why a node's M-Loss is high, two maps, few blocks, and what a merge leaves."""

from __future__ import annotations

from functools import partial

import streamlit as st

from mloss_core import BlockScored, Family, InputError
from views.explain import tabs
from views.jobs import kinds, live, strip
from views.shared import nav, widgets
from views.state import session
from views.state.error_text import error_text
from views.state.job_board import Job, elapsed


def map_job(family: Family) -> Job | None:
    """The map that is explained: of M-TIES at the chosen setting, on all blocks."""
    widgets.bound(
        "inputs", st.segmented_control, "Measured", tabs.MEASURED,
        help="Along: each block sees what the blocks merged before it make of the images. Before: "
        "what the base makes of them, as in the released code. It is a setting of merges, too.",
    )  # fmt: skip
    try:
        recipe = live.map_recipe(session.current_recipe())
    except InputError as error:
        st.error(error_text(error))
        return None
    job = kinds.map_job(family, recipe, tabs.MEASURED[recipe.inputs_from])
    if job is not None:
        session.choose_value("score_job", job.id)
    st.caption(
        f"{len(recipe.sources)} sources, along an M-TIES merge with k = {recipe.keep:g}, "
        f"e = {recipe.variation:g}, λ = {recipe.scaling:g}; {recipe.samples} calibration images; "
        f"{widgets.memory(recipe, family)}"
    )
    return job


def progress(family: Family, job: Job) -> None:
    """How far the map is."""
    strip.outcome(job, gone=False)
    done = sum(isinstance(event, BlockScored) for event in list(job.events))
    state = f"measured in {elapsed(job.seconds)}" if job.state == "finished" else job.state
    st.caption(f"{done} of {family.model.blocks} blocks {state} on {session.device().type}.")


family = session.current_family()
st.title("Explain")
st.caption(
    "Why M-Loss is high where it is, and what follows. A cell of the Explore map leads here."
)
nav.next_step("explore", "Back to the map")
if (job := map_job(family)) is not None:
    session.while_active(job)(partial(progress, family, job))()
tabs.show(family, job)
