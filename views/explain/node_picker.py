"""Widgets that choose the node to explain, kept in the link's field `node`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import streamlit as st
from jaxtyping import Float
from streamlit.delta_generator import DeltaGenerator

from mloss_core import Family
from views.state import session

Nodes = Mapping[int, Float[np.ndarray, " nodes"]]


def in_question(nodes: Nodes) -> tuple[int, int]:
    """The chosen node, or the map's highest where none is chosen."""
    chosen = session.chosen("node")
    if chosen:
        block, _, node = chosen.partition(":")
        return int(block), int(node)
    block = max(nodes, key=lambda b: float(nodes[b].max()))
    return block, int(nodes[block].argmax())


def choose(family: Family, nodes: Nodes) -> tuple[int, int]:
    """Two numbers and two buttons; a node chosen elsewhere, on the map say, shows in them."""
    block, node = in_question(nodes)
    now = f"{block}:{node}"
    state = st.session_state
    drawn = state.setdefault("node_drawn", 0)
    if state.setdefault("node_shown", now) != now:  # chosen elsewhere: new widgets start from it
        drawn = state.node_drawn = drawn + 1
        state.node_shown = now
    keys = (f"w-node-block-{drawn}", f"w-node-{drawn}")

    def typed() -> None:
        state.node_shown = f"{state[keys[0]]}:{state[keys[1]]}"
        session.choose_value("node", state.node_shown)

    a, b, c, d = st.columns([1, 1, 2, 2], vertical_alignment="bottom")
    most = (family.model.blocks - 1, family.model.nodes - 1)
    a.number_input("Block", 0, most[0], block, key=keys[0], on_change=typed)
    b.number_input("Node", 0, most[1], node, key=keys[1], on_change=typed)
    if block in nodes:
        _highest(c, "Highest node of this block", block, nodes)
    top = max(nodes, key=lambda k: float(nodes[k].max()))
    _highest(d, "Highest node of all", top, nodes)
    return block, node


def block_alone(family: Family) -> int:
    """The block alone, where no map says which nodes there are to choose from."""
    chosen, most = session.chosen("node"), family.model.blocks - 1
    block, _, node = chosen.partition(":")
    value = int(st.number_input("Block", 0, most, int(block or 0), key=session.widget("w-block")))
    if value != int(block or 0):
        session.choose_value("node", f"{value}:{node or 0}")
    return value


def _highest(place: DeltaGenerator, label: str, block: int, nodes: Nodes) -> None:
    target = f"{block}:{int(nodes[block].argmax())}"
    place.button(
        label, key=f"node-{label}", on_click=session.choose_value, args=("node", target),
        width="stretch",
        help="By M-Loss (Eq. 4), the mean over tokens and images.",
    )  # fmt: skip
