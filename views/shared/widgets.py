"""Widgets that several pages share, and the recipe form built from METHODS."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import streamlit as st

from mloss_core import METHODS, Family, InputError, MergeRecipe, keep_rates
from mloss_core.families.sanity import doubts
from mloss_core.hardware.available import free
from mloss_core.memory_estimate import amount, needed, too_much
from mloss_core.methods.keep_rates import UNMEASURED_RANKS
from views.shared import figures, readouts
from views.shared.block_picker import block_choice
from views.state import session
from views.state.bound import bound
from views.state.error_text import error_text


def rates(method: str) -> None:
    """Sliders of k and e, and lambda, as far as the method reads them."""
    reads = METHODS[method].reads
    if "keep" in reads:
        bound("keep", st.slider, min_value=0.05, max_value=1.0, step=0.05)
        if "scope" in reads:
            bound("scope", st.segmented_control)
        if "variation" in reads:
            bound("variation", st.slider, min_value=0.0, max_value=1.0, step=0.025, format="%.3f")
    if "scaling" in reads:
        bound("scaling", st.slider, min_value=0.0, max_value=4.0, step=0.1)
        if method == "task-arithmetic":
            both_lambdas()


def samples(family: Family) -> None:
    """Size of the calibration draw, up to what the pool holds for the chosen sources; hidden in
    the lecture view."""
    if not session.lecture():
        chosen = session.chosen_sources()  # too few of them are refused in their own place
        most = session.pool_size(family, chosen if len(chosen) > 1 else family.sources)
        bound("samples", st.number_input, min_value=1, max_value=most, step=16)


def tokens(family: Family) -> None:
    """How many tokens of an image M-Loss is measured on; hidden in the lecture view."""
    if not session.lecture():
        most = family.model.tokens
        bound("tokens", st.number_input, min_value=1, max_value=most, step=1)


def seed(label: str = "") -> None:
    """The seed of whatever the method draws; hidden in the lecture view."""
    if not session.lecture():
        bound("seed", st.number_input, label, min_value=0, max_value=2**31, step=1)


def recipe_form(family: Family) -> MergeRecipe | None:
    """Method and its settings; None, with the reason shown in place, if they make no recipe."""
    method = bound("method", st.selectbox)
    row = METHODS[method]
    st.caption(f"{row.explanation} *{row.paper}.*")
    if not session.lecture():
        st.latex(row.formula)
    rates(method)
    if row.node_wise:
        block_choice(family)
        measured = st.container()  # above the controls, which say whether it is needed
        if not session.lecture():
            controls()
        if session.chosen("ranks") not in UNMEASURED_RANKS and not session.lecture():
            images, of_each = measured.columns(2)
            with images:
                samples(family)
            with of_each:
                tokens(family)
    if "seed" in row.reads:
        seed()
    try:
        return session.current_recipe()
    except InputError as error:
        st.error(error_text(error))
        return None


def memory(recipe: MergeRecipe, family: Family, tasks: int = 0) -> str:
    """What a job needs and what is free; where that does not fit, a warning too.

    Args:
        tasks: how many tasks it evaluates along the way.
    """
    device = session.device()
    left = free(device)
    if large := too_much(recipe, family, device, left, tasks):
        st.warning(f"This {large}.")
    needs = amount(needed(recipe, family, device, tasks))
    return f"needs about {needs} of memory, {amount(left)} free"


def doubtful(family: Family, sources: Sequence[str]) -> None:
    """Warnings of sources that are hardly meant."""
    for words in doubts(family, sources):
        st.warning(words[0].upper() + words[1:])


def keep_rate_figure(recipe: MergeRecipe, family: Family, scores: dict[int, np.ndarray]) -> None:
    """Keep rate of every node of every block under the recipe, drawn at once."""
    if recipe.scope == "global" and "scope" in METHODS[recipe.method].reads:
        st.caption(
            f"One threshold for each source's whole task vector: {recipe.keep:.0%} of all its "
            "entries are kept, more in tensors that fine-tuning changed more."
        )
        return
    node_wise = METHODS[recipe.method].node_wise
    rank = "rank of the node's M-Loss in its block"
    equal = node_wise and recipe.ranks == "equal"
    if equal:
        scores, rank = {}, "share of the block's nodes"
    elif node_wise and recipe.ranks == "random":
        scores, rank = {}, "rank drawn at random"
    elif node_wise and recipe.scores == "squared":
        scores, rank = {}, "rank of the node's squared M-Loss in its block"
    reverse = node_wise and recipe.ranks == "reversed"
    chosen = range(family.model.blocks) if recipe.blocks is None else recipe.blocks
    variation = recipe.variation if node_wise else 0.0
    curves = {}
    for block in range(family.model.blocks):
        x = scores.get(block)
        if scores and x is None:
            continue
        x = np.linspace(0, 1, 64) if x is None else x
        spread = variation if block in chosen else 0.0
        if equal:
            curves[block] = (x, np.full(len(x), recipe.keep - spread / 2))
        else:
            curves[block] = (x, keep_rates(x, recipe.keep, spread, reverse=reverse))
    figure = figures.keep_rate_curves(
        curves, recipe.keep, variation, "node M-Loss (log)" if scores else rank, log=bool(scores)
    )
    st.plotly_chart(
        figure, key="keep-rates", alt="Keep rate of every node over its M-Loss, by block"
    )


def both_lambdas() -> None:
    """The chosen lambda in the M-Loss paper's convention and in that of task arithmetic's own."""
    try:
        recipe = session.current_recipe()
    except InputError:
        return  # the form says what is wrong
    count, mean, factor = len(recipe.sources), "mean", "λ / q"
    if recipe.weights is not None:
        mean, factor = "weighted mean", "λ times its weight"
    st.caption(
        f"λ = {recipe.scaling:g} times the {mean} of {count} task vectors, as the M-Loss paper "
        f"writes it. As Ilharco et al. do, for each task vector: {factor} = "
        f"{readouts.per_task(recipe)}."
    )


def controls() -> None:
    """What the authors' released code does otherwise, and the controls of a claim for M-Loss."""
    with st.expander("Released code and controls"):
        st.caption(
            "As they stand: Algorithm 1 of the paper. Its authors' released code takes inputs from "
            "the base and squares the losses: both can be chosen. Two more things that it does "
            "cannot. It scores with GELU's tanh approximation, whatever the model's own "
            "activation. And it zeroes a row whose share is less than one entry, where one is "
            "kept here."
        )
        st.caption(
            "A gain by M-Loss should vanish under random ranks, and turn round under reversed "
            "ones. What is left with rows trimmed alike comes from trimming row by row, not from "
            "M-Loss."
        )
        for key in ("inputs", "loss", "ranks"):
            bound(key, st.selectbox)
