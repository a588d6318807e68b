"""CSS rules for what Streamlit's theme (.streamlit/config.toml) cannot set."""

from __future__ import annotations

# Streamlit leaves 6rem above the first line, twice what the navigation needs. The bar of small
# buttons stands in the line of the navigation where the screen is wide enough for both; there it
# leaves room for Streamlit's own signs (10rem) and lies above its header, whose z-index is 999990.
# White on the light blue that links and sliders need on dark would be 2.3 to 1: there the main
# button's words, and those of chosen options, are dark. A formula breaks its line rather than
# scroll: nobody could scroll it by key.
CSS = """<style>
.stMainBlockContainer {padding-top: 4rem; padding-bottom: 4rem}
@media (min-width: 1000px) {
  .st-key-bar {position: fixed; top: 0.6rem; right: 10rem; width: auto; z-index: 999991}
}
[data-testid="stBaseButton-primary"]:not(:disabled) {color: light-dark(#ffffff, #0b1016)}
[data-testid="stMultiSelect"] span[title] {color: light-dark(#ffffff, #0b1016)}
.katex-display {overflow: visible !important}
.katex-display > .katex {white-space: normal !important}
/* The strip of jobs lies over the foot of the page: nothing moves because a job starts or ends. */
.st-key-strip {position: fixed; bottom: 0; left: 0; right: 0; z-index: 999980; padding: 0 5rem;
  background: var(--st-background-color, light-dark(#ffffff, #11161d))}
.st-key-strip > div:empty {display: none}
.st-key-tour {position: fixed; bottom: 1rem; width: 27rem; max-width: calc(100vw - 2rem);
  max-height: 52vh; overflow-y: auto; z-index: 999985; font-size: .9rem;
  background: var(--st-background-color, light-dark(#ffffff, #11161d));
  box-shadow: 0 4px 20px #0005}
.st-key-tour-right .st-key-tour {right: 1rem}
.st-key-tour-left .st-key-tour {left: 1rem}
.st-key-tour p {font-size: .9rem}
.st-key-tour button {min-height: 1.9rem; padding: .1rem .55rem}
/* What is drawn anew is not greyed meanwhile. */
[data-stale="true"] {opacity: 1 !important; transition: none !important}
.st-key-explore-top {min-height: 2.6rem}
/* Panels side by side need a width at which their titles do not overlap: a phone scrolls them. */
[class*="st-key-figure-experts"] {overflow-x: auto}
[class*="st-key-figure-experts"] > div {min-width: 44rem}
@media (max-width: 640px) {
  .st-key-strip {padding: 0 1rem}
  h1 {font-size: 2rem !important}
}
</style>"""
