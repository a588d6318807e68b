"""Widgets that choose blocks, the same on every page: pills, presets, undo and redo, names.

The choice is kept in the link's field `blocks`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import streamlit as st

from mloss_core import Family
from mloss_core.fields import FIELDS, parse_blocks
from views.state import selection, session
from views.state.selection import Blocks, Selection


def current(family: Family) -> Selection:
    """The chosen blocks with their history; what somebody else put into the link is a step."""
    blocks = blocks_of(session.chosen("blocks"), family)
    name, chosen = st.session_state.get("selection", ("", None))
    if chosen is None or name != family.name:
        chosen = Selection(blocks=blocks)
    chosen = selection.choose(chosen, blocks)
    st.session_state.selection = (family.name, chosen)
    return chosen


def blocks_of(text: str, family: Family) -> Blocks:
    """Blocks as a link holds them."""
    chosen = parse_blocks(text, family.model.blocks)
    return tuple(range(family.model.blocks)) if chosen is None else chosen


def take(family: Family, blocks: Iterable[int], by: str = "") -> None:
    """Chooses these blocks.

    Args:
        by: the widget that chose, and shows them already.
    """
    _keep(family, selection.choose(current(family), blocks), by)


def step(family: Family, back: bool) -> None:
    """Undo, or redo."""
    _keep(family, (selection.undo if back else selection.redo)(current(family)), "")


def _keep(family: Family, chosen: Selection, by: str) -> None:
    st.session_state.selection = (family.name, chosen)
    session.choose_value("blocks", selection.text(chosen.blocks, family.model.blocks))
    if by:
        _, number = st.session_state.shows[by]
        st.session_state.shows[by] = (chosen.blocks, number)


def key(name: str, blocks: Blocks) -> str:
    """The key of a widget that shows the choice: a new one, which starts from the choice, once
    that was changed elsewhere. What one changes by itself must not take the keyboard from it."""
    drawn = st.session_state.setdefault("shows", {})
    shown, number = drawn.get(name, (blocks, 0))
    drawn[name] = (blocks, number + (shown != blocks))
    return f"w-{name}-{drawn[name][1]}"


def block_choice(family: Family) -> None:
    """Which blocks are trimmed by M-Loss: pills, presets, undo and redo, and names."""
    chosen = current(family)
    names = list(range(family.model.blocks))
    place = key("blocks", chosen.blocks)
    st.pills(
        FIELDS["blocks"].label, names, selection_mode="multi", key=place, wrap=True,
        default=list(chosen.blocks),
        on_change=lambda: take(family, st.session_state[place], "blocks"),
        help=f"{FIELDS['blocks'].help} By keyboard: Tab to a block, Space chooses it or not.",
    )  # fmt: skip
    with st.container(horizontal=True):
        for label, blocks in selection.presets(len(names)).items():
            st.button(label, on_click=take, args=(family, blocks))
        st.button(
            "Undo", icon=":material/undo:", disabled=not chosen.past, on_click=step,
            args=(family, True), help="Back to the blocks chosen before.",
        )  # fmt: skip
        st.button(
            "Redo", icon=":material/redo:", disabled=not chosen.future, on_click=step,
            args=(family, False), help="Forward again to the blocks that were undone.",
        )  # fmt: skip
        with st.popover("Named choices"):
            named_choices(family)


def named_choices(family: Family) -> None:
    """Saves the choice under a name, and brings saved ones back."""
    chosen = current(family)
    count = family.model.blocks
    st.text_input("Name for these blocks", key="selection-name", max_chars=24)
    st.button("Save", on_click=_save, args=(selection.text(chosen.blocks, count),))
    if wrong := st.session_state.pop("selection-wrong", ""):
        st.error(wrong)
    choices = selection.named(session.chosen("saved"))
    for name, blocks in choices.items():
        with st.container(horizontal=True):
            taken = (family, blocks_of(blocks, family))
            st.button(f"{name}: {blocks}", key=f"take-{name}", on_click=take, args=taken)
            st.button("Forget", key=f"forget-{name}", on_click=_forget, args=(name,))
    if not choices:
        st.caption("None yet. Names are stored in the link.")


def _save(blocks: str) -> None:
    try:
        named = selection.with_name(
            session.chosen("saved"), st.session_state["selection-name"], blocks
        )
    except ValueError as error:
        st.session_state["selection-wrong"] = f"Not saved: {error}."
    else:
        session.choose_value("saved", named)


def _forget(name: str) -> None:
    choices = selection.named(session.chosen("saved"))
    choices.pop(name, None)
    session.choose_value("saved", selection.written(choices))


def by_loss(family: Family, losses: Mapping[int, float]) -> None:
    """The blocks of the highest M-Loss: so many, or as many as hold a share of all M-Loss."""
    chosen = current(family).blocks
    left, right = st.columns(2)
    most, share = key("most", chosen), key("share", chosen)
    left.slider(
        "The blocks of highest M-Loss", 0, family.model.blocks, len(chosen), key=most,
        on_change=lambda: take(
            family, selection.top(losses, st.session_state[most]), "most"
        ),
        help="Chooses so many blocks, those whose mean M-Loss is highest.",
    )  # fmt: skip
    covers = int(100 * selection.covered(losses, chosen) + 1e-6)
    right.slider(
        "Cover at least so much of the M-Loss", 0, 100, covers, format="%d %%", key=share,
        on_change=lambda: take(
            family, selection.covering(losses, st.session_state[share] / 100), "share"
        ),
        help="Chooses the fewest blocks whose mean M-Losses make up this share of all blocks'.",
    )  # fmt: skip
