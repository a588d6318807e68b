"""The few rules of looks that Streamlit's theme (.streamlit/config.toml) has no word for."""

from __future__ import annotations

# Streamlit leaves 6rem above the first line, twice what the navigation needs. The bar of small
# buttons takes no line of its own where the screen is wide enough to have it beside the title.
CSS = """<style>
.stMainBlockContainer {padding-top: 4rem; padding-bottom: 4rem; position: relative}
@media (min-width: 760px) {
  .st-key-bar {position: absolute; top: 3.6rem; right: 5rem; width: auto; z-index: 1}
}
</style>"""
