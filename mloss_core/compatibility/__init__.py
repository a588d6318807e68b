"""Compatibility of sources before merging, and a study of how well it predicts accuracy drops."""

from .sets import Compatibility, Members, alphas_of, compatibility_sets, losses_of_sets, pairs

__all__ = ["Compatibility", "Members", "alphas_of", "compatibility_sets", "losses_of_sets", "pairs"]
