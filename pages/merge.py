"""Merge: the recipe, its keep rates, the launch with live accuracies, and all finished merges."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from mloss_core import (
    METHODS,
    BlockScored,
    Family,
    Finished,
    MergeRecipe,
    RunRecord,
    list_runs,
    verdict,
)
from mloss_core.store import final_hits, root
from views import readouts, session, strip, widgets, work
from views.jobs import Job, elapsed


def recipe_column(family: Family) -> MergeRecipe | None:
    """The form and the launch button; a launched job is never touched by moving a slider."""
    recipe = widgets.recipe_form(family)
    if st.button("Launch merge", type="primary", disabled=recipe is None, width="stretch"):
        assert recipe is not None
        job = work.merge(family, recipe)
        session.choose_value("merge_job", job.id)
        session.remember()
        st.rerun()
    if recipe is not None:
        said = widgets.memory(recipe, family, len(work.own_tasks(family)))
        st.caption(f"{said[0].upper()}{said[1:]}")
        widgets.doubtful(family, recipe.sources)
    return recipe


def keep_rates(family: Family, recipe: MergeRecipe) -> None:
    """The keep-rate curve of every block, on the last measured M-Loss where there is one."""
    if "keep" not in METHODS[recipe.method].reads:
        st.caption("This method trims nothing: k and e do not matter.")
        return
    job = session.job_of("score_job")
    known = [e.scores for e in list(job.events) if isinstance(e, BlockScored)] if job else []
    scores = {s.block: s.node for s in known}
    widgets.keep_rate_figure(recipe, family, scores if len(scores) == family.model.blocks else {})


def progress(family: Family, job: Job) -> None:
    """The launched merge: live while it works, its table when it is finished."""
    strip.outcome(job, gone=False)
    readouts.live(family, work.own_tasks(family), job)
    events = list(job.events)
    if events and isinstance(event := events[-1], Finished):
        st.success(
            f"Merged in {elapsed(event.seconds)} on {event.device}; evaluated on all test images."
        )
        readouts.final(family, final_hits(events), job.spec.method)
    elif known := readouts.so_far(job, work.own_tasks(family)):
        readouts.final(family, known, job.spec.method)
        st.caption("Models that are still being measured on all test images follow.")


def finished_merges(family: Family) -> None:
    """Every merge kept on disk: compare, download, or go back to its recipe."""
    st.subheader("Finished merges")
    runs = [r for r in list_runs() if r.metadata["recipe"]["family"] == family.name]
    if not runs:
        st.caption(
            f"None yet. Launch one above: it is kept here, with its file, in the folder {root()}."
        )
        return
    rows = [
        {
            "merge": readouts.summary(run.metadata["recipe"]),
            "average": average(run),
            "finished (UTC)": run.created[:19].replace("T", " "),
            "run": run.id,
        }
        for run in runs
    ]
    st.caption("Tick rows to compare them on the same images, or to download one.")
    picked = st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        on_select="rerun",
        selection_mode="multi-row",
        key="runs",
    )
    chosen = [runs[i] for i in picked["selection"]["rows"] if i < len(runs)]
    for run in chosen:
        downloads(run)
    if len(chosen) >= 2:
        compare(family, chosen)


def average(run: RunRecord) -> str:
    """Mean accuracy of a run's model with its interval; unknown is shown as unknown."""
    if "merged" not in run.hits:
        return "not evaluated"
    mean, low, high = readouts.mean_accuracy(run.hits["merged"])
    known, tasks = len(run.hits["merged"]), max(map(len, run.hits.values()))
    of = f", of {known} of {tasks} tasks" if known < tasks else ""
    return readouts.with_interval(mean, low, high) + of


def downloads(run: RunRecord) -> None:
    """The file of a merge, served from disk as it was written."""
    left, right = st.columns([4, 1], vertical_alignment="center")
    left.markdown(f"`{run.id}` {readouts.summary(run.metadata['recipe'])}")
    if run.model is None:
        right.caption("no single model")
    else:
        size = run.model.stat().st_size / 1e6
        right.link_button(f"Download ({size:.1f} MB)", f"/download/{run.id}", width="stretch")


def compare(family: Family, chosen: list[RunRecord]) -> None:
    """Two or more merges side by side, the first against each other paired."""
    st.markdown("**Compared on the same test images**")
    named = {
        f"{i + 1}: {readouts.summary(run.metadata['recipe'])}": run.hits["merged"]
        for i, run in enumerate(chosen)
        if "merged" in run.hits
    }
    readouts.table(family, named)
    (first, ours), *others = named.items()
    for name, theirs in others:
        st.markdown(verdict(first, name, ours, theirs))


family = session.current_family()
st.title("Merge")
left, right = st.columns([2, 3])
with left:
    recipe = recipe_column(family)
with right:
    if recipe is not None:
        keep_rates(family, recipe)
job = session.job_of("merge_job")
if job is not None:
    session.while_active(job)(lambda: progress(family, job))()
else:
    strip.outcome(None, gone=bool(session.chosen("merge_job")))
finished_merges(family)
