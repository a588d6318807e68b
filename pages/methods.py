"""Methods page: all methods in a table, one in full, and several compared on this family."""

from __future__ import annotations

import streamlit as st

from mloss_core import Family, InputError, MergeRecipe
from views.explore.page import published_settings
from views.jobs import kinds, strip
from views.methods import comparison, parts
from views.methods.at_published import Measured
from views.runs import parts as runs
from views.shared import nav, sources, widgets
from views.state import allowed, session
from views.state.error_text import error_text
from views.state.job_board import Job


def launch(family: Family, recipe: MergeRecipe) -> None:
    """A merge that is kept; the page follows it."""
    job = kinds.merge(family, recipe)
    session.choose_value("merge_job", job.id)
    session.head_start(job)
    session.remember()
    st.rerun()


def chosen_method(family: Family) -> None:
    """One method: what it is, its settings, its published numbers, and its merge."""
    st.subheader("One method")
    method = parts.choose(published_settings, family)
    left, right = st.columns(2, gap="large")
    with left:
        parts.about(family, method)
        actions(family)
    with right:
        st.markdown("**Published numbers**")
        parts.numbers(method)
    job = session.job_of("merge_job")
    if job is None:
        strip.outcome(None, gone=bool(session.chosen("merge_job")))
    elif job.spec.method == method:
        merged(family, job, "method")


def actions(family: Family) -> None:
    """To the Explore page with it, or merge and keep it here."""
    try:
        recipe = session.current_recipe()
    except InputError as error:
        st.error(error_text(error))
        return
    with st.container(horizontal=True):
        if st.button("Merge with it on Explore", help="The same choice, on the one-screen view."):
            session.remember()
            st.switch_page(nav.page("explore"))
        keeps = allowed.button(
            "Launch and keep", allowed.why_no_job(),
            help="Merges, measures on all test images, and records the run.",
        )  # fmt: skip
    st.caption(f"It {widgets.memory(recipe, family, len(family.own_tasks(recipe.sources)))}.")
    if keeps:
        launch(family, recipe)


def merged(family: Family, job: Job, place: str) -> None:
    """A launched merge, live, and its files."""
    session.while_active(job)(lambda: parts.result(family, job, place))()
    if (run := parts.run_of(job)) is not None:
        runs.download_links(run)


def compare(family: Family, measured: dict[str, Measured]) -> None:
    """Several methods, each once at its published settings."""
    st.subheader("Compare methods")
    left, right = st.columns([3, 1])
    with left:
        names = comparison.choose()
    with right:
        seconds = comparison.budget()
    wanted = comparison.recipes(family, names)
    if wanted and allowed.button("Compare", allowed.why_no_job(), type="primary"):
        times = {name: of.seconds for name, of in measured.items() if of.seconds is not None}
        job = kinds.compare(family, wanted, seconds, times)
        session.choose_value("compare_job", job.id)
        session.head_start(job)
        session.remember()
        st.rerun()  # so that the table above knows what was measured
    job = session.job_of("compare_job")
    if job is None or job.spec[0][0].family != family.name:
        strip.outcome(None, gone=job is None and bool(session.chosen("compare_job")))
        st.info("Nothing compared in this session yet: press the button above.")
        return
    show_comparison(family, job)


def show_comparison(family: Family, job: Job) -> None:
    """The comparison, live; then the best is kept and can be downloaded."""

    def draw() -> None:
        comparison.show(family, job)
        if not job.active:  # another may yet be better
            comparison.keep(comparison.compared(family, job), lambda recipe: launch(family, recipe))

    session.while_active(job, 2.0)(draw)()
    merge = session.job_of("merge_job")
    if merge is not None and merge.spec in job.spec[0]:
        merged(family, merge, "best")


family = session.current_family()
st.title("Methods")
st.caption("Which method merges these sources best, what does it need, and what does it cost?")
sources.choose_sources(family)
sources.judge(family)
measured = parts.disk(family, session.chosen_sources())
parts.overview(measured)
chosen_method(family)
compare(family, measured)
