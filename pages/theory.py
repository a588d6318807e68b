"""Theory page: expected M-Loss by the paper, exact and simulated, and measured in a family."""

from __future__ import annotations

from functools import partial

import streamlit as st

from mloss_core import Family, InputError
from mloss_core.analysis.curvature import SMOOTH
from views.jobs import kinds, strip
from views.shared import widgets
from views.state import allowed, session
from views.state.error_text import error_text
from views.state.job_board import Job
from views.theory import parts as theory_readouts


def sliders() -> None:
    """Expected M-Loss in the paper's model."""
    st.subheader("What to expect", anchor="expected")
    st.markdown(
        "A **node** is one number that a layer computes: first its **pre-activation**, a weighted "
        "sum, then its output, the **activation function** of that sum. In the paper's model the "
        "base's pre-activation *x* is anywhere between −K and K, and each of the *q* **sources** "
        "(the models fine-tuned from the base) has a pre-activation that is normally distributed "
        "around *x* with **shift** *s* (its standard deviation). **M-Loss** is the gap between the "
        "activation of the average and the average of the activations. Its **expected** value is "
        "its average over all such cases."
    )
    setting = theory_readouts.controls()
    theory_readouts.numbers(setting)
    theory_readouts.curves(setting)
    st.caption(
        "The height is the expected M-Loss divided by ReLU's formula, (q−1)s²/(4qK). Exact: "
        "numerical integration. Monte Carlo: the model drawn at random many times; nineteen of "
        "twenty such bands hold the true value. Dashed: limits (≪ is much smaller, ≫ much larger). "
        "Dotted: what the paper prints, for two sources."
    )
    if session.lecture():
        return
    with st.expander("Where the numbers come from"):
        st.latex(
            r"E[D] = \frac{(q-1)\,s^2}{4\,q\,K}\ \text{(ReLU, } K \gg s) \qquad "
            r"E[D] = \frac{(q-1)\,s^2}{4\,q\,K} \int |\sigma''(x)|\,dx\ "
            r"\text{(smooth, } s \ll 1 \ll K)"
        )
        st.markdown(
            "Leaky ReLU: (1 − slope) times ReLU's. The integral, which adds up how much the "
            "activation bends, is 1.5156 for GELU and 1.3994 for QuickGELU and SiLU; so two "
            "sources give 0.18945 s²/K and 0.17492 s²/K. The paper prints s²/(√(2π) K) for ReLU, "
            "3.19 times too much, and s²/(4K) for GELU, 1.32 times too much for small s and twice "
            "too much for large s. The derivations are in docs/theory.md."
        )


def measurement_job(family: Family) -> Job | None:
    """The job that measures this family, or None until somebody asks for it."""
    st.subheader("In this family", anchor="family")
    st.markdown(
        "Each **block** of the network has one layer of such nodes. Here K and s are estimated in "
        "each block from the sources' pre-activations on the **calibration images** (unlabeled "
        "images), and what the theory then predicts stands beside what is measured."
    )
    job = session.job_of("theory_job")
    try:
        recipe = session.current_recipe(method="m-ties", blocks=None)
    except InputError as error:
        st.error(error_text(error))
        return job
    if family.model.activation not in SMOOTH:
        st.info(
            f"This family's activation, {family.model.activation}, bends at one point only: it has "
            "no second derivative, so that there is no second order to show. Choose a family with "
            "GELU or QuickGELU on the Explore page."
        )
        return None
    if allowed.button("Measure this family", allowed.why_no_job(), type="primary"):
        job = kinds.theory(family, recipe)
        session.choose_value("theory_job", job.id)
        session.head_start(job)
    st.caption(
        f"{len(recipe.sources)} sources of {family.name}, {recipe.samples} calibration images, "
        f"along an M-TIES merge; {widgets.memory(recipe, family)}"
    )
    if job is not None and job.spec != recipe:
        st.info("The settings have changed since this was measured: measure again.")
    return job


def show_predictions(family: Family, job: Job) -> None:
    """Both predictions, from the blocks known so far."""
    strip.outcome(job, gone=False)
    rows = list(job.events)
    if not rows:
        st.info(f"Nothing measured yet: {job.state}.")
        return
    st.caption(f"{len(rows)} of {family.model.blocks} blocks measured.")
    theory_readouts.blocks(rows)
    st.subheader("Why: bend times spread", anchor="second-order")
    st.markdown(
        "While the sources are close, a node's M-Loss is half the **curvature** of its activation "
        "(the size of its second derivative at the average pre-activation) times the weighted "
        "**variance** of the sources' pre-activations (their mean squared distance from that "
        "average). This is the **second order** of a Taylor series. Where M-Loss is high, one of "
        "the two maps says why."
    )
    theory_readouts.second_order(rows, family.model.blocks)


family = session.current_family()
st.title("Theory")
st.caption("How large M-Loss should be, and why: the paper's Section 4, checked.")
sliders()
job = measurement_job(family)
if job is not None:
    session.while_active(job)(partial(show_predictions, family, job))()
elif session.chosen("theory_job"):
    strip.outcome(None, gone=True)
else:
    st.info(
        f"Nothing measured yet. Press *Measure this family*: its {family.model.blocks} blocks take "
        "some seconds on a CPU."
    )
