"""Navigation: the app's pages in order, and links between them."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from streamlit.navigation.page import StreamlitPage

ROOT = Path(__file__).resolve().parents[2]
TITLES = {
    "explore": "Explore",
    "sources": "Sources",
    "explain": "Explain",
    "methods": "Methods",
    "compatibility": "Compatibility",
    "lab": "Lab",
    "experiments": "Experiments",
    "runs": "Runs",
    "theory": "Theory",
}


FIRST = "explore"
FORMER = ("heatmap", "merge")  # pages of earlier versions: their links open what took their place
HIDDEN = ("runs",)  # in the lecture view: nobody sorts runs in class


def page(name: str, hidden: bool = False) -> StreamlitPage:
    """The page of that name.

    Args:
        hidden: left out of the navigation; links still open it.
    """
    path = ROOT / "pages" / f"{name}.py"
    visibility = "hidden" if hidden else "visible"
    title, first = TITLES.get(name, TITLES[FIRST]), name == FIRST
    return st.Page(path, title=title, url_path=name, default=first, visibility=visibility)


def pages(lecture: bool) -> list[StreamlitPage]:
    """All pages, in their order."""
    shown = [page(name, hidden=lecture and name in HIDDEN) for name in TITLES]
    return [*shown, *(page(name, hidden=True) for name in FORMER)]


def next_step(name: str, label: str) -> None:
    """A link to the page that comes next."""
    st.page_link(page(name), label=label, icon=":material/arrow_forward:")
