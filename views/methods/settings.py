"""Widgets of the settings that a method reads, each bound to its field of the choice."""

from __future__ import annotations

from typing import Any

import streamlit as st

from mloss_core import METHODS, Family, InputError
from mloss_core.fields import FIELDS, Choice
from views.methods import at_published
from views.shared import block_picker, sources, widgets
from views.state import session
from views.state.bound import bound

NUMBERS: dict[str, tuple[float, float, float]] = {  # lowest, highest, step
    "keep": (0.01, 1.0, 0.01),
    "scaling": (-100.0, 100.0, 0.05),
    "ridge": (0.01, 1e6, 1.0),
    "off_diagonal": (0.0, 1.0, 0.05),
    "steps": (1, 100_000, 50),
    "rate": (1e-7, 1.0, 1e-4),
    "rho": (0.0, 1.0, 0.01),
}


def show(family: Family, method: str) -> None:
    """A widget for each setting that the method reads, and the way back to the published ones."""
    reads = METHODS[method].reads
    left, right = st.columns(2)
    small = [name for name in FIELDS if name in reads and name not in ("weights", "blocks")]
    for number, name in enumerate(small):
        with (left, right)[number % 2]:
            widget(family, name)
    if "blocks" in reads:
        block_picker.block_choice(family)
    if "weights" in reads and len(session.chosen_sources()) > 1:
        st.markdown(f"**{FIELDS['weights'].label}**")
        sources.choose_weights(family)
    st.button(
        "As published", on_click=_as_published, args=(family, method),
        help="Every setting that this method reads as its authors publish it, in equal parts.",
    )  # fmt: skip


def widget(family: Family, name: str) -> None:
    """The widget of one setting."""
    match name:
        case "samples":
            widgets.samples(family)
        case "tokens":
            widgets.tokens(family)
        case "seed":
            widgets.seed()
        case "variation":
            most = float(session.chosen("keep"))
            bound(name, st.number_input, min_value=0.0, max_value=most, step=0.01, format="%g")
        case _ if name in NUMBERS:
            low, high, step = NUMBERS[name]
            shape: dict[str, Any] = {"format": "%g"} if isinstance(step, float) else {}
            limits = {"min_value": low, "max_value": high, "step": step}
            bound(FIELDS[name].link, st.number_input, **limits, **shape)
        case _ if isinstance(FIELDS[name], Choice):
            bound(FIELDS[name].link, st.selectbox)


def _as_published(family: Family, method: str) -> None:
    """Puts the published settings into the choice; widgets start from it."""
    try:
        recipe = at_published.recipe_of(method, family, session.chosen_sources())
    except InputError:
        return  # too few sources: the page says so
    usual, state = session.usual(family), dict(st.session_state.chosen)
    for name in METHODS[method].reads:
        field, value = FIELDS[name], getattr(recipe, name)
        state[field.link] = usual[field.link] if value is None else field.format(value)
    session.replace(state)
