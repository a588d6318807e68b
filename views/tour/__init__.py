"""The tour's panel and its facts."""
