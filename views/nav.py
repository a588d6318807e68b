"""The pages, in the order people meet them."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from streamlit.navigation.page import StreamlitPage

ROOT = Path(__file__).resolve().parents[1]
TITLES = {
    "sources": "Sources",
    "compatibility": "Compatibility",
    "heatmap": "M-Loss heatmap",
    "merge": "Merge",
    "experiments": "Experiments",
    "runs": "Runs",
    "theory": "Theory",
}


def page(name: str) -> StreamlitPage:
    """The page of that name."""
    path = ROOT / "pages" / f"{name}.py"
    return st.Page(path, title=TITLES[name], url_path=name, default=name == "sources")


def next_step(name: str, label: str) -> None:
    """A link to the page that comes next."""
    st.page_link(page(name), label=label, icon=":material/arrow_forward:")
