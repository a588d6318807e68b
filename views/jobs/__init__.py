"""Kinds of jobs, and the strip that shows them."""
