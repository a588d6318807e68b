"""Views of the methods: the table of all, one of them in full, its training and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import streamlit as st

from mloss_core import METHODS, Family, InputError, MlossError, RunRecord, load_run
from mloss_core.fields import FIELDS
from mloss_core.methods import Method
from mloss_core.runs.store import final_hits
from mloss_core.types import Trained
from views.jobs import strip
from views.methods import at_published, figures, published, settings
from views.methods.at_published import Measured
from views.shared import readouts
from views.state import session
from views.state.error_text import error_text
from views.state.job_board import Job

TALLEST = 460  # pixels of the table of all methods
HERE = "measured here"
# What its publication treats as matrices, where that is not every tensor of two dimensions.
LAYERS_ALONE = ("wudi", "wudi-closed")
# Of methods that read no setting for it.
TENSORS = {
    "regmean": "The linear layers, by their inputs; the mean of all other tensors.",
    "regmean-plus-plus": "The linear layers, by their inputs; the mean of all other tensors.",
    "esm": "Queries, keys, values and both layers of the MLP by their inputs; all other matrices "
    "as TSV-M; the mean of the rest.",
    "fit": "The linear layers, by their inputs and outputs; all else as in the merge that it "
    "starts from.",
    "opcm": "Matrices by projection; the mean of the rest.",
    "smile": "The linear layers of the blocks.",
    "ensembling": "None: the sources stay as they are.",
}


def disk(family: Family, sources: Sequence[str]) -> dict[str, Measured]:
    """What was measured here at published settings; nothing, with the reason, if that fails."""
    if len(sources) < 2:
        return {}  # the choice of sources says so
    try:
        return at_published.on_disk(family, sources)
    except InputError as error:
        st.error(error_text(error))
        return {}


def overview(measured: Mapping[str, Measured]) -> None:
    """All methods: what each needs and leaves, what is published of it, what was measured here."""
    rows, entries = [], published.entries()
    for name, method in METHODS.items():
        row = {"method": method.title, "needs": method.needs, "leaves": leaves(method)}
        for letter in published.COLUMNS:
            row[f"published {letter}, %"] = published.in_short(entries, name, letter)
        rows.append(row | _here(measured.get(name)) | {"paper": method.paper})
    pinned = {
        "method": st.column_config.TextColumn(pinned=True, width=150),
        HERE: st.column_config.TextColumn(width=175),
    }
    st.dataframe(
        pd.DataFrame(rows), hide_index=True, width="stretch", height=TALLEST, column_config=pinned
    )
    if not entries:
        st.caption(f"Published numbers are not here: assets/paper/{published.FILE} is missing.")
    families = "; ".join(f"**{k}**: {published.FAMILIES[k]}" for k in published.COLUMNS)
    st.caption(
        f"Published: mean accuracy of ViT-B/32 on eight tasks. Papers merge different families of "
        f"checkpoints, {families}. Numbers of two families must never be compared: own-task "
        "accuracies alone differ by two points, and the same method by up to four."
    )
    st.caption(
        "Measured here: the chosen sources of this family at published settings and in equal "
        "parts, on all test images of their own tasks, with a 95 % interval. Blank: not measured."
    )


def leaves(method: Method) -> str:
    """What comes out of a method."""
    if method.one_model:
        return "one model"
    if method.per_task:
        return "a model per task"
    return "several models"


def _here(measured: Measured | None) -> dict[str, str]:
    """The cells of what was measured here; blank where nothing was."""
    if measured is None:
        return {HERE: "", "seconds": "", "memory, MB": ""}
    seconds, peak = measured.seconds, measured.peak
    return {
        HERE: readouts.with_interval(*measured.mean),
        "seconds": "" if seconds is None else f"{seconds:.2f}",
        "memory, MB": "" if peak is None else f"{peak / 1e6:.0f}",
    }


def choose(settings_of: Callable[[Family, str], Mapping[str, str]], family: Family) -> str:
    """The chosen method, the same as on the Explore page.

    Args:
        settings_of: what else changes when a method is chosen, by the fields of the link.
    """
    key, names = "methods-method", list(METHODS)

    def changed() -> None:
        name = st.session_state[key]
        state = st.session_state.chosen
        session.replace(state | settings_of(family, name) | {"method": name})

    return st.selectbox(
        FIELDS["method"].label, names, index=names.index(session.chosen("method")), key=key,
        format_func=lambda name: METHODS[name].title, on_change=changed,
        help="The same choice as on the Explore page; with it come the method's settings.",
    )  # fmt: skip


def about(family: Family, method: str) -> None:
    """A method in full: what it does, reads, treats and needs."""
    row = METHODS[method]
    st.markdown(row.explanation)
    st.latex(row.formula.replace(r"\,", r"\,\allowbreak "))  # lines may break there, too
    reads = [FIELDS[name].label for name in FIELDS if name in row.reads]
    lines = {
        "Paper": row.paper,
        "Needs": f"{row.needs}{' and zero-shot heads' * row.heads}",
        "Leaves": leaves(row),
        "Treats": tensors(method, session.chosen("matrices"), session.chosen("rest")),
        "Reads": ", ".join(reads) if reads else "no setting",
    }
    st.markdown("\n".join(f"- **{name}**: {readouts.plain(line)}" for name, line in lines.items()))
    if row.reads and not session.lecture():
        with st.expander("Settings of this method"):
            settings.show(family, method)


def tensors(method: str, matrices: str, rest: str) -> str:
    """Which tensors a method treats how, in words.

    Args:
        matrices, rest: as the recipe has them.
    """
    row = METHODS[method]
    if "matrices" not in row.reads or method == "opcm":
        whole = "All tensors, one by one."
        rows = "All tensors; in the chosen blocks mlp.c_fc.weight row by row, by M-Loss."
        return TENSORS.get(method, rows if row.node_wise else whole)
    alone = method in LAYERS_ALONE
    which = ("layers" if alone else "all") if matrices == "published" else matrices
    left = ("base" if alone else "mean") if rest == "published" else rest
    first = {"all": "All tensors of two dimensions", "layers": "The linear layers of the blocks"}
    then = {"mean": "the mean of the sources", "base": "the base's, unchanged"}
    return f"{first[which]} as matrices; all other tensors are {then[left]}."


def numbers(method: str) -> None:
    """The published numbers of a method: a small table a family, which never mix."""
    entries = published.entries()
    tables = {k: published.of_method(entries, method, k) for k in published.FAMILIES}
    if not any(tables.values()):
        why = "No published number of this method is kept here."
        st.caption(why if entries else f"assets/paper/{published.FILE} is missing.")
    for letter, rows in tables.items():
        if rows:
            st.caption(f"Family **{letter}**: {published.FAMILIES[letter]}")
            table = [
                {
                    "model": row.get("model", ""),
                    "variant": row.get("variant", ""),
                    "%": published.span(row),
                    "of": row.get("measure", ""),
                    "data": row.get("data", ""),
                    "tuned on": row.get("tuned_on", ""),
                    "confidence": row.get("confidence", ""),
                    "source": row.get("source", ""),
                }
                for row in rows
            ]
            st.dataframe(pd.DataFrame(table), hide_index=True, width="stretch")


def result(family: Family, job: Job, place: str) -> None:
    """A launched merge: how far it is, how it trains, and its accuracies at the end.

    Args:
        place: where on the page, which may show it twice.
    """
    strip.progress(job)
    strip.outcome(job, gone=False)
    training(family, job, place)
    if job.state == "finished":
        st.markdown(f"**{readouts.plain(readouts.summary(job.spec))}**: kept.")
        readouts.final(family, final_hits(list(job.events)), job.spec.method)


def run_of(job: Job | None) -> RunRecord | None:
    """The run of a finished merge, unless it was deleted since."""
    if job is None or job.state != "finished":
        return None
    try:
        return load_run(job.result)
    except MlossError:
        return None


def training(family: Family, job: Job, place: str) -> None:
    """The loss and the coefficients of a method that trains, as far as it is."""
    steps = [event for event in list(job.events) if isinstance(event, Trained)]
    if not METHODS[job.spec.method].trains or not steps:
        return
    last = steps[-1]
    left, right = st.columns(2)
    left.markdown(f"**Loss**, step {last.step} of {last.steps}")
    alt = f"Loss over the steps of {METHODS[job.spec.method].title}"
    left.plotly_chart(figures.curve(steps), key=f"curve-{place}", alt=alt)
    drawn = [event for event in steps if event.coefficients is not None]
    if drawn and (values := drawn[-1].coefficients) is not None:
        right.markdown(f"**Coefficients**, mean of each block's tensors, step {drawn[-1].step}")
        names = [family.title(name) for name in job.spec.sources]
        alt = "Coefficient of each source in each block"
        figure = figures.coefficients(values, names)
        right.plotly_chart(figure, key=f"coefficients-{place}", alt=alt)
    if last.note:
        st.warning(f"Training ended early: the rate {last.note}.")
