"""The Merge page of earlier versions: its links open Explore, with their settings."""

from __future__ import annotations

import streamlit as st

from views.shared import nav
from views.state import session

session.remember()
st.switch_page(nav.page("explore"))
