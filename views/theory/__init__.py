"""Parts and figures of the Theory page."""
