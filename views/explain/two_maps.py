"""Comparison of two M-Loss maps: before and along the merge, or of recorded runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from mloss_core import BlockScored, Family, MergeRecipe, MlossError, RunRecord, list_runs, load_run
from mloss_core.analysis.map_difference import BlockPair, paired
from views.jobs import kinds, strip
from views.runs import parts as runs
from views.shared import difference_figure, figures, readouts
from views.shared.theme import written_alike
from views.state import session
from views.state.error_text import error_text
from views.state.explain_fields import WHEN
from views.state.job_board import Job

INPUTS = {"along": "merged", "before": "pretrained"}
Map = tuple[Mapping[int, Any], Mapping[int, Any] | None]  # nodes and images of each block


def show(family: Family, recipe: MergeRecipe) -> None:
    """Which two maps, and their difference as far as both are known."""
    st.markdown(
        "**Before the merge** every block sees what the base makes of the images; **along the "
        "merge** it sees what the blocks merged before it make of them (Algorithm 1 of the paper). "
        "Runs are recorded merges and maps. Maps are raw node M-Loss (Eq. 4)."
    )
    records = scored_runs(family)
    left, right = st.columns(2)
    with left:
        first = _choose("compared", "This map", records)
    with right:
        second = _choose("against", "minus this one", records)
    if first is None or second is None:
        return
    if first == second:
        st.info("Both are the same map: choose another one in either place.")
        return
    jobs = {key: _job(family, recipe, key) for key in (first, second) if key in WHEN}
    running = next((job for job in jobs.values() if job is not None and job.active), None)
    titles = tuple(_title(key, records) for key in (first, second))
    session.while_active(running)(lambda: _draw(family, (first, second), jobs, titles))()


def scored_runs(family: Family) -> dict[str, RunRecord]:
    """Finished runs of the family that have scores, newest first, by their ids."""
    records = [run for run in list_runs() if run.metadata["recipe"]["family"] == family.name]
    return {run.id: run for run in records if run.scored}


def _choose(field: str, label: str, records: Mapping[str, RunRecord]) -> str | None:
    """One of the maps that there are; None, said so, where the link names a run that is not."""
    options = [*WHEN, *records]
    chosen = session.chosen(field)
    value = st.selectbox(
        label, options, index=options.index(chosen) if chosen in options else None,
        key=session.widget(f"w-{field}"), format_func=lambda key: _title(key, records),
        placeholder="Choose a map",
    )  # fmt: skip
    if value is None:
        st.warning(
            f"Run {chosen} of this link is not here, is of another family, or has no scores: "
            "choose another map."
        )
        return None
    session.choose_value(field, value)
    return value


def _title(key: str, records: Mapping[str, RunRecord]) -> str:
    if key in WHEN:
        return WHEN[key]
    run = records[key]
    return f"{runs.named(run)} · {run.created[:16].replace('T', ' ')}"


def _job(family: Family, recipe: MergeRecipe, key: str) -> Job | None:
    """The map of these settings, before or along the merge."""
    map_recipe = dataclasses.replace(recipe, inputs_from=INPUTS[key])
    return kinds.map_job(family, map_recipe, WHEN[key])


def _draw(
    family: Family,
    keys: tuple[str, str],
    jobs: Mapping[str, Job | None],
    titles: tuple[str, ...],
) -> None:
    """The difference map, the blocks' differences, and what they say."""
    for job in jobs.values():
        strip.outcome(job, gone=False)
        strip.progress(job)
    try:
        (first, images), (second, others) = (_map(jobs.get(key), key) for key in keys)
    except MlossError as error:
        st.error(error_text(error))
        return
    sizes = {len(nodes) for nodes in (*first.values(), *second.values())}
    if len(sizes) > 1 or max(first.keys() | second.keys(), default=0) >= family.model.blocks:
        st.info("These two are maps of models of different sizes: choose another run.")
        return
    if not first.keys() & second.keys():
        st.info("There is no block yet that both know. If it stays so, choose another run.")
        return
    both = None if images is None or others is None else (images, others)
    pairs = paired(first, second, both)
    st.markdown(summary(pairs, titles))
    _figures(family, first, second, pairs, titles)
    _table(pairs)


def _map(job: Job | None, key: str) -> Map:
    """Nodes of each block and, where they are told apart, images."""
    if key not in WHEN:
        return load_run(key).scores(), None
    events = list(job.events) if job is not None else []
    scores = [event.scores for event in events if isinstance(event, BlockScored)]
    return {s.block: s.node for s in scores}, {s.block: s.per_image for s in scores}


def _figures(
    family: Family, first: Any, second: Any, pairs: list[BlockPair], titles: tuple[str, ...]
) -> None:
    blocks = family.model.blocks
    left, right = st.columns([3, 1])
    names = " minus ".join(readouts.plain(title) for title in titles)
    left.markdown(f"**{names[0].upper()}{names[1:]}**")
    figure = difference_figure.difference(first, second, blocks, int(session.chosen("group")))
    alt = f"Difference of M-Loss by block and node group: {' minus '.join(titles)}"
    left.plotly_chart(figure, key="two-maps", alt=alt)
    right.markdown("**Mean of each block**")
    means = {pair.block: pair.difference for pair in pairs}
    right.plotly_chart(
        figures.block_means(means, blocks, "difference of means"), key="two-means",
        alt=f"Difference of each block's mean node M-Loss: {' minus '.join(titles)}",
    )  # fmt: skip
    has_intervals = not math.isnan(pairs[0].difference[1])
    st.caption(
        "Blue: lower in the first. Orange: higher in the first. "
        + (
            "Bars: 95 % intervals over the calibration images, which are the same in both."
            if has_intervals
            else "No intervals: a recorded run has values per node, not per image."
        )
    )


def summary(pairs: list[BlockPair], titles: tuple[str, ...]) -> str:
    """How the two differ, in words."""
    a, b = (float(np.mean([getattr(p, name) for p in pairs])) for name in ("first", "second"))
    most = max(pairs, key=lambda p: abs(p.difference[0]))
    ratio = f" ({a / b:.2f} times)" if b > 0 else ""
    orders = [p.order for p in pairs if not math.isnan(p.order)]
    order = (
        f" The order of the nodes within a block, which is all that M-TIES reads, agrees to a rank "
        f"correlation of {min(orders):.2f} to {max(orders):.2f} (1 is the same order)."
        if orders
        else ""
    )
    first, second, apart = written_alike((a, b, most.difference[0]))
    return (
        f"Mean node M-Loss over {len(pairs)} blocks is **{first}** {_phrase(titles[0])} and "
        f"**{second}** {_phrase(titles[1])}{ratio}. They differ most in block {most.block}, by "
        f"{apart}.{order}"
    )


def _phrase(title: str) -> str:
    return title if title in WHEN.values() else f"in {readouts.plain(title)}"


def _table(pairs: list[BlockPair]) -> None:
    rows = pd.DataFrame(
        {
            "block": p.block, "first": p.first, "second": p.second,
            "difference": p.difference[0], "low": p.difference[1], "high": p.difference[2],
            "nodes higher in the first": p.higher, "rank correlation": p.order,
        }
        for p in pairs
    )  # fmt: skip
    number = st.column_config.NumberColumn(format="%.3g")
    with st.expander("The blocks of both as a table"):
        config = {name: number for name in list(rows)[1:]}
        st.dataframe(rows, hide_index=True, column_config=config)
        st.download_button("CSV: both maps by block", rows.to_csv(index=False), "two-maps.csv",
                           "text/csv", key="csv-two-maps")  # fmt: skip
