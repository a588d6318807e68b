"""The live merge on the Merge page."""
