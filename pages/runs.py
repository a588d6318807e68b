"""Runs page: recorded merges and scores, to filter, compare, rename, delete and download."""

from __future__ import annotations

import streamlit as st

from mloss_core import METHODS, Family, InputError, MlossError, RunRecord, list_runs
from mloss_core.runs import store
from views.runs import parts as runs
from views.shared import readouts
from views.state import allowed, session
from views.state.error_text import error_text


def filtered(family: Family) -> list[RunRecord]:
    """The runs that the filters leave, in the order asked for."""
    records = list_runs(store.KINDS)
    a, b, c, d, e = st.columns([3, 2, 2, 2, 2], vertical_alignment="bottom")
    text = a.text_input("Find", placeholder="name, source, id", key="find-run").casefold()
    methods = sorted({run.metadata["recipe"]["method"] for run in records})
    method = b.multiselect("Method", methods, format_func=title_of, placeholder="all")
    kind = c.multiselect("Kind", store.KINDS, default=store.KINDS[:2], placeholder="all")
    states = sorted({run.state for run in records})
    state = d.multiselect("State", states, placeholder="all")
    order = e.selectbox("Sort", list(runs.SORTS))
    everywhere = st.toggle("Runs of all families", help=f"Else of {family.name} alone.")
    kept = [
        run
        for run in records
        if (everywhere or run.metadata["recipe"]["family"] == family.name)
        and (not method or run.metadata["recipe"]["method"] in method)
        and (not kind or run.kind in kind)
        and (not state or run.state in state)
        and text
        in " ".join([run.id, runs.named(run), *run.metadata["recipe"]["sources"]]).casefold()
    ]
    return runs.ordered(kept, order)


def title_of(method: str) -> str:
    """A method as people know it, also one of a newer version."""
    return METHODS[method].title if method in METHODS else method


def undo() -> None:
    """What was deleted last, and the way back."""
    gone = st.session_state.get("deleted_run")
    if gone is None:
        return
    left, right = st.columns([5, 1], vertical_alignment="center")
    left.info(f"Deleted: {gone[1]}. It stays in the trash for {store.TRASH_DAYS} days.")
    why = allowed.why_no_change(gone[0])
    if allowed.button("Undo", why, right, width="stretch"):
        store.undelete(gone[0])
        del st.session_state.deleted_run
        st.rerun()


def forget_deleted() -> None:
    """The next action has come: the last one cannot be undone here any more."""
    st.session_state.pop("deleted_run", None)


def actions(run: RunRecord) -> None:
    """What can be done with one run."""
    pin, back, remove = st.columns(3)
    pinned = session.chosen("reference") == run.id
    label = "Unpin reference" if pinned else "Pin as reference"
    evaluated = "merged" in run.accuracies
    if pin.button(label, key=f"pin-{run.id}", disabled=not evaluated, width="stretch"):
        forget_deleted()
        session.choose_value("reference", "" if pinned else run.id)
        st.rerun()
    if back.button("Open in Explore", key=f"open-{run.id}", width="stretch"):
        forget_deleted()
        runs.open_in_explore(run)
    running, why = run.state == "running", allowed.why_no_change(run.id)
    if allowed.button(
        "Delete", why, remove, key=f"delete-{run.id}", disabled=running, width="stretch"
    ):
        store.delete(run.id)
        st.session_state.deleted_run = (run.id, runs.named(run))
        if pinned:
            session.choose_value("reference", "")
        st.rerun()
    runs.download_links(run)


def show_run(family: Family, run: RunRecord) -> None:
    """A run by itself: its name, state, accuracies and what it says of itself."""
    st.subheader(runs.named(run))
    st.caption(f"{readouts.summary(run.metadata['recipe'])} · `{run.id}`")
    runs.why(run)
    actions(run)
    why = allowed.why_no_change(run.id)
    given = st.text_input(
        "Name", value=run.title or "", key=f"name-{run.id}", max_chars=200, disabled=bool(why),
        help=why or None,
    )  # fmt: skip
    if given.strip() != (run.title or "") and not why:
        forget_deleted()
        store.rename(run.id, given)
        st.rerun()
    if run.hits:
        readouts.final(family, run.hits, run.metadata["recipe"]["method"])
    with st.expander("What it says of itself"):
        st.json({"facts": dict(run.facts), "versions": dict(run.versions), **run.metadata})


def show_runs(family: Family, chosen: list[RunRecord]) -> None:
    """Each with its buttons, then side by side."""
    for number, run in enumerate(chosen, 1):
        with st.expander(f"{number}: {runs.named(run)} ({run.state})"):
            runs.why(run)
            actions(run)
    runs.side_by_side(family, chosen)


def show(family: Family) -> None:
    """The table and what is ticked in it."""
    undo()
    records = filtered(family)
    if not records:
        st.caption(
            f"No runs here. Every merge and every M-Loss map is recorded in the folder "
            f"{store.root()} while it is made; change the filters, or launch a merge."
        )
        return
    st.caption("Tick one to see, name, download or delete it; tick two or more to compare them.")
    picked = st.dataframe(
        runs.table(records, session.chosen("reference")),
        hide_index=True,
        on_select="rerun",
        selection_mode="multi-row",
        key=runs.key(records),
    )
    chosen = [records[i] for i in picked["selection"]["rows"] if i < len(records)]
    if len({run.metadata["recipe"]["family"] for run in chosen}) > 1:
        st.info("Runs of different families cannot be compared: tick those of one.")
    elif chosen:
        try:
            owner = runs.owner(chosen[0])
            if len(chosen) == 1:
                show_run(owner, chosen[0])
            else:
                show_runs(owner, chosen)
        except InputError as error:
            st.error(error_text(error))


st.title("Runs")
try:
    show(session.current_family())
except MlossError as error:
    st.error(error_text(error))
