"""Which family, which of its sources, and their merging weights: the same wherever it is chosen."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from mloss_core import Family, families
from views.shared import widgets
from views.state import session
from views.state.link import FIELDS

NARROW = 150  # pixels, in a line with others


def choose_family(labelled: bool = True) -> Family:
    """The family; another one starts as on its own first visit."""
    names, family = families(), session.current_family()
    if len(names) > 1:
        picked = st.selectbox(
            "Family", names, index=names.index(family.name), label_visibility=_label(labelled),
            key=session.widget("w-family"),
            width="stretch" if labelled else NARROW,
        )  # fmt: skip
        if picked != family.name:
            kept = {key: session.chosen(key) for key in ("view", "tour")}
            session.replace(session.usual(session.load(picked)) | kept)
            st.rerun()
    return family


def _label(shown: bool) -> Literal["visible", "collapsed"]:
    return "visible" if shown else "collapsed"


def choose_sources(family: Family, labelled: bool = True) -> None:
    """Which sources to merge."""
    picked = st.pills(
        "Sources to merge (two or more)", list(family.sources), selection_mode="multi", wrap=True,
        format_func=family.title, default=list(session.chosen_sources()),
        key=session.widget(f"w-sources-{family.name}"), label_visibility=_label(labelled),
    )  # fmt: skip
    names = [name for name in family.sources if name in picked]
    if ",".join(names) != session.chosen("sources"):
        _follow(family, session.chosen_sources(), tuple(names))


def judge(family: Family) -> None:
    """What is wrong, or hardly meant, with the chosen sources."""
    names = session.chosen_sources()
    if len(names) < 2:
        st.error(
            f"sources {', '.join(names) or '(none)'}: too few; merging needs at least two sources"
        )
    else:
        widgets.doubtful(family, names)


def _follow(family: Family, former: tuple[str, ...], names: tuple[str, ...]) -> None:
    """What goes with the sources: their weights, and as many calibration images as usual."""
    usual = FIELDS["samples"].default
    before, now = (session.pool_size(family, few or family.sources) for few in (former, names))
    if int(session.chosen("samples")) == min(usual, before):
        session.choose_value("samples", str(min(usual, now)))
        st.session_state.pop(session.widget("w-samples"), None)  # it starts from that
    session.choose_value("sources", ",".join(names))
    session.choose_value("weights", "")


def choose_weights(family: Family) -> None:
    """Merging weights of the chosen sources, as relative parts."""
    names = session.chosen_sources()
    st.caption("Relative parts; they are divided by their sum. Equal parts are simple averaging.")
    parts = [float(p) for p in session.chosen("weights").split(",") if p] or [1.0] * len(names)
    columns = st.columns(4)
    for i, name in enumerate(names):
        parts[i] = columns[i % 4].number_input(
            family.title(name), 0.0, 100.0, min(parts[i], 100.0), 0.5,
            key=session.widget(f"weight-{family.name}-{name}"),
        )  # fmt: skip
    if sum(parts) == 0:
        st.error("weights 0: sum to nothing; give at least one source a part above 0")
        parts = [1.0] * len(names)
    equal = len(set(parts)) == 1
    session.choose_value("weights", "" if equal else ",".join(f"{p:g}" for p in parts))
