"""Accuracy displays of a merge: live metrics while it runs, table and verdicts when finished."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from mloss_core import (
    METHODS,
    Accuracy,
    Family,
    MergeRecipe,
    mean_accuracy,
    verdict,
)
from mloss_core.evaluation.paired_test import RULE
from mloss_core.fields import FIELDS
from mloss_core.runs.store import Hits

NAMES = {"base": "base", "own": "own source", "ties": "TIES, same k", "ensembling": "ensemble"}


UNKNOWN = "unknown"  # a task that the model is not made for


def columns_of(hits: Hits, method: str) -> dict[str, dict]:
    """The models of a finished run, named for people: its own first, then what it stands beside."""
    names = {"merged": METHODS[method].title if method in METHODS else method, **NAMES}
    return {names[m]: hits[m] for m in names if m in hits and not (m == method and m != "merged")}


def final(family: Family, hits: Hits, method: str) -> None:
    """Accuracies on all test images with 95 % intervals, and what follows in words."""
    models = columns_of(hits, method)
    if not models:
        st.caption("No accuracies: this family has no test images of its sources' tasks.")
        return
    verdicts(
        [
            verdict(METHODS[method].title, name, hits["merged"], hits[rival])
            for rival, name in (("ties", "TIES at the same k"), ("ensembling", "the ensemble"))
            if {rival, "merged"} <= hits.keys()
            and rival != method
            and hits[rival].keys() >= hits["merged"].keys()
        ]
    )
    table(family, models)


def verdicts(sentences: Sequence[str]) -> None:
    """Paired comparisons in words, and the rule that they all follow."""
    if sentences:
        st.markdown("\n".join(f"- {sentence}" for sentence in sentences))
        st.caption(RULE)


def table(family: Family, models: Mapping[str, Mapping]) -> None:
    """Tasks by models, each cell accuracy and interval; the mean of tasks below."""
    tasks = list(dict.fromkeys(task for hits in models.values() for task in hits))
    rows = []
    for task in tasks:
        row = {"task": family.title(task)}
        for model, hits in models.items():
            if task in hits:
                accuracy = Accuracy(correct=int(hits[task].sum()), total=len(hits[task]))
                row[model] = with_interval(accuracy.rate, *accuracy.interval())
            else:
                row[model] = UNKNOWN
        rows.append(row)
    average = {"task": "average"}
    for model, hits in models.items():
        whole = len(hits) == len(tasks)
        average[model] = with_interval(*mean_accuracy(hits)) if whole else UNKNOWN
    st.dataframe(pd.DataFrame([*rows, average]), hide_index=True, width="stretch")
    if UNKNOWN in average.values():
        st.caption(
            "Unknown: EMR-Merging makes a model per task, by the mask of the task's own source. It "
            "has none where that source is not merged. Averages are over all tasks or not at all."
        )


def plain(text: str) -> str:
    """A text of somebody's own, as Markdown that means nothing else."""
    return re.sub(r"([\\`*_\[\]$:<>#~|])", r"\\\1", text)


def with_interval(rate: float, low: float, high: float) -> str:
    """A rate and its 95 % interval, as every table writes them."""
    return f"{rate:.1%}  ({low:.1%} to {high:.1%})"


def summary(recipe: MergeRecipe | Mapping) -> str:
    """A recipe in a few words."""
    values = recipe if isinstance(recipe, Mapping) else vars(recipe)
    method = METHODS.get(values["method"])  # None: of a newer version
    words = [method.title if method else values["method"], f"{len(values['sources'])} sources"]
    reads = method.reads if method else ()
    for name, field in FIELDS.items():
        if name in values and name in reads and (said := field.summary(values[name])):
            words.append(said)
            if name == "scaling" and values["method"] == "task-arithmetic":
                words[-1] += f" ({per_task(values)} per task)"
    return ", ".join(words)


def per_task(recipe: MergeRecipe | Mapping) -> str:
    """The factor on each task vector: lambda alpha_i, which is lambda / q for equal weights."""
    fields = recipe if isinstance(recipe, Mapping) else vars(recipe)
    count = len(fields["sources"])
    factors = {fields["scaling"] * w for w in fields.get("weights") or [1 / count] * count}
    low, high = f"{min(factors):.3g}", f"{max(factors):.3g}"
    return low if low == high else f"{low} to {high}"
