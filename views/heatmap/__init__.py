"""Parts and figures of the M-Loss heatmap page."""
