"""The script that Streamlit runs: navigation, the job strip, and one error panel for all pages."""

from __future__ import annotations

import streamlit as st

from views import intro, nav


def main() -> None:
    """Draws the chosen page; what goes wrong on purpose is shown in place, never as a traceback."""
    icon = str(nav.ROOT / "assets" / "icon.png")
    st.set_page_config(page_title="M-Loss", page_icon=icon, layout="wide")
    # Streamlit leaves 6rem above the first line, twice what the navigation needs.
    st.html("<style>.stMainBlockContainer {padding-top: 4rem; padding-bottom: 4rem}</style>")
    page = st.navigation([nav.page(name) for name in nav.TITLES], position="top")
    if page.title == nav.TITLES["sources"]:
        intro.show()
    with st.spinner("Loading torch…", show_time=True):
        from mloss_core import MlossError
        from views import session, strip, work
    try:
        wrong = session.start()
        for message in wrong:
            st.warning(message)
        if wrong:
            st.button("Dismiss", key="dismiss", on_click=session.dismiss)
        strip.show()
        page.run()
        session.remember()
        work.begin_references(session.current_family())
    except MlossError as error:
        st.error(str(error))


main()
