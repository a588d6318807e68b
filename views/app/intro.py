"""Introduction on the first page; imports nothing heavy, so that it shows at once."""

from __future__ import annotations

import streamlit as st


def show() -> None:
    """Says what this is, before torch is loaded."""
    st.title("Where do these models disagree?")
    st.markdown(
        "Fine-tuned models that share a base can often be merged into one by averaging their "
        "weights, but nobody sees why it works or where it fails. This app measures it: at every "
        "node, **M-Loss** is the gap between *average, then activate* (merging) and *activate, "
        "then average* (an ensemble), on a few unlabeled images. Choose sources below, look at "
        "the heatmap, then merge with **M-TIES**, which keeps fewer parameters where M-Loss is "
        "high, and watch the accuracies move."
    )
