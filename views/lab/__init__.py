"""The Lab page's parts."""
