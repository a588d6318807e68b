"""Can these sources merge at all: what tells before merging, and whether it tells the truth."""

from .sets import Compatibility, Members, alphas_of, asked_sets, losses_of_sets, pairs

__all__ = ["Compatibility", "Members", "alphas_of", "asked_sets", "losses_of_sets", "pairs"]
