"""Every method at its published settings: its recipe, and what of it is measured on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from mloss_core import METHODS, Family, MergeRecipe, MlossError, list_runs
from mloss_core.evaluation.evaluator import mean_of
from mloss_core.experiments.search import PAPER, replaced
from mloss_core.fields import FIELDS
from mloss_core.recipe import published, recipe_fields, version_of
from mloss_core.runs.layout import root
from mloss_core.runs.store import RunRecord
from views.state import session


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A merge at published settings.

    Args:
        mean: accuracy over the tasks, and the ends of its 95 % interval.
        seconds, peak: of merging alone; peak in bytes.
    """

    mean: tuple[float, float, float]
    seconds: float | None
    peak: int | None


def recipe_of(method: str, family: Family, sources: Sequence[str]) -> MergeRecipe:
    """A method at its published settings, in equal parts; raises InputError for too few sources."""
    usual: dict[str, Any] = dict(METHODS[method].defaults)
    with contextlib.suppress(MlossError):  # a damaged pool: the job that reads it says so
        usual = published(method, family, sources)
    if METHODS[method].node_wise:
        usual |= PAPER
    samples = min(FIELDS["samples"].default, session.pool_size(family, sources))
    start = MergeRecipe(
        family=family.name, method=method, sources=tuple(sources), samples=samples, variation=0.0
    )
    return replaced(start, method, usual)


def on_disk(family: Family, sources: Sequence[str]) -> dict[str, Measured]:
    """The methods that were measured here at their published settings.

    Raises:
        InputError: too few sources, or one whose file is damaged.
    """
    folder = root()
    changed = folder.stat().st_mtime_ns if folder.is_dir() else 0
    files = (family.base().sha256, *(family.source(name).sha256 for name in sources))
    return _on_disk(str(folder), changed, family.name, tuple(sources), files)


@st.cache_data(show_spinner=False, max_entries=16)
def _on_disk(
    folder: str, changed: int, name: str, sources: tuple[str, ...], files: tuple[str, ...]
) -> dict[str, Measured]:
    """The same by the folder's time of change and the files' content."""
    family = session.load(name)
    wanted = {m: recipe_fields(recipe_of(m, family, sources)) for m in METHODS}
    measured: dict[str, Measured] = {}
    for run in list_runs(("merge", "cell")):
        method = run.metadata["recipe"]["method"]
        if method in measured or method not in wanted or not _same_files(run, sources, files):
            continue
        with contextlib.suppress(MlossError, KeyError):  # torn, or of another version
            whole = run.accuracies["merged"].keys() == set(family.own_tasks(sources))
            if whole and recipe_fields(run.recipe()) == wanted[method]:
                mean = mean_of(run.accuracies["merged"])
                measured[method] = Measured(mean=mean, seconds=run.seconds, peak=run.peak)
    return measured


def _same_files(run: RunRecord, sources: Sequence[str], files: tuple[str, ...]) -> bool:
    """Whether a run is finished, on test images, and merged these very files by this version."""
    about = run.metadata
    ours = (about.get("base"), *(about.get("sources", {}).get(name) for name in sources))
    tested = run.state == "finished" and run.facts.get("split", "test") == "test"
    current = about.get("version") == version_of(about["recipe"]["method"])
    return tested and ours == files and current
