"""Widgets that several pages share, and the recipe form built from METHODS."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from mloss_core import Family, InputError, MergeRecipe
from mloss_core.families.sanity import doubts
from mloss_core.hardware.available import free
from mloss_core.memory_estimate import amount, needed, too_much
from views.shared import readouts
from views.state import session
from views.state.bound import bound


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
