"""The line above the view: family, sources, and behind the gear all that is seldom changed."""

from __future__ import annotations

import streamlit as st

from mloss_core import METHODS, Family, InputError
from views.explore.page import is_live
from views.methods import settings
from views.shared import block_picker, sources, widgets
from views.state import session
from views.state.bound import bound

WHAT = (
    "Fine-tuned models that share a base can often be merged into one by averaging their weights, "
    "but nobody sees why it works or where it fails. This app measures it: at every node, "
    "**M-Loss** is the gap between *average, then activate* (merging) and *activate, then average* "
    "(an ensemble), on a few unlabeled images. A row of the map is a block, from the input below "
    "to the output above; beside it stand its mean M-Loss, how much of it a merge keeps, and the "
    "accuracy after it. **M-TIES** keeps fewer parameters where M-Loss is high: move k and e, and "
    "watch the accuracies. Point at a cell to see why; click a block's number to choose it."
)


# Fields that few methods read, besides those that have a place of their own.
SELDOM = (
    *("start", "ridge", "off_diagonal", "steps", "rate", "rho", "coefficients", "vectors"),
    *("norms", "after", "matrices", "qkv", "rest", "images"),
)


def top() -> Family:
    """Family and sources as chips, weights and the gear beside them."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="explore-top"):
        family = sources.choose_family(labelled=False)
        sources.choose_sources(family, labelled=False)
        with st.popover("About"):
            st.markdown(WHAT)
        with st.popover("Settings", icon=":material/settings:", help="All that is seldom changed."):
            _settings(family)
    sources.judge(family)
    return family


def _settings(family: Family) -> None:
    st.markdown("**Measuring**")
    left, right = st.columns(2)
    with left:
        widgets.samples(family)
        widgets.seed("Seed of the draw")
        live_switch(family)
    with right:
        widgets.tokens(family)
        most = min(200, family.model.nodes)
        bound("group", st.slider, min_value=1, max_value=most, step=1)
        if not session.lecture():
            bound("precision", st.segmented_control)
    row = METHODS[session.chosen("method")]
    if "scope" in row.reads:
        bound("scope", st.segmented_control)
    for name in SELDOM if not session.lecture() else ():
        if name in row.reads:
            settings.widget(family, name)
    if session.chosen("method") == "task-arithmetic":
        widgets.both_lambdas()
    weighted = not session.lecture() or session.chosen("weights")
    if weighted and len(session.chosen_sources()) > 1:
        st.markdown("**Merging weights**")
        sources.choose_weights(family)
    if not session.lecture():
        st.latex(row.formula)
        if row.node_wise:
            widgets.controls()
    with st.expander("Named choices of blocks"):
        block_picker.named_choices(family)
    try:
        recipe = session.current_recipe()
    except InputError:
        return  # the view says what is wrong
    said = widgets.memory(recipe, family, len(family.own_tasks(family.sources)))
    st.caption(f"{said[0].upper()}{said[1:]}.")


def live_switch(family: Family) -> None:
    """The choice between merging at every change and at a click."""
    on = is_live(family)
    wanted = st.toggle(
        "Live", on, key=session.widget("w-live"),
        help="Every change merges anew and measures on a few images, then on all. Nothing is "
        "recorded until you launch.",
    )  # fmt: skip
    if wanted != on:
        session.choose_value("live", "on" if wanted else "off")
