"""Reopening a run: its recipe becomes the session's state."""

from __future__ import annotations

import dataclasses

from mloss_core import MergeRecipe, load
from mloss_core.fields import FIELDS
from mloss_core.recipe import check
from views.state import session


def choose_recipe(recipe: MergeRecipe) -> None:
    """Makes a recipe the visitor's choice.

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
