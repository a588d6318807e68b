"""Merge page: recipe form, keep rates, live and launched merges, and the latest runs."""

from __future__ import annotations

from functools import partial

import streamlit as st

from mloss_core import METHODS, BlockScored, Family, Finished, MergeRecipe, MlossError, load_run
from mloss_core.memory_estimate import amount
from mloss_core.runs.store import final_hits
from mloss_core.tensor_cache import room
from views.jobs import kinds, strip
from views.merge import live
from views.runs import parts as runs
from views.shared import readouts, widgets
from views.state import session
from views.state.job_board import Job, elapsed


def recipe_column(family: Family) -> tuple[MergeRecipe | None, Job | None]:
    """The form, its live merge, and the launch button; a launched job is never touched by moving a
    slider."""
    recipe = widgets.recipe_form(family)
    on = live.switch(family)
    wanted = on and recipe is not None and kinds.can_be_live(recipe)
    live_job = live.job_for(family, recipe) if wanted and recipe is not None else None
    if on and not wanted and recipe is not None:
        st.caption("Not live: this method leaves no single model. Launch it.")
    if st.button("Launch merge", type="primary", disabled=recipe is None, width="stretch"):
        assert recipe is not None
        job = kinds.merge(family, recipe)
        session.choose_value("merge_job", job.id)
        session.remember()
        st.rerun()
    if recipe is not None:
        said = widgets.memory(recipe, family, len(kinds.own_tasks(family)))
        kept = room(family.model.shapes(), len(recipe.sources)) if live_job is not None else 0
        beside = f". Live keeps at most {amount(kept)} more between merges" if kept else ""
        st.caption(f"{said[0].upper()}{said[1:]}{beside}")
        widgets.doubtful(family, recipe.sources)
    return recipe, live_job


def keep_rates(family: Family, recipe: MergeRecipe) -> None:
    """The keep-rate curve of every block, on the last measured M-Loss where there is one."""
    if "keep" not in METHODS[recipe.method].reads:
        st.caption("This method trims nothing: k and e do not matter.")
        return
    job = session.job_of("score_job")
    block_scores = [e.scores for e in list(job.events) if isinstance(e, BlockScored)] if job else []
    scores = {s.block: s.node for s in block_scores}
    widgets.keep_rate_figure(recipe, family, scores if len(scores) == family.model.blocks else {})


def progress(family: Family, job: Job) -> None:
    """The launched merge: live while it works, its table when it is finished."""
    strip.outcome(job, gone=False)
    readouts.live(family, kinds.own_tasks(family), job)
    events = list(job.events)
    if events and isinstance(event := events[-1], Finished):
        st.success(
            f"Merged in {elapsed(event.seconds)} on {event.device}; evaluated on all test images."
        )
        hits = final_hits(events)
        readouts.final(family, hits, job.spec.method)
        runs.beside_reference(family, hits)
        if job.result:
            show_downloads(job.result)
    elif hits := readouts.hits_so_far(job, kinds.own_tasks(family)):
        readouts.final(family, hits, job.spec.method)
        st.caption("Models that are still being measured on all test images follow.")


def show_downloads(name: str) -> None:
    """Where the finished merge can be had; it may have been deleted since."""
    try:
        runs.download_links(load_run(name))
    except MlossError:
        st.caption("This merge is no longer on disk.")


family = session.current_family()
st.title("Merge")
left, right = st.columns([2, 3])
with left:
    recipe, live_job = recipe_column(family)
with right:
    place = st.empty()
    if recipe is not None:
        keep_rates(family, recipe)
job = session.job_of("merge_job")
if job is not None:
    session.while_active(job)(partial(progress, family, job))()
else:
    strip.outcome(None, gone=bool(session.chosen("merge_job")))
    runs.beside_reference(family, None)
runs.latest(family)
if recipe is not None and live_job is not None:
    live.panel(place, family, recipe, live_job)
