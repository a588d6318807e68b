"""Few-layer M-TIES: merges of chosen blocks, and all choices compared."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import streamlit as st

from mloss_core import Family, MergeRecipe, mean_accuracy
from mloss_core.evaluation.paired_test import Answers
from mloss_core.experiments import Tried, tried
from views.explain import block_figures
from views.jobs import kinds, strip
from views.shared import block_picker, nav, readouts
from views.state import allowed, selection, session
from views.state.job_board import Job

TIES, ENSEMBLE = "TIES, same k", "ensemble"


def show(family: Family, recipe: MergeRecipe) -> None:
    """The button, the result beside its rivals, and the frontier of all choices.

    Args:
        recipe: of the merge, whatever its blocks.
    """
    blocks = block_picker.current(family).blocks
    tasks = kinds.own_tasks(family)
    trials = tried(recipe, family, tasks)
    mine = next((t for t in trials if t.same and t.blocks == blocks), None)
    whole = next((t for t in trials if t.same and len(t.blocks) == family.model.blocks), None)
    st.subheader("Merge with these blocks")
    _launch(family, recipe, blocks, whole is None, mine)
    for job in _jobs():
        session.while_active(job)(lambda job=job: strip.progress(job))()
    if mine is not None:
        _beside(family, mine, whole, trials)
    if trials:
        _frontier(trials, blocks)


def _jobs() -> list[Job]:
    """The merges that this page launched and that still work."""
    ids = st.session_state.get("few-layer", [])
    jobs = [session.board().get(name) for name in ids]
    return [job for job in jobs if job is not None and job.active]


def _launch(
    family: Family, recipe: MergeRecipe, blocks: Sequence[int], whole: bool, mine: Tried | None
) -> None:
    """The one button.

    Args:
        whole: whether all blocks are still to be merged, to stand beside.
    """
    words = selection.text(blocks, family.model.blocks)
    some = {"all": "all blocks", "none": "no block"}.get(words, f"blocks {words}")
    wanted = dict.fromkeys([None if words == "all" else tuple(blocks), *([None] if whole else [])])
    why = allowed.why_no_job(len(wanted))  # both or none
    if allowed.button(f"Merge with {some}", why, type="primary", disabled=bool(_jobs())):
        jobs = [
            kinds.merge(family, dataclasses.replace(recipe, blocks=chosen)) for chosen in wanted
        ]
        session.choose_value("merge_job", jobs[0].id)
        st.session_state["few-layer"] = [job.id for job in jobs]
        session.remember()
        st.rerun()
    beside = " All blocks are merged, too, to stand beside." if whole and words != "all" else ""
    if mine is None:
        st.caption(f"M-TIES with this choice has not been merged yet.{beside}")
    else:
        st.caption("This choice has been merged; again gives the same model.")


def _beside(family: Family, mine: Tried, whole: Tried | None, trials: Sequence[Tried]) -> None:
    """The choice beside all blocks, TIES and the ensemble, with paired verdicts."""
    name = f"M-TIES, {mine.row.label}"
    rivals = {"M-TIES, all blocks": whole.row.answers} if whole and whole is not mine else {}
    for label, key in ((TIES, "ties"), (ENSEMBLE, "ensembling")):
        if key == "ties" and not mine.blocks:
            continue  # it is TIES
        if hits := mine.run.hits.get(key) or reference(trials, key):
            rivals[label] = hits
    verdicts = (
        readouts.verdict(name, rival, mine.row.answers, hits) for rival, hits in rivals.items()
    )
    readouts.verdicts(list(verdicts))
    with st.expander("Every task, with 95 % intervals"):
        readouts.table(family, {name: mine.row.answers, **rivals})
    nav.next_step("runs", "The merge itself, with its file, is on the Runs page")


def reference(trials: Sequence[Tried], key: str) -> Answers:
    """Answers of TIES or the ensemble: beside the newest run that has them, or TIES' own run."""
    beside = (t.run.hits[key] for t in trials if t.same and key in t.run.hits)
    own = (t.row.answers for t in trials if t.same and key == "ties" and not t.blocks)
    return next(itertools.chain(beside, own), {})


def _frontier(trials: Sequence[Tried], blocks: Sequence[int]) -> None:
    """Cost against accuracy of every choice tried."""
    ensemble = reference(trials, "ensembling")
    mean = mean_accuracy(ensemble)[0] if ensemble else None
    st.plotly_chart(
        block_figures.frontier(trials, blocks, mean), key="frontier",
        alt="Mean accuracy over the cost of each choice of blocks that was tried",
    )  # fmt: skip
    same = sum(t.same for t in trials)
    more = f" and {len(trials) - same} with other settings" if len(trials) > same else ""
    st.caption(
        f"{same} choice{'s' * (same != 1)} tried with these settings{more}, of this session and "
        "from the Runs, experiments included. Bars are 95 % intervals. The best of many on the "
        "same test images looks better than it is."
    )
