"""Leave-one-out view: M-Loss of node and blocks without each source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import streamlit as st

from mloss_core import Family, MergeRecipe
from mloss_core.analysis.compatibility import words
from mloss_core.analysis.compatibility.sets import Compatibility
from mloss_core.analysis.exchangeable import gains_if_alike, variance_if_alike
from mloss_core.analysis.node import Node
from views.compatibility import figures
from views.compatibility import parts as compatibility_views
from views.jobs import strip
from views.state.job_board import Job

MEASURE = "node"  # the map's own: mean of Eq. 4 over the nodes


def show(
    family: Family, recipe: MergeRecipe, block: int, node: Node | None, job: Job | None
) -> None:
    """The node, then every block by source, then the pairs of the node's block."""
    if len(recipe.sources) < 3:
        st.info("Choose three sources or more: of two, nothing is left to merge without one.")
        return
    names = [family.title(name) for name in recipe.sources]
    places = [family.sources.index(name) for name in recipe.sources]
    st.markdown(
        "Each source is left out in turn; the others keep their weights, divided by their sum. The "
        "inputs stay those of the map. Where M-Loss **falls** more without a source than it would "
        "if all were alike, that source causes it. Where it falls less, or **rises**, the source "
        "is closer to the average of all."
    )
    if node is not None:
        of_node(node, names, places)
    if job is None:
        st.info("Not measured yet. Press *Measure M-Loss without each source* above.")
        return
    strip.outcome(job, gone=False)
    blocks = tuple(job.events)
    if blocks:
        compatibility = Compatibility(sources=recipe.sources, blocks=blocks)
        of_blocks(family, recipe, compatibility, names)
        of_block(family, recipe, compatibility, block, names, places)


def of_node(node: Node, names: Sequence[str], places: Sequence[int]) -> None:
    """What is left of this node's M-Loss without each source."""
    where = f"node {node.node} of block {node.block}"
    st.markdown(f"#### Node {node.node} of block {node.block}")
    gains = node.without()
    assert gains is not None, "there are three sources or more"
    if node.losses().max() == 0:
        st.info("All sources agree at this node: its M-Loss is zero.")
        return
    left, right = st.columns([2, 1])
    figure = figures.gains(gains, names, places, gains_if_alike(node.alpha, MEASURE))
    figure.update_xaxes(title="the node's M-Loss falls by")
    alt = f"By how much M-Loss of {where} falls without each source, with 95 % intervals"
    left.plotly_chart(figure, key="culprit-node", alt=alt)
    left.caption(
        "Bars: 95 % intervals over the calibration images, paired. Dashed: what the source would "
        "give if all were alike."
    )
    best, spread = int(gains[0].argmax()), node.spread()
    farthest = int(spread.argmax())
    mean, low, high = gains[:, best]
    right.markdown(
        f"**Without {names[best]} this node's M-Loss falls most**, by {mean:.0%} (95 % interval "
        f"{words.spread(low, high, '.0%')}). Farthest from the mean pre-activation is "
        f"{names[farthest]}: it holds {spread[farthest]:.0%} of the variance, where "
        f"{variance_if_alike(node.alpha)[farthest]:.1%} would be its share if all were alike."
    )


def of_blocks(
    family: Family, recipe: MergeRecipe, compatibility: Compatibility, names: Sequence[str]
) -> None:
    """By how much each block's M-Loss falls or rises without each source."""
    st.markdown("#### Every block")
    by_block, blocks = compatibility_views.gains_by_block(compatibility, MEASURE)
    source, column = (int(i) for i in np.unravel_index(by_block.argmax(), by_block.shape))
    st.markdown(
        f"Most falls in block {blocks[column]} without **{names[source]}**: "
        f"{by_block[source, column]:.1%} of the block's mean node M-Loss. "
        f"{words.alike(gains_if_alike(recipe.alpha, MEASURE)[source], MEASURE)}"
    )
    alt = "By how much each block's mean node M-Loss falls without each source"
    st.plotly_chart(figures.left_out(by_block, names, blocks), key="culprit-blocks", alt=alt)
    st.caption(
        f"{len(blocks)} of {family.model.blocks} blocks. Share of the block's mean node M-Loss "
        "(Eq. 4). Blue: it falls without this source. Orange: it rises."
    )


def of_block(
    family: Family,
    recipe: MergeRecipe,
    compatibility: Compatibility,
    block: int,
    names: Sequence[str],
    places: Sequence[int],
) -> None:
    """One block: what each source costs there, and its pairs."""
    st.markdown(f"#### Block {block}")
    if block not in [b.block for b in compatibility.blocks]:
        st.caption("This block is not measured yet.")
        return
    left, right = st.columns(2)
    gains = compatibility.gains(MEASURE, block)
    assert gains is not None, "there are three sources or more"
    figure = figures.gains(gains, names, places, gains_if_alike(recipe.alpha, MEASURE))
    figure.update_xaxes(title=f"M-Loss of block {block} falls by")
    left.markdown("**Without each source**")
    alt = f"By how much M-Loss of block {block} falls without each source, with 95 % intervals"
    left.plotly_chart(figure, key="culprit-block", alt=alt)
    drawn, title, alt = compatibility_views.pair_map(family, compatibility, MEASURE, block)
    right.markdown("**Each pair of sources alone, in equal parts**")
    assert drawn is not None, "the block is known"
    right.plotly_chart(drawn, key="culprit-pairs", alt=alt)
    right.caption(f"{title}. Brackets join first the sources whose pair has the lowest M-Loss.")
