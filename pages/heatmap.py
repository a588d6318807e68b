"""The heatmap page of earlier versions: its links open Explore, or Explain where they say so."""

from __future__ import annotations

import streamlit as st

from views.shared import nav
from views.state import session

session.remember()
explained = session.chosen("explain") != session.usual(session.current_family())["explain"]
st.switch_page(nav.page("explain" if explained else "explore"))
