"""Accuracy with its count, intervals, paired tests and rank correlation."""
