"""Reopening a run: its recipe becomes the session's state."""

from __future__ import annotations

import dataclasses

from mloss_core import MergeRecipe, load
from mloss_core.recipe import check
from views.state import session


def choose_recipe(recipe: MergeRecipe) -> list[str]:
    """Makes a recipe the visitor's choice; returns its fields that no choice can say.

    Raises:
        InputError: the family or one of the sources is not there any more.
    """
    family = load(recipe.family)
    check(recipe, family)
    tokens = family.model.tokens if recipe.tokens is None else recipe.tokens
    blocks = recipe.blocks
    weights = "" if recipe.weights is None else ",".join(map(repr, recipe.weights))
    state = session.usual(family) | {
        "sources": ",".join(recipe.sources),
        "weights": weights,
        "method": recipe.method,
        "blocks": "all" if blocks is None else ",".join(map(str, blocks)) or "none",
        "tokens": str(tokens),
    }
    for key in ("keep", "variation", "scaling", "samples", "seed"):
        state[key] = repr(getattr(recipe, key))
    if family.name == session.chosen("family"):
        state |= {key: session.chosen(key) for key in ("reference", "saved")}
    session.replace(state | {"view": session.chosen("view")})
    restored = dataclasses.asdict(session.recipe_of(state, family))
    original = dataclasses.asdict(recipe)
    equal = recipe.weights is not None and len(set(recipe.weights)) == 1  # 1/q each, written out
    return [k for k in original if restored[k] != original[k] and not (k == "weights" and equal)]
