"""Explanation of a node's M-Loss: curvature and variance, its pre-activations, and the gap."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import streamlit as st

from mloss_core import BlockTheory, Family
from mloss_core.analysis.curvature import SMOOTH
from mloss_core.analysis.node import Node, Reasons, activated_at, gap, reasons
from views.explain import why_figures
from views.jobs import strip
from views.shared.theme import written, written_alike
from views.state import explain_fields
from views.state.bound import bound
from views.state.job_board import Job
from views.theory import parts as theory_readouts

POINTS = 200  # of a drawn curve
CLEAR = 1.25  # times the block's mean, from which on a factor is called large


def show(
    family: Family,
    sources: Sequence[str],
    place: tuple[int, int],
    node: Node | None,
    explain: Job | None,
) -> None:
    """The node first, then the maps of both factors.

    Args:
        sources: of the map.
        place: block and node.
        node: None while its block is not looked into yet.
        explain: the job that measures both factors; None for activations that have none.
    """
    rows: list[BlockTheory] = list(explain.events) if explain is not None else []
    by_block = {row.scores.block: row for row in rows}
    st.markdown(
        "While the sources are close, M-Loss is to second order half the **curvature** of the "
        "activation times the **variance** of the sources' pre-activations: it is high where the "
        "activation bends, or where the sources are far apart, or both."
    )
    block, number = place
    if block in by_block:
        factors(reasons(by_block[block], number), block, number)
    if node is not None:
        close_up(family, sources, node)
    all_nodes(family, explain, rows)


def all_nodes(family: Family, explain: Job | None, rows: list[BlockTheory]) -> None:
    """Both factors as maps, and what their product explains of M-Loss."""
    st.markdown("#### All nodes of this map")
    if family.model.activation not in SMOOTH:
        no_second_order(family)
        return
    if explain is None:
        st.info("Not measured yet. Press *Measure curvature and variance* above.")
        return
    strip.outcome(explain, gone=False)
    if rows:
        done = f"{len(rows)} of {family.model.blocks} blocks. "
        st.caption(
            f"{done * explain.active}Curvature: mean over tokens and images of |σ″(mean h)|. "
            "Variance: mean of the weighted mean of (h − mean h)². Mean h is the weighted mean of "
            "the sources' pre-activations h. Prediction: half their product, token by token."
        )
        theory_readouts.second_order(rows, family.model.blocks)


def no_second_order(family: Family) -> None:
    """Why ReLU kinds have no second order."""
    st.info(
        f"This family's activation, {family.model.activation}, is straight but for one point, "
        "where it has no second derivative. So there is no curvature to multiply, and M-Loss comes "
        "only from tokens whose sources lie on both sides of that point: see the histograms above."
    )


def factors(reasons: Reasons, block: int, node: int) -> None:
    """The node's factors, in multiples of its block's mean, and what they say."""
    a, b, c, d = st.columns(4)
    a.metric(
        f"M-Loss of node {node}, block {block}", written(reasons.measured),
        f"rank {reasons.rank} of {reasons.nodes}", delta_color="off", delta_arrow="off",
        help="Eq. 4, mean over tokens and images, in the activation's units. Rank 1 is the "
        "highest of the block.",
    )  # fmt: skip
    b.metric(
        "Curvature ÷ block's mean",
        _times(reasons.curvature),
        help="Of |σ″(mean h)|, mean over tokens.",
    )
    c.metric(
        "Variance ÷ block's mean", _times(reasons.variance), help="Of the sources' pre-activations."
    )
    share = reasons.predicted / reasons.measured if reasons.measured > 0 else math.nan
    d.metric(
        "Predicted ÷ measured", "none" if math.isnan(share) else f"{share:.1%}",
        help="Half of curvature times variance, multiplied token by token and averaged, over the "
        "measured M-Loss. 100 % would be exact.",
    )  # fmt: skip
    if not math.isnan(reasons.loss):
        st.markdown(summary(reasons))


def summary(reasons: Reasons) -> str:
    """What makes this node's M-Loss what it is."""
    parts = (
        f"**{_times(reasons.loss)} the block's mean M-Loss** = {_times(reasons.curvature)} "
        f"curvature × {_times(reasons.variance)} variance × {reasons.meeting:.2f} (whether both "
        f"are high at the same tokens) × {reasons.rest:.2f} (what the second order leaves out)."
    )
    bends, apart = reasons.curvature >= CLEAR, reasons.variance >= CLEAR
    if reasons.loss < 1:
        why = "This node is below its block's mean: choose the highest one to see why it is high."
    elif apart and bends:
        larger = "the variance" if reasons.variance >= reasons.curvature else "the curvature"
        why = f"The sources are far apart where the activation bends; {larger} says more."
    elif apart:
        why = "The sources are far apart here; the activation bends as it does elsewhere."
    elif bends:
        why = "The activation bends strongly here; the sources are no farther apart than elsewhere."
    else:
        why = "Neither factor stands out: both are near the block's mean."
    return f"{parts} {why}"


def _times(value: float) -> str:
    return "not known" if math.isnan(value) else f"{value:.2f} ×"


def close_up(family: Family, sources: Sequence[str], node: Node) -> None:
    """The node's pre-activations, and the gap at one place."""
    flat = node.h.reshape(len(node.h), -1)
    names = [family.title(name) for name in sources]
    places = [family.sources.index(name) for name in sources]
    centre = float(np.dot(node.alpha, flat.mean(1)))
    left, right = st.columns(2)
    with left:
        st.markdown("**Pre-activations of each source, over the activation**")
        figure = why_figures.histograms(
            flat, names, places, _curve(why_figures.span(flat), node.act), centre
        )
        where = f"node {node.node} of block {node.block}"
        alt = f"Histograms of each source's pre-activations at {where}, over the activation's curve"
        st.plotly_chart(figure, key="why-histograms", alt=alt)
        st.caption(
            f"{flat.shape[1]:,} tokens of {node.h.shape[1]} images; the outermost 0.1 % at either "
            f"end are not drawn. Dashed: the mean over sources and tokens, {written(centre)}."
        )
    with right:
        _gap(node, names, places)


def _gap(node: Node, names: list[str], places: list[int]) -> None:
    """The gap at a typical token, or at the mean pre-activations: said which."""
    st.markdown("**The gap: activation of the mean, mean of the activations**")
    at = bound("gap_at", st.segmented_control)
    image, token = node.typical()
    h = node.h[:, image, token] if at == "token" else node.h.mean((1, 2))
    local_gap = gap(h, node.act, node.alpha)
    figure = why_figures.gap(
        local_gap.h, local_gap.activated, names, places, _curve(why_figures.span(h, 0.0), node.act),
        (local_gap.mean, local_gap.merged, local_gap.ensembled, local_gap.slope),
    )  # fmt: skip
    where = explain_fields.PLACES[at]
    merged, ensembled, size, typical = written_alike(
        (local_gap.merged, local_gap.ensembled, local_gap.size, float(node.losses().mean()))
    )
    alt = f"The gap at {where}: sigma of the mean is {merged}, the mean of sigma is {ensembled}"
    st.plotly_chart(figure, key="why-gap", alt=alt)
    which = f"image {image}, token {token}" if at == "token" else "each source's mean"
    st.caption(
        f"At {where} ({which}): σ(mean h) = {merged}, mean of σ(h) = {ensembled}, "
        f"gap **{size}**. The node's M-Loss, the mean gap of all tokens, is {typical}. Below, the "
        "tangent is removed: only the bend is left, and the gap is the mean height of the "
        "sources."
    )


def _curve(ends: tuple[float, float], act: str) -> why_figures.Curve:
    x = np.linspace(*ends, POINTS)
    return x, activated_at(x, act)
