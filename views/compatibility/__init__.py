"""Parts and figures of the Compatibility page."""
