"""Compatibility page: M-Loss of pairs and of the set, and how well it predicts lost accuracy."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from mloss_core import Family, InputError, MergeRecipe
from mloss_core.analysis.compatibility import report, words
from mloss_core.analysis.compatibility.ensemble_gap import GapMeasured
from mloss_core.analysis.compatibility.prediction import TRIPLES, gathered
from mloss_core.analysis.compatibility.sets import Compatibility
from mloss_core.analysis.compatibility.sign_conflict import SignsCounted, conflict
from mloss_core.analysis.exchangeable import gains_if_alike
from mloss_core.mloss import MEASURES, SetLosses
from views.compatibility import figures
from views.compatibility import parts as views
from views.jobs import kinds, strip
from views.shared import nav, widgets
from views.shared.figures import block_means
from views.state import allowed, session
from views.state.error_text import error_text
from views.state.job_board import Job


def controls(family: Family) -> MergeRecipe | None:
    """Which set, and on how many images; None, with the reason shown, if nothing can be asked."""
    views.choose_set(family)
    left, middle, right = st.columns(3, vertical_alignment="bottom")
    with left:
        widgets.bound("measure", st.selectbox)
    with middle:
        widgets.samples(family)
    with right:
        widgets.seed("Seed of the draw")
    try:
        return session.current_recipe(method="m-ties", blocks=None, variation=0.0, scaling=1.0)
    except InputError as error:
        st.error(error_text(error))
        return None


def measured(family: Family, recipe: MergeRecipe) -> Job | None:
    """The job that has what is asked; small families are measured without being asked."""
    job = kinds.find_job("compatibility", recipe)
    why = allowed.why_no_job()
    small = family.model.width <= kinds.NARROW and not why
    clicked = (
        job is None and not small
        and allowed.button("Measure compatibility", why, type="primary")
    )  # fmt: skip
    if (job is None and small) or clicked:
        job = kinds.measure(family, recipe)
        session.head_start(job if clicked else session.begun(job))
    elif job is not None:
        session.looked_at(job)
    if job is None:
        st.info(
            why
            or "Press *Measure compatibility*: the calibration images go once through the base and "
            f"each source's {family.model.blocks} blocks. {widgets.memory(recipe, family)}"
        )
    return job


def maps(family: Family, recipe: MergeRecipe, job: Job) -> None:
    """Everything that is known before merging, as far as it is measured."""
    strip.outcome(job, gone=False)
    if job.state == "failed" and allowed.button("Measure again", allowed.why_no_job()):
        kinds.measure(family, recipe)
        st.rerun()
    events = list(job.events)
    blocks = tuple(e for e in events if isinstance(e, SetLosses))
    if not blocks:
        st.info(f"Nothing measured yet: {job.state}.")
        return
    compatibility = Compatibility(sources=recipe.sources, blocks=blocks)
    signs = [e for e in events if isinstance(e, SignsCounted)]
    pairs(family, recipe, compatibility, signs)
    whole_set(family, compatibility)
    leave_one_out(family, recipe, compatibility)


def pairs(
    family: Family, recipe: MergeRecipe, compatibility: Compatibility, signs: list[SignsCounted]
) -> None:
    """Three matrices over the sources, in one order, and their numbers."""
    st.subheader("Pair by pair")
    st.markdown(
        "**M-Loss** of a pair is the gap between *average, then activate* (what merging does) and "
        "*activate, then average* (what an ensemble, all models run side by side, does). A **task "
        "vector** is a source minus the base; the **cosine** of two is 1 where they point the "
        "same way and 0 where they have nothing to do with each other. **Sign conflict** is the "
        f"share of the entries that trimming at k = {recipe.keep:g} leaves in both task vectors "
        "whose signs are opposite: by chance it is 50 %. Sources are ordered by **clusters**: the "
        "brackets join first what has the lowest M-Loss."
    )
    block = views.block_of(family)
    geometry = views.geometry_of(family, recipe)
    for column, (figure, title, alt) in zip(
        st.columns(3),
        views.matrices(family, compatibility, geometry, signs, session.chosen("measure"), block),
        strict=True,
    ):
        with column:
            st.markdown(f"**{title}**")
            if figure is None:
                st.caption("Counted after M-Loss.")
            else:
                st.plotly_chart(figure, key=f"pairs-{title}", alt=alt)
    export("pairs", report.pair_rows(compatibility, geometry, conflict(signs)))


def whole_set(family: Family, compatibility: Compatibility) -> None:
    """M-Loss of the chosen set by block, and in all."""
    st.subheader("The chosen set")
    measure = session.chosen("measure")
    st.markdown(views.total(family, compatibility, measure))
    means = {b.block: tuple(compatibility.whole(measure, b.block)) for b in compatibility.blocks}
    figure = block_means(means, family.model.blocks, f"M-Loss, {MEASURES[measure]}")
    st.plotly_chart(figure, key="set", alt="M-Loss of the chosen set in each block")
    export("set", report.whole_rows(compatibility))


def leave_one_out(family: Family, recipe: MergeRecipe, compatibility: Compatibility) -> None:
    """What leaving out each source gains: in all, and by block."""
    st.subheader("Leave this source out")
    measure = session.chosen("measure")
    gains = compatibility.gains(measure)
    if gains is None:
        st.info("Choose three sources or more: of two, nothing is left to merge without one.")
        return
    names = [family.title(name) for name in compatibility.sources]
    st.markdown(words.gains(names, gains, recipe.alpha, measure))
    left, right = st.columns(2)
    tasks = [family.sources.index(name) for name in compatibility.sources]
    figure = figures.gains(gains, names, tasks, gains_if_alike(recipe.alpha, measure))
    alt = "By how much the set's M-Loss falls without each source, with 95 % intervals"
    left.plotly_chart(figure, key="gains", alt=alt)
    left.caption("Dashed: what the source would give if all were alike.")
    by_block, blocks = views.gains_by_block(compatibility, measure)
    alt = "By how much each block's M-Loss falls without each source"
    right.plotly_chart(figures.left_out(by_block, names, blocks), key="by-block", alt=alt)
    right.caption("Blue: M-Loss falls without this source. Orange: it rises.")
    export("left-out", report.left_out_rows(compatibility))


def prediction(family: Family) -> None:
    """Merges of pairs and triples: does what was known before tell what they lose?"""
    st.subheader("Does M-Loss predict?")
    st.markdown(
        "Every pair of the chosen sources and some random triples are merged in equal parts, as "
        "the family's makers recommend, and tested on their members' own tasks. **Accuracy lost** "
        "is own accuracy minus merged accuracy, in points. The **rank correlation** (Spearman's) "
        "is 1 where both put the sets in the same order, 0 where one says nothing of the other."
    )
    rule = widgets.bound("rule", st.segmented_control)
    problem = views.study_problem(family)
    if problem:
        st.info(problem)
        return
    recipe = views.study_recipe(family, rule)
    job = views.job_or_button(
        "study", recipe, "Merge them and see", lambda: kinds.predict(family, recipe)
    )
    if job is None:
        st.info(
            "Press *Merge them and see*: minutes on a CPU. What was measured before is kept on "
            "disk and comes at once."
        )
        return
    session.while_active(job)(lambda: show_study(family, recipe, job))()


def show_study(family: Family, recipe: MergeRecipe, job: Job) -> None:
    """The study as far as it has come."""
    strip.outcome(job, gone=False)
    geometry = views.geometry_of(family, recipe)
    study = gathered(recipe, TRIPLES, geometry, list(job.events))
    if not study.sets:
        st.info(f"No set is merged yet: {job.state}.")
        return
    views.show_study(family, study)
    export("merged-sets", report.set_rows(study))
    export("correlations", report.correlation_rows(study))


def ensemble(family: Family) -> None:
    """The paper's claim of alignment: M-TIES is nearer to the ensemble than TIES."""
    st.subheader("The ensemble gap")
    st.markdown(
        "The **ensemble** runs all sources and averages their embeddings (what an image tower "
        "makes of a picture). The paper claims that M-TIES aligns the merged model with it better "
        "than TIES does. Distance here is 1 minus the cosine of the two embeddings of an image; "
        "both merges use the settings of the Explore page."
    )
    tasks = family.own_tasks(session.chosen_sources())
    if not tasks:
        st.info("None of the chosen sources has test images: choose others, or add their tasks.")
        return
    recipe = session.current_recipe(method="m-ties")
    ask = lambda: kinds.gap(family, recipe, tasks)  # noqa: E731
    job = views.job_or_button("gap", recipe, "Measure the ensemble gap", ask)
    if job is None:
        st.info("Press *Measure the ensemble gap*: three merges, then all sources' embeddings.")
        return
    session.while_active(job)(lambda: gap(family, job))()


def gap(family: Family, job: Job) -> None:
    """Both distances on each task that is measured."""
    strip.outcome(job, gone=False)
    gaps = [e for e in list(job.events) if isinstance(e, GapMeasured)]
    if not gaps:
        st.info(f"No task is compared yet: {job.state}.")
        return
    st.markdown(words.gap(gaps))
    alt = "Mean distance to the ensemble on each task, of M-TIES and of TIES"
    st.plotly_chart(figures.ensemble_gap(views.gap_rows(family, gaps)), key="gap", alt=alt)
    st.caption(
        "Bars hold each merge's own interval; the sentence above pairs them by image. "
        "Distinguishable: that paired interval excludes zero."
    )
    export("ensemble-gap", report.gap_rows(gaps))


def export(name: str, rows: Iterable[dict[str, Any]]) -> None:
    """Numbers to download; hidden in the lecture view."""
    if session.lecture():
        return
    text = pd.DataFrame(list(rows)).to_csv(index=False)
    label, key = f"CSV: {name.replace('-', ' ')}", f"csv-{name}"
    st.download_button(label, text, f"{name}.csv", "text/csv", key=key)


family = session.current_family()
st.title("Compatibility")
st.caption("Can these merge at all? What a look at them tells before merging, and if it is true.")
recipe = controls(family)
if recipe is not None:
    job = measured(family, recipe)
    if job is not None:
        session.while_active(job)(partial(maps, family, recipe, job))()
    if not session.lecture():  # minutes of work
        prediction(family)
        ensemble(family)
    nav.next_step("explore", "Next: merge them")
