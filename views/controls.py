"""Recipe form's options of the released code, control ranks, and both conventions of lambda."""

from __future__ import annotations

import streamlit as st

from mloss_core import InputError

from . import readouts, session
from .bound import worded


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
            "the base and squares the losses. A gain by M-Loss should vanish under random ranks, "
            "and turn round under reversed ones."
        )
        worded(
            "inputs", st.selectbox, "Inputs of a block come from",
            {"merged": "the model merged so far (paper)", "pretrained": "the base (released code)"},
            help="The model that the calibration images run through on their way to each block.",
        )  # fmt: skip
        worded(
            "loss", st.selectbox, "Nodes are ranked by",
            {"absolute": "M-Loss, Eq. 4 (paper)", "squared": "squared M-Loss (released code)"},
            help="Squares give a few large gaps more say. The heatmap always shows Eq. 4.",
        )  # fmt: skip
        worded(
            "ranks", st.selectbox, "Ranks",
            {
                "m-loss": "by M-Loss: high keeps less",
                "random": "control: drawn at random, nothing measured",
                "reversed": "control: reversed, high keeps most",
            },
            help="The keep rates are the same in all three; only who gets which differs.",
        )  # fmt: skip
