"""Sections of the Compatibility page: widgets, and results turned into figures and words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from jaxtyping import Float

from mloss_core import Family, InputError, MergeRecipe
from mloss_core.analysis.compatibility import words
from mloss_core.analysis.compatibility.clustering import clusters
from mloss_core.analysis.compatibility.ensemble_gap import GapMeasured
from mloss_core.analysis.compatibility.prediction import MAIN, TRIPLES, Study, check_studied
from mloss_core.analysis.compatibility.sets import Compatibility
from mloss_core.analysis.compatibility.sign_conflict import SignsCounted, conflict
from mloss_core.analysis.task_vectors import Geometry
from mloss_core.intervals import with_interval
from mloss_core.mloss import MEASURES
from views.compatibility import figures
from views.jobs import kinds
from views.shared import widgets
from views.shared.theme import written_alike
from views.state import allowed, session
from views.state.compatibility_fields import RULES, pair_blocks
from views.state.error_text import error_text
from views.state.job_board import Job

SIGNS = (0.4, 0.5)  # chance is a half: a thousandth of difference must not look large
Drawn = tuple[go.Figure | None, str, str]  # a figure, its title and its alt text


def choose_set(family: Family) -> None:
    """Which sources are asked about: the same choice as on the Explore page."""
    picked = st.pills(
        "Sources in question (two or more; the same choice as on the Explore page)",
        list(family.sources),
        selection_mode="multi",
        wrap=True,
        format_func=family.title,
        default=list(session.chosen_sources()),
        key=session.widget(f"w-set-{family.name}"),
    )
    names = ",".join(name for name in family.sources if name in picked)
    if names != session.chosen("sources"):
        session.choose_value("sources", names)
        session.choose_value("weights", "")


def block_of(family: Family) -> int | None:
    """The block whose M-Loss and signs are shown; None for all of them."""
    names = pair_blocks(family.model.blocks)
    block = widgets.bound("pair_block", st.selectbox, names=names)
    return None if block == "all" else int(block)


def geometry_of(family: Family, recipe: MergeRecipe) -> Geometry:
    """Norms and angles of the recipe's task vectors."""
    hashes = tuple(family.source(name).sha256 for name in recipe.sources)
    return session.cached_geometry(family.name, recipe.sources, hashes)


def pair_map(
    family: Family, compatibility: Compatibility, measure: str, block: int | None
) -> Drawn:
    """M-Loss of every pair in a block, or in all that are measured (None), clustered."""
    blocks = [b.block for b in compatibility.blocks]
    where = f"block {block}" if block is not None else f"{len(blocks)} blocks"
    title = f"M-Loss, {MEASURES[measure]}: {where}"
    if block is not None and block not in blocks:
        return None, title, ""
    losses = compatibility.pair_matrix(measure, block)
    tree = clusters(losses)
    names = [family.title(compatibility.sources[i]) for i in tree.order]
    brackets, above = (tree.across, tree.heights), (0.0, max(float(losses.max()), 1e-12))
    alt = f"M-Loss of each pair of sources, {where}, with their clusters"
    shown = losses[np.ix_(tree.order, tree.order)]
    return figures.matrix(shown, names, "M-Loss", above, brackets), title, alt


def matrices(
    family: Family,
    compatibility: Compatibility,
    geometry: Geometry,
    signs: Sequence[SignsCounted],
    measure: str,
    block: int | None,
) -> Iterator[Drawn]:
    """M-Loss, cosine and sign conflict of every pair, in the order of M-Loss' clusters."""
    first = pair_map(family, compatibility, measure, block)
    yield first
    if first[0] is None:
        return
    tree = clusters(compatibility.pair_matrix(measure, block))
    order = np.ix_(tree.order, tree.order)
    names = [family.title(compatibility.sources[i]) for i in tree.order]
    cosines = geometry.cosines
    apart = cosines[~np.eye(len(names), dtype=bool)]
    limits = (min(0.0, float(apart.min())), max(0.2, float(apart.max())))
    alt = "Cosine of the task vectors of each pair of sources"
    yield figures.matrix(cosines[order], names, "cosine", limits), "Cosine of task vectors", alt
    share = conflict(s for s in signs if block is None or s.block == block)
    title, alt = "Sign conflict", "Share of entries whose signs are opposite, for each pair"
    if share is None:
        yield None, title, alt
        return
    apart = share[~np.eye(len(names), dtype=bool)]
    limits = (min(SIGNS[0], float(apart.min())), max(SIGNS[1], float(apart.max())))
    yield figures.matrix(share[order], names, "opposite", limits), title, alt


def total(family: Family, compatibility: Compatibility, measure: str) -> str:
    """M-Loss of the chosen set over the blocks measured so far, in words."""
    mean, low, high = map(float, compatibility.whole(measure))
    whole, least, most = written_alike((mean, low, high))
    how = "mean" if measure == "node" else "sum"
    blocks, every = len(compatibility.blocks), family.model.blocks
    return (
        f"{len(compatibility.sources)} sources, {how} over {blocks} of {every} blocks: "
        f"**{whole}** (95 % interval over the calibration images {least} to {most}). "
        "These are unlabeled images; all models see the base's activations "
        "there, for nothing is merged yet. On the Explore page a block sees what the merged "
        "blocks before it make of them."
    )


def gains_by_block(
    compatibility: Compatibility, measure: str
) -> tuple[Float[np.ndarray, "q blocks"], list[int]]:
    """By how much each block's M-Loss falls without each source."""
    blocks = [b.block for b in compatibility.blocks]
    columns = [gains[0] for b in blocks if (gains := compatibility.gains(measure, b)) is not None]
    return np.stack(columns, 1), blocks


def study_problem(family: Family) -> str:
    """Why the prediction study cannot be made of the chosen sources; empty if it can."""
    try:
        check_studied(study_recipe(family, RULES[0]), family, TRIPLES)
    except InputError as error:
        return error_text(error)
    return ""


def study_recipe(family: Family, rule: str) -> MergeRecipe:
    """How the study merges the chosen sources."""
    settings = {key: int(session.chosen(key)) for key in ("samples", "seed")}
    return kinds.study_recipe(family, session.chosen_sources(), rule, **settings)


def job_or_button(kind: str, spec: Any, label: str, begin: Callable[[], Job]) -> Job | None:
    """The job of that kind and spec; a button begins it where there is none, or again if it
    failed."""
    job = kinds.find_job(kind, spec)
    again = job is not None and job.state == "failed"
    due, why = job is None or again, allowed.why_no_job()
    if due and allowed.button(label, why, type="primary", key=f"ask-{kind}"):
        begin()
        session.remember()
        st.rerun()
    return job


def show_study(family: Family, study: Study) -> None:
    """The words, the drops over a predictor, and every predictor's correlation."""
    parts = {what: study.of_size(size) for what, size in words.SIZES.items()}
    for what in ("pairs", "triples"):
        if parts[what].sets:
            st.markdown("\n".join(f"- {line}" for line in words.prediction(parts[what], what)))
    left, right = st.columns(2)
    with left:
        shown = widgets.bound("predictor", st.selectbox)
        sets = [[family.title(study.sources[i]) for i in members] for members in study.sets]
        figure = figures.drops(study.predictors[shown], study.drops, sets, words.TITLES[shown])
        alt = f"Accuracy lost by every merged set over its {words.TITLES[shown]}"
        st.plotly_chart(figure, key="drops", alt=alt)
    with right:
        rows: dict[str, dict[str, tuple[float, tuple[float, float]]]] = {}
        for what in ("pairs", "triples"):
            correlations = parts[what].correlations() if len(parts[what].sets) >= words.FEW else {}
            for name, c in correlations.items():
                rows.setdefault(words.TITLES[name], {})[what] = (c.rho, c.by_models)
        if rows:
            alt = "Rank correlation of every predictor with the accuracy lost, with intervals"
            st.plotly_chart(figures.correlations(rows), key="correlations", alt=alt)
    st.caption(
        f"Correlations are turned so that above 0 means: points as expected. {words.TITLES[MAIN]}, "
        "is the main measure, fixed beforehand; the best of several, found later, would flatter. "
        "Bars are 95 % intervals over models: sets share models, so models, not sets, are drawn "
        "anew 2,000 times (bootstrap). With few models they are still rather too narrow. "
        "Distinguishable: the interval of the two correlations' difference excludes zero."
    )


def gap_rows(family: Family, gaps: Sequence[GapMeasured]) -> dict[str, tuple[Any, Any]]:
    """Both merges' distances by task, with intervals."""
    return {family.title(g.task): (with_interval(g.m_ties), with_interval(g.ties)) for g in gaps}
