"""Reopening a run: its recipe becomes the session's state."""

from __future__ import annotations

import dataclasses

from mloss_core import MergeRecipe, load
from mloss_core.fields import FIELDS
from mloss_core.recipe import check
from views.state import session


def choose_recipe(recipe: MergeRecipe) -> list[str]:
    """Makes a recipe the visitor's choice; returns its fields that no choice can say.

    Raises:
        InputError: the family or one of the sources is not there any more.
    """
    family = load(recipe.family)
    check(recipe, family)
    values = dataclasses.asdict(recipe) | {"tokens": recipe.tokens or family.model.tokens}
    settings = {f.link: f.format(values[name]) for name, f in FIELDS.items() if f.link}
    state = session.usual(family) | settings
    if family.name == session.chosen("family"):
        state |= {key: session.chosen(key) for key in ("reference", "saved")}
    session.replace(state | {"view": session.chosen("view")})
    restored = dataclasses.asdict(session.recipe_of(state, family))
    original = dataclasses.asdict(recipe)
    equal = recipe.weights is not None and len(set(recipe.weights)) == 1  # 1/q each, written out
    return [k for k in original if restored[k] != original[k] and not (k == "weights" and equal)]
