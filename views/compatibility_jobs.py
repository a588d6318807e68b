"""Background jobs of the Compatibility page, looked up by kind and recipe."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from mloss_core import METHODS, Family, MergeRecipe
from mloss_core.compatibility import compatibility_sets, losses_of_sets
from mloss_core.compatibility.ensemble_gap import ensemble_gap
from mloss_core.compatibility.prediction import TRIPLES, sets_of, study
from mloss_core.compatibility.signs import count_signs

from . import session
from .jobs import Job

Events = Generator[Any, None, None]


def measure(family: Family, recipe: MergeRecipe) -> Job:
    """M-Loss of pairs, of the set and of the set without each source; then sign conflicts."""

    def events() -> Events:
        yield from losses_of_sets(recipe, family, compatibility_sets(recipe))
        yield from count_signs(recipe, family)

    steps = 2 * family.model.blocks + 1
    return _find_or_submit("compatibility", "Measuring compatibility", events, recipe, steps)


def study_recipe(family: Family, sources: Sequence[str], rule: str, **settings: int) -> MergeRecipe:
    """How the prediction study merges: as the family's makers recommend."""
    values: dict[str, Any] = {**family.recommended(rule), "variation": 0.0, **settings}
    return MergeRecipe(family=family.name, method=rule, sources=tuple(sources), **values)


def find_job(kind: str, spec: Any) -> Job | None:
    """The job of that kind that was asked this, also where it failed."""
    return session.board().find(kind, spec, failed=True)


def predict(family: Family, recipe: MergeRecipe) -> Job:
    """Every pair and some triples, merged and evaluated."""

    def events() -> Events:
        yield from study(recipe, session.evaluator(family.name), TRIPLES)

    sets = len(sets_of(len(recipe.sources), TRIPLES, recipe.seed))
    # Of every set: its blocks, two evaluations of each member, its end and its drop.
    steps = 2 * family.model.blocks + 1 + sets * (family.model.blocks + 7)
    title = f"Merging {sets} sets by {METHODS[recipe.method].title}"
    return _find_or_submit("study", title, events, recipe, steps)


def gap(family: Family, recipe: MergeRecipe, tasks: Sequence[str]) -> Job:
    """Distances of M-TIES and of TIES to the ensemble."""

    def events() -> Events:
        yield from ensemble_gap(recipe, session.evaluator(family.name), tasks)

    steps = 3 * family.model.blocks + (2 + 8 * len(recipe.sources)) * len(tasks)
    return _find_or_submit("gap", "Measuring the ensemble gap", events, recipe, steps)


def _find_or_submit(kind: str, title: str, events: Any, spec: Any, steps: int) -> Job:
    job = session.board().find(kind, spec)
    return job or session.board().submit(kind, title, events, spec=spec, steps=steps)
