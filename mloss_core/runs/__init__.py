"""Recorded runs: written, listed, read, redone, described, exported."""
