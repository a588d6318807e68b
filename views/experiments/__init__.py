"""Parts and figures of the Experiments page."""
