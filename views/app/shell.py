"""Streamlit's entry script: navigation, tour, job strip, and one error panel for all pages."""

from __future__ import annotations

import streamlit as st

from views.app import style
from views.shared import nav
from views.state import tour_steps


def main() -> None:
    """Draws the chosen page; what goes wrong on purpose is shown in place, never as a traceback."""
    icon = str(nav.ROOT / "assets" / "icon.png")
    st.set_page_config(page_title="M-Loss", page_icon=icon, layout="wide")
    st.html(style.CSS)
    page = st.navigation(nav.pages(_linked("view") == "lecture"), position="top")
    with st.spinner("Loading torch…", show_time=True):
        from mloss_core import MlossError
        from views.app import bar
        from views.jobs import kinds, strip
        from views.state import session
        from views.state.error_text import error_text
        from views.tour import panel as tour_panel
    try:
        _start()
        bar.show()
        tour_panel.show()
        page.run()
        strip.show()
        session.remember()
        kinds.begin_references(session.current_family())
    except MlossError as error:
        st.error(error_text(error))


def _linked(key: str) -> str:
    """A field of the choice before the library is loaded, or else as the link has it."""
    chosen = st.session_state.get("chosen")
    return chosen[key] if chosen else st.query_params.get(key, "")


def _start() -> None:
    """Reads the link on a session's first run, and says what was wrong with it."""
    from views.state import session

    short = "chosen" not in st.session_state and "family" not in st.query_params
    wrong = session.start()
    number = tour_steps.place(session.chosen("tour"))
    if short and number is not None:  # somebody wrote ?tour=3 by hand: to the step's own page
        session.remember()
        st.switch_page(nav.page(tour_steps.STEPS[number - 1].page))
    for message in wrong:
        st.warning(message)
    if wrong:
        st.button("Dismiss", key="dismiss", on_click=session.dismiss)


main()
