"""Parts and figures of the Methods page."""
