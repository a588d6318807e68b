"""Navigation: the app's pages in order, and links between them."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from streamlit.navigation.page import StreamlitPage

ROOT = Path(__file__).resolve().parents[2]
TITLES = {
    "sources": "Sources",
    "compatibility": "Compatibility",
    "heatmap": "M-Loss heatmap",
    "merge": "Merge",
    "experiments": "Experiments",
    "runs": "Runs",
    "theory": "Theory",
}


HIDDEN = ("runs",)  # in the lecture view: nobody sorts runs in class


def page(name: str, hidden: bool = False) -> StreamlitPage:
    """The page of that name.

    Args:
        hidden: left out of the navigation; links still open it.
    """
    path = ROOT / "pages" / f"{name}.py"
    visibility = "hidden" if hidden else "visible"
    first = name == "sources"
    return st.Page(path, title=TITLES[name], url_path=name, default=first, visibility=visibility)


def pages(lecture: bool) -> list[StreamlitPage]:
    """All pages, in their order."""
    return [page(name, hidden=lecture and name in HIDDEN) for name in TITLES]


def next_step(name: str, label: str) -> None:
    """A link to the page that comes next."""
    st.page_link(page(name), label=label, icon=":material/arrow_forward:")
