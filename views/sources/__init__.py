"""Parts of the Sources page."""
