"""Choices of blocks tried before: finished runs of M-TIES and TIES with the same sources."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import MlossError
from ..families.family import Family
from ..methods.keep_rates import node_wise_blocks
from ..recipe import MEASURED, recipe_fields
from ..runs.store import RunRecord, list_runs
from ..types import MergeRecipe
from .tables import Row, row_of, settings

ALL, NONE = "all blocks", "no block (TIES)"


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A choice of blocks that was merged and evaluated.

    Args:
        blocks: that were trimmed node by node; none is TIES.
        same: whether nothing but the blocks differs from the recipe that was asked about.
    """

    row: Row
    run: RunRecord
    blocks: tuple[int, ...]
    same: bool


def tried(
    recipe: MergeRecipe,
    family: Family,
    tasks: Sequence[str],
    runs: Iterable[RunRecord] | None = None,
) -> list[Tried]:
    """Every choice of blocks tried with the recipe's sources, files and weights, newest first.

    Of equal recipes the newest alone.

    Args:
        tasks: that a run must have been evaluated on, with all their test images.
        runs: to look through; None means all that are kept.
    """
    choices: dict[str, Tried] = {}
    records = list_runs(("merge", "cell")) if runs is None else runs
    for run in records:
        choice = _tried(run, recipe, family, tasks)
        if choice is None or any(_images(choice) != _images(other) for other in choices.values()):
            continue  # evaluated on other images than the newest: not comparable
        settled = "" if choice.same else repr(recipe_fields(choice.row.recipe or recipe))
        choices.setdefault(choice.row.label + settled, choice)
    return list(choices.values())


def _images(choice: Tried) -> dict[str, int]:
    return {task: len(hits) for task, hits in choice.row.answers.items()}


def _tried(
    run: RunRecord, recipe: MergeRecipe, family: Family, tasks: Sequence[str]
) -> Tried | None:
    """A run as a choice of blocks; None where it is something else, or cannot be read."""
    about = run.metadata["recipe"]
    names = (about["family"], sorted(about["sources"]), about["method"] in ("ties", "m-ties"))
    if run.state != "finished" or names != (family.name, sorted(recipe.sources), True):
        return None
    try:
        other = run.recipe()
        if not _comparable(other, recipe, family, run) or not _whole(run, tasks):
            return None
        blocks, same = node_wise_blocks(other, family.model), same_but_blocks(other, recipe)
        return Tried(
            row=row_of(_label(other, blocks, family, same), other, run, family.model),
            run=run, blocks=blocks, same=same,
        )  # fmt: skip
    except MlossError:  # its files are damaged: the Runs page says so
        return None


def _comparable(other: MergeRecipe, recipe: MergeRecipe, family: Family, run: RunRecord) -> bool:
    """Whether a run merged the same files with the same weights, by M-Loss or as plain TIES."""
    shares = [dict(zip(r.sources, r.alpha, strict=True)) for r in (other, recipe)]
    files = {name: family.source(name).sha256 for name in recipe.sources}
    return (
        shares[0] == shares[1]
        and (other.ranks, other.scope) == ("m-loss", "tensor")
        and run.metadata.get("base") == family.base().sha256
        and run.metadata.get("sources") == files
    )


def _whole(run: RunRecord, tasks: Sequence[str]) -> bool:
    """Whether a run's own model was evaluated on test images of exactly these tasks."""
    split = run.facts.get("split", "test")
    return split == "test" and run.accuracies.get("merged", {}).keys() == set(tasks)


def same_but_blocks(ours: MergeRecipe, other: MergeRecipe) -> bool:
    """Whether two recipes of M-TIES or TIES differ in their blocks alone.

    Without any block, e and how M-Loss is measured do not matter.
    """
    fields = ["keep", "scaling"]
    if not any(r.method == "ties" or r.blocks == () for r in (ours, other)):
        fields += ["variation", "seed", *MEASURED]
    return all(getattr(ours, field) == getattr(other, field) for field in fields)


def _label(recipe: MergeRecipe, blocks: tuple[int, ...], family: Family, same: bool) -> str:
    numbers = f"block{'s' * (len(blocks) > 1)} {','.join(map(str, blocks))}"
    chosen = ALL if len(blocks) == family.model.blocks else numbers if blocks else NONE
    if same:
        return chosen
    reads = ("keep", "variation", "scaling") if blocks else ("keep", "scaling")
    more = f", {recipe.samples} images, seed {recipe.seed}" * bool(blocks)
    return f"{chosen}, {settings(recipe, reads)}{more}"
