"""Accuracy displays of a merge: live metrics while it runs, table and verdicts when finished."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from mloss_core import (
    METHODS,
    Accuracy,
    BlockMerged,
    Family,
    MergeRecipe,
    TaskEvaluated,
    mean_accuracy,
    verdict,
)
from mloss_core.evaluation.paired_test import RULE
from mloss_core.fields import FIELDS
from mloss_core.run import evaluable_tasks
from mloss_core.runs.store import Hits, final_hits
from views.shared import figures
from views.state.job_board import Job, elapsed

NAMES = {"base": "base", "own": "own source", "ties": "TIES, same k", "ensembling": "ensemble"}


UNKNOWN = "unknown"  # a task that the model is not made for


def live(family: Family, tasks: Sequence[str], job: Job) -> None:
    """Progress by block, a readout per task, and the accuracies after each block."""
    events = list(job.events)
    merged = [e.block for e in events if isinstance(e, BlockMerged)]
    blocks = family.model.blocks
    state = "all blocks merged" if len(merged) == blocks else f"block {len(merged)} of {blocks}"
    st.progress(job.share, f"{job.title}: {job.state}, {state}, {elapsed(job.seconds)}")
    evaluations = [e for e in events if isinstance(e, TaskEvaluated)]
    latest = {(e.model, e.task): e for e in evaluations}
    # Rows of four: where columns stand below each other, tasks keep their order.
    columns = [column for _ in tasks[::4] for column in st.columns(4)]
    for column, task in zip(columns, tasks, strict=False):
        with column:
            if task in evaluable_tasks(job.spec, tasks):
                _readout(family.title(task), {m: latest.get((m, task)) for m in ("merged", *NAMES)})
            else:
                title, why = family.title(task), "its source is not merged"
                st.metric(title, UNKNOWN, why, delta_color="off", delta_arrow="off", border=True)
    st.plotly_chart(
        figures.accuracy_by_block(_history(family, tasks, evaluations), blocks),
        key="by-block",
        alt="Accuracy of the partly merged model on each task after each merged block",
    )


def _readout(title: str, evaluations: Mapping[str, TaskEvaluated | None]) -> None:
    """Accuracy now, its change against the base on the same images, and marks to compare."""
    now, base = evaluations["merged"], evaluations["base"]
    if now is None:
        st.metric(title, "…", "waiting", delta_color="off", delta_arrow="off", border=True)
        return
    change, moved = "…", False
    if base is not None:
        gain = now.accuracy.rate - _rate(base, len(now.hits))
        change, moved = f"{100 * gain:+.1f} against the base", gain != 0
    st.metric(
        title, f"{now.accuracy.rate:.1%}", change, border=True,
        delta_color="normal" if moved else "off", delta_arrow="auto" if moved else "off",
    )  # fmt: skip
    marks = [
        f"{NAMES[m]} {_rate(e, len(now.hits)):.0%}"
        for m, e in evaluations.items()
        if m not in ("merged", "base") and e is not None
    ]
    st.caption(f"{' · '.join(marks)} · n = {len(now.hits)}")


def _rate(event: TaskEvaluated, images: int) -> float:
    """Accuracy on the same first images, so that marks and readout are comparable."""
    return float(event.hits[:images].mean())


def _history(
    family: Family, tasks: Sequence[str], evaluations: Sequence[TaskEvaluated]
) -> dict[str, list[tuple[int, float]]]:
    partial = [e for e in evaluations if e.block is not None and e.model == "merged"]
    size = len(partial[0].hits) if partial else 0
    base = {e.task: (-1, _rate(e, size)) for e in evaluations if e.model == "base"} if size else {}
    return {
        family.title(task): ([base[task]] if task in base else [])
        + [(e.block, e.accuracy.rate) for e in partial if e.task == task and e.block is not None]
        for task in tasks
    }


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
    table(family, models)
    verdicts(
        [
            verdict(METHODS[method].title, name, hits["merged"], hits[rival])
            for rival, name in (("ties", "TIES at the same k"), ("ensembling", "the ensemble"))
            if {rival, "merged"} <= hits.keys()
            and rival != method
            and hits[rival].keys() >= hits["merged"].keys()
        ]
    )


def verdicts(sentences: Sequence[str]) -> None:
    """Paired comparisons in words, and the rule that they all follow."""
    if sentences:
        st.markdown("\n".join(f"- {sentence}" for sentence in sentences))
        st.caption(RULE)


def table(family: Family, models: Mapping[str, Mapping]) -> None:
    """Tasks by models, each cell accuracy and interval; the mean of tasks below."""
    tasks = list(dict.fromkeys(task for hits in models.values() for task in hits))
    rows, bars = [], {}
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
        accuracies = {t: Accuracy(correct=int(h.sum()), total=len(h)) for t, h in hits.items()}
        bars[model] = {family.title(t): (a.rate, *a.interval()) for t, a in accuracies.items()}
        average[model] = UNKNOWN
        if len(hits) == len(tasks):
            bars[model]["average"] = mean_accuracy(hits)
            average[model] = with_interval(*bars[model]["average"])
    st.dataframe(pd.DataFrame([*rows, average]), hide_index=True, width="stretch")
    if UNKNOWN in average.values():
        st.caption(
            "Unknown: EMR-Merging makes a model per task, by the mask of the task's own source. It "
            "has none where that source is not merged. Averages are over all tasks or not at all."
        )
    st.plotly_chart(
        figures.compared(bars),
        key=f"bars-{'-'.join(models)}",
        alt="Accuracies with 95 % intervals",
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


def hits_so_far(job: Job, tasks: Sequence[str]) -> Hits:
    """The models that a working job has evaluated on the very images of the whole merged model;
    nothing before that is known."""
    events = list(job.events)
    whole = [e for e in events if isinstance(e, TaskEvaluated) and e.block is None]
    hits, tasks = final_hits(events), evaluable_tasks(job.spec, tasks)
    full = {e.task for e in whole if e.model == "merged" and e.stage == "full"}
    if not tasks or full != set(tasks):
        return {}
    size = {task: len(h) for task, h in hits["merged"].items()}
    common = {m: {t: x for t, x in h.items() if t in size} for m, h in hits.items()}
    return {m: h for m, h in common.items() if {t: len(x) for t, x in h.items()} == size}
