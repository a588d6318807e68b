"""Experiments page: repeats one of the paper's tables on the chosen family, with 95 % intervals."""

from __future__ import annotations

import streamlit as st

from mloss_core import Family, InputError, MergeRecipe
from mloss_core.experiments import EXPERIMENTS
from mloss_core.experiments.report import settings_of
from views.experiments import parts as experiments
from views.jobs import kinds, strip
from views.shared import widgets
from views.state import allowed, session
from views.state.bound import bound
from views.state.error_text import error_text


def choice() -> str:
    """Which experiment."""
    name = bound("experiment", st.selectbox)
    st.markdown(f"*{EXPERIMENTS[name].question}*")
    return name


def start(family: Family) -> MergeRecipe | None:
    """The recipe that is varied: that of the Explore page, as M-TIES on all blocks."""
    try:
        return session.current_recipe(method="m-ties", blocks=None, ranks="m-loss")
    except InputError as error:
        st.error(error_text(error))
        return None


def launch(name: str, family: Family, recipe: MergeRecipe) -> None:
    """The button; what was measured before is found on disk, so it also goes on."""
    st.caption(
        f"{settings_of(recipe)} They are those of the Explore page. Cells measured before are "
        "found on disk and not measured again: an experiment that was stopped goes on where it was."
    )
    if allowed.button("Measure, or go on", allowed.why_no_job(), type="primary"):
        job = kinds.experiment(name, family, recipe)
        session.choose_value("experiment_job", job.id)
        session.head_start(job)  # what is on disk comes at once
    widgets.doubtful(family, recipe.sources)


def show_results(name: str, family: Family) -> None:
    """The job of this experiment, live."""
    job = session.job_of("experiment_job")
    if job is None or job.spec[0] != name or job.spec[1].family != family.name:
        strip.outcome(None, gone=job is None and bool(session.chosen("experiment_job")))
        st.info("Nothing measured in this session yet: press the button above.")
        return

    def draw() -> None:
        cells = experiments.finished_cells(job)
        experiments.progress(job, cells)
        strip.outcome(job, gone=False)
        experiments.results(name, family, cells)

    session.while_active(job, 2.0)(draw)()


family = session.current_family()
st.title("Experiments")
name = choice()
recipe = start(family)
if recipe is not None:
    launch(name, family, recipe)
    show_results(name, family)
if not session.lecture():
    experiments.paper(name)
