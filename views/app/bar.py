"""The button bar of every page: tour, lecture view, reset."""

from __future__ import annotations

import streamlit as st

from views.state import session
from views.tour import panel as tour_panel


def show() -> None:
    """In the line of the navigation, or above the page where the screen is narrow (style.py)."""
    with st.container(horizontal=True, horizontal_alignment="right", gap="small", key="bar"):
        tour_panel.button()
        lecture = session.lecture()
        st.button(
            "Full view" if lecture else "Lecture view",
            key="lecture", type="tertiary", on_click=_switch_view,
            help="Shows everything again."
            if lecture
            else "Hides what a class does not need: exports, seeds, cards, memory.",
        )  # fmt: skip
        st.button(
            "Reset", key="reset", type="tertiary", on_click=_reset,
            help="Every setting as on a first visit of this family. Runs stay on disk.",
        )  # fmt: skip


def _switch_view() -> None:
    session.choose_value("view", "full" if session.lecture() else "lecture")


def _reset() -> None:
    """The usual choice of this family, in the view that is on."""
    state = session.usual(session.current_family())
    session.replace(state | {"view": session.chosen("view")})
