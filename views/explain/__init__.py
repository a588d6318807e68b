"""Parts and figures of the Explain page."""
