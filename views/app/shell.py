"""Streamlit's entry script: navigation, tour, job strip, and one error panel for all pages."""

from __future__ import annotations

import sys
import time

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from views.app import style, warm
from views.shared import nav
from views.state import tour_steps


def main() -> None:
    """Draws the chosen page; what goes wrong on purpose is shown in place, never as a traceback."""
    icon = str(nav.ROOT / "assets" / "icon.png")
    st.set_page_config(page_title="M-Loss", page_icon=icon, layout="wide")
    st.html(style.CSS)
    page = st.navigation(nav.pages(_linked("view") == "lecture"), position="top")
    # What is drawn before the library is loaded stays in its place when it is drawn with it.
    above, place = st.container(key="above"), st.container(key="page")
    if page.title == nav.TITLES[nav.FIRST] and _early(place):
        warm.visited.set()
        time.sleep(warm.ON_ITS_WAY)
        import mloss_core  # noqa: F401  (seconds, on a server that has just begun)

        st.rerun()
    warm.visited.set()
    with st.spinner("Loading torch…", show_time=True):
        from mloss_core import MlossError
        from views.app import bar
        from views.jobs import kinds, strip
        from views.state import session
        from views.state.error_text import error_text
        from views.tour import panel as tour_panel
    try:
        with above:
            _start()
            bar.show()
            tour_panel.show()
        session.at(page.title)
        with place:
            page.run()
        strip.show()
        session.remember()
        kinds.begin_references(session.current_family())
    except MlossError as error:
        st.error(error_text(error))


def _early(place: DeltaGenerator) -> bool:
    """Draws the picture that the demo family ships, where the library is not loaded yet and the
    link asks for nothing else."""
    from views.explore import component, shipped

    loaded = hasattr(sys.modules.get("mloss_core"), "verdict")  # its last import is done
    if loaded or "chosen" in st.session_state or set(st.query_params) - {"family"}:
        return False
    if st.query_params.get("family", "demo") != "demo":
        return False
    data = shipped.first_sight(nav.ROOT / "assets" / "zoo" / "demo")
    if data is None:
        return False
    with place:
        st.container(key="explore-top")
        st.fragment(lambda: component.mount(data, "explore"))()
    return True


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
