"""Views of the chosen blocks on the heatmap page: clickable map, cost, table, and nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from mloss_core import BlockScored, Family, MergeRecipe, NodeScores
from mloss_core.experiments import cost
from views.heatmap import block_figures, pointing
from views.shared import block_picker, widgets
from views.state import selection, session

CHOSEN = "chosen"  # the ticked column of the table
HOW = (
    "Point at a cell, or draw a box (the button in the chart's corner), and its blocks are chosen; "
    "a square on the left adds or removes its block. One cell also brings its highest node "
    "into focus. Without a mouse: the blocks below, or the table."
)


def pointed_map(
    where: DeltaGenerator,
    family: Family,
    nodes: Mapping[int, np.ndarray],
    size: int,
    figure: go.Figure,
    config: Mapping,
) -> None:
    """The finished map, to point at.

    Args:
        nodes: what it shows of each block's nodes.
        size: nodes a group.
    """
    chosen = block_picker.current(family).blocks
    focus = None
    if node := session.chosen("node"):
        block, number = map(int, node.split(":"))
        focus = (block, number // size)

    def taken() -> None:
        pointed = pointing.pointed(st.session_state["heatmap"]["selection"]["points"])
        if not (pointed.marks or pointed.cells):
            return  # the chart was drawn anew, or what was pointed at was let go
        block_picker.take(
            family,
            pointing.choice_after(chosen, pointed, st.session_state.get("pointing-adds", False)),
        )
        if len(pointed.cells) == 1 and not pointed.marks:
            block, group = pointed.cells[0]
            highest = pointing.highest(nodes[block], group, size)
            session.choose_value("node", f"{block}:{highest}")

    words = selection.text(chosen, family.model.blocks)
    where.plotly_chart(
        pointing.pointable(figure, chosen, focus), key="heatmap", config=dict(config),
        on_select=taken, selection_mode=("points", "box"),
        alt=f"Heatmap of M-Loss: blocks by groups of {size} nodes; chosen blocks: {words}",
    )  # fmt: skip


def choice(family: Family, recipe: MergeRecipe, scores: Sequence[NodeScores], whole: float) -> None:
    """The choice, by name and by M-Loss, and what it costs and covers.

    Args:
        whole: seconds that measuring all blocks took.
    """
    losses = mean_losses(scores)
    st.toggle(
        "Add the blocks I point at", key="pointing-adds",
        help="If off, the blocks you point at replace the chosen ones.",
    )  # fmt: skip
    block_picker.block_choice(family)
    block_picker.by_loss(family, losses)
    chosen = block_picker.current(family).blocks
    mine = dataclasses.replace(recipe, blocks=chosen)
    price = cost.cost(mine, family.model)
    took = cost.seconds(mine, family.model, whole)
    covers = selection.covered(losses, chosen)
    a, b, c, d = st.columns(4)
    a.metric("Blocks chosen", f"{len(chosen)} of {family.model.blocks}", border=True)
    b.metric("M-Loss covered", f"{covers:.0%}", border=True,
             help="Share of the sum of all blocks' mean node M-Loss.")  # fmt: skip
    c.metric("c_fc products", f"{price.products:.0%}", border=True,
             help="Of the products that measuring all blocks computes (Section 6.3).")  # fmt: skip
    d.metric("Measuring M-Loss", f"≈ {took:.2g} s" if took else "none", border=True,
             help=f"An estimate: the {whole:.2g} s that this map took, times the choice's share of "
             "the multiply-adds.")  # fmt: skip
    if price.passed:
        st.caption(
            f"Each calibration image passes {price.passed} blocks, {price.apart} if each source "
            f"were passed alone; {price.multiply_adds:.2g} multiply-adds in all (Section 6.3)."
        )


def mean_losses(scores: Sequence[NodeScores]) -> dict[int, float]:
    """Mean node M-Loss of each block."""
    return {s.block: s.mean_interval()[0] for s in scores}


def nodes_of(family: Family, recipe: MergeRecipe, scores: Sequence[NodeScores]) -> None:
    """The chosen blocks' nodes: how their M-Loss is distributed, and the keep rates it leads to."""
    chosen = block_picker.current(family).blocks
    if not chosen:
        st.caption("No block is chosen: every tensor is trimmed at k, which is TIES.")
        return
    losses = {s.block: s.node for s in scores if s.block in chosen}
    left, right = st.columns(2)
    with left:
        st.plotly_chart(
            block_figures.distributions(losses), key="distributions",
            alt="Share of each chosen block's nodes whose M-Loss is at most x",
        )  # fmt: skip
    with right:
        mine = dataclasses.replace(recipe, blocks=chosen)
        widgets.keep_rate_figure(mine, family, losses)


def table(family: Family, events: Sequence[BlockScored]) -> None:
    """A row per block, to choose by ticking."""
    chosen = block_picker.current(family).blocks
    place = block_picker.key("rows", chosen)
    losses = mean_losses([e.scores for e in events])
    blocks = [event.scores.block for event in events]
    rows = [{CHOSEN: e.scores.block in chosen} | _row(e, losses) for e in events]
    numbers = st.column_config.NumberColumn(format="%.3g")
    shares = st.column_config.NumberColumn(format="percent")
    config = {name: shares if "share" in name else numbers for name in list(rows[0])[2:]}

    def ticked() -> None:
        edits = st.session_state[place]["edited_rows"]
        ticks = {block: block in chosen for block in blocks}
        ticks |= {blocks[int(row)]: edit[CHOSEN] for row, edit in edits.items()}
        block_picker.take(family, [block for block, tick in ticks.items() if tick], "rows")

    with st.expander("The blocks as a table: tick to choose"):
        st.caption(
            "By keyboard: Tab to the table, arrows to a box, Space ticks it. *With all higher* is "
            "the share of the block and all blocks of higher M-Loss."
        )
        st.data_editor(
            pd.DataFrame(rows), hide_index=True, column_config=config, key=place,
            on_change=ticked, disabled=list(rows[0])[1:],
        )  # fmt: skip


def _row(event: BlockScored, losses: Mapping[int, float]) -> dict[str, float]:
    """A block's numbers for the table."""
    s = event.scores
    mean, low, high = s.mean_interval()
    higher = [block for block in losses if losses[block] >= mean]
    return {
        "block": s.block, "mean M-Loss": mean, "low": low, "high": high,
        "share of M-Loss": selection.covered(losses, [s.block]),
        "share with all higher": selection.covered(losses, higher),
        "layer (Eq. 3)": s.layer, "normalised layer (Eq. 6)": s.layer_normalised,
        "seconds": event.seconds,
    }  # fmt: skip
