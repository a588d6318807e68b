"""Views of the chosen blocks: their choice by name and by M-Loss, cost, table, and nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from mloss_core import BlockScored, Family, MergeRecipe, NodeScores
from mloss_core.experiments import cost
from views.explain import block_figures
from views.shared import block_picker
from views.state import selection

CHOSEN = "chosen"  # the ticked column of the table


def choice(family: Family, recipe: MergeRecipe, scores: Sequence[NodeScores], whole: float) -> None:
    """The choice, by name and by M-Loss, and what it costs and covers.

    Args:
        whole: seconds that measuring all blocks took.
    """
    losses = mean_losses(scores)
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
    c.metric("Work of measuring", f"{price.products:.0%}", border=True,
             help="Of the products x · W that measuring all blocks computes, W being c_fc, the "
             "blocks' first MLP layer (Section 6.3).")  # fmt: skip
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


def nodes_of(family: Family, scores: Sequence[NodeScores]) -> None:
    """The chosen blocks' nodes: how their M-Loss is distributed."""
    chosen = block_picker.current(family).blocks
    if not chosen:
        st.caption("No block is chosen: every tensor is trimmed at k, which is TIES.")
        return
    losses = {s.block: s.node for s in scores if s.block in chosen}
    st.plotly_chart(
        block_figures.distributions(losses), key="distributions",
        alt="Share of each chosen block's nodes whose M-Loss is at most x",
    )  # fmt: skip


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
