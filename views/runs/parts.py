"""Views of recorded runs: table, downloads, reopening, reference, side-by-side comparison."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from mloss_core import Family, InputError, MlossError, RunRecord, load, load_run
from mloss_core.evaluation.evaluator import mean_of
from mloss_core.runs.card import field_name, setting
from views.runs import reopen
from views.shared import difference_figure, nav, readouts
from views.state import session
from views.state.job_board import elapsed

SORTS = {
    "newest first": lambda run: run.created,
    "best average": lambda run: average(run)[0],
    "longest": lambda run: run.seconds or 0.0,
}
WHY = {
    "running": "It is still running.",
    "cancelled": "It was cancelled before it finished.",
    "interrupted": "Its process ended before it did: it was killed, or the machine stopped.",
}


def named(run: RunRecord) -> str:
    """What people call a run: their own title, or its recipe in a few words."""
    return run.title or readouts.summary(run.metadata["recipe"])


def average(run: RunRecord) -> tuple[float, float, float]:
    """Mean accuracy of a run's model and its interval; NaN where it was not evaluated."""
    try:
        return mean_of(run.accuracies["merged"])
    except (KeyError, InputError):  # never evaluated, or the hits of an old run are torn
        return math.nan, math.nan, math.nan


def ordered(runs: Sequence[RunRecord], order: str) -> list[RunRecord]:
    """Highest first; what has no number comes last, and the newest of equals first."""
    newest = sorted(runs, key=lambda run: (run.created, run.id), reverse=True)
    ranked = [run for run in newest if SORTS[order](run) == SORTS[order](run)]
    rest = [run for run in newest if run not in ranked]
    return [*sorted(ranked, key=SORTS[order], reverse=True), *rest]


def table(runs: Sequence[RunRecord], reference: str = "") -> pd.DataFrame:
    """A row a run."""
    rows = []
    for run in runs:
        mean, low, high = average(run)
        rows.append(
            {
                "run": f"{'📌 ' * (run.id == reference)}{named(run)}",
                "kind": run.kind,
                "state": run.state,
                "average": "not measured" if math.isnan(mean) else f"{mean:.1%}{_task_count(run)}",
                "95 % interval": "" if math.isnan(mean) else f"{low:.1%} to {high:.1%}",
                "took": "" if run.seconds is None else elapsed(run.seconds),
                "begun (UTC)": run.created[:19].replace("T", " "),
                "id": run.id,
            }
        )
    return pd.DataFrame(rows)


def _task_count(run: RunRecord) -> str:
    """Of how many tasks an average is, where the run's model is not made for all."""
    evaluated, tasks = len(run.accuracies["merged"]), max(map(len, run.accuracies.values()))
    return f", of {evaluated} of {tasks} tasks" if evaluated < tasks else ""


def key(runs: Sequence[RunRecord]) -> str:
    """A table of other rows is another widget: ticks must never move to another run."""
    return f"runs-{zlib.crc32(' '.join(run.id for run in runs).encode()):x}"


def reference() -> RunRecord | None:
    """The run that is pinned for the whole app; None where there is none or it has gone."""
    name = session.chosen("reference")
    if not name:
        return None
    try:
        return load_run(name)
    except MlossError:
        st.caption("The reference run of this link is not here (any more).")
        return None


def beside_reference(family: Family, hits: Mapping[str, Mapping] | None) -> None:
    """The pinned run's average, and the paired verdict on what is shown against it."""
    pinned = reference()
    if pinned is None:
        return
    mean, low, high = average(pinned)
    words = readouts.with_interval(mean, low, high) if mean == mean else "not evaluated"
    st.markdown(f"📌 Reference: **{readouts.plain(named(pinned))}**, average {words}.")
    merged_hits, reference_hits = (hits or {}).get("merged"), pinned.hits.get("merged")
    if not merged_hits or not reference_hits:
        return
    if pinned.metadata["recipe"]["family"] != family.name or not same_images(
        merged_hits, reference_hits
    ):
        st.caption("It was evaluated on other images, so the two cannot be compared.")
    else:
        said = readouts.verdict("This merge", "the reference", merged_hits, reference_hits)
        readouts.verdicts([said])


def same_images(first: Mapping, second: Mapping) -> bool:
    """Whether two models were evaluated on the same images, the same number of each task that
    both know: a model may be made for some tasks only."""
    both = first.keys() & second.keys()
    return bool(both) and all(len(first[task]) == len(second[task]) for task in both)


def owner(run: RunRecord) -> Family:
    """The family of a run; raises InputError where it is not here any more."""
    return load(run.metadata["recipe"]["family"])


def download_links(run: RunRecord) -> None:
    """Model, card and everything, served from disk; a class takes nothing away."""
    if session.lecture():
        return
    model, card, everything = st.columns(3)
    if run.model is None:
        model.caption("No single model.")
    else:
        size = run.model.stat().st_size / 1e6
        model.link_button(f"Download ({size:.1f} MB)", f"/download/{run.id}", width="stretch")
        card.link_button("Model card", f"/card/{run.id}", width="stretch")
    everything.link_button("Export as zip", f"/export/{run.id}", width="stretch")


def why(run: RunRecord) -> None:
    """Why a run has no result."""
    if run.state == "failed":
        st.error(run.error)
    elif run.state != "finished":
        st.info(WHY.get(run.state, run.state))


def open_in_explore(run: RunRecord) -> None:
    """Makes the run's recipe the choice and goes to the Explore page."""
    reopen.choose_recipe(run.recipe())
    session.remember()
    st.switch_page(nav.page("explore"))


def side_by_side(family: Family, chosen: Sequence[RunRecord]) -> None:
    """Accuracies, verdicts, recipes, keep rates and M-Loss of two or more runs."""
    names = {run.id: f"{i + 1}: {named(run)}" for i, run in enumerate(chosen)}
    st.subheader("Side by side")
    _accuracies(family, chosen, names)
    st.markdown("**What differs**")
    rows = differing(chosen, names)
    if rows.empty:
        st.caption("Nothing: recipes and inputs are the same.")
    else:
        st.dataframe(rows, hide_index=True)
    _keep_rates(chosen, names)
    _maps(family, chosen, names)


def _accuracies(family: Family, chosen: Sequence[RunRecord], names: Mapping[str, str]) -> None:
    hits = {names[r.id]: r.hits["merged"] for r in chosen if "merged" in r.hits}
    if not hits:
        st.caption("None of them was evaluated.")
        return
    readouts.table(family, hits)
    (first, first_hits), *others = hits.items()
    readouts.verdicts(
        [
            readouts.verdict(readouts.plain(first), readouts.plain(name), first_hits, other_hits)
            for name, other_hits in others
            if same_images(first_hits, other_hits)
        ]
    )
    for name, other_hits in others:
        if not same_images(first_hits, other_hits):
            st.caption(f"{name} was evaluated on other tasks or images than {first}.")


def differing(chosen: Sequence[RunRecord], names: Mapping[str, str]) -> pd.DataFrame:
    """The fields of the recipe, and the inputs, in which the runs differ."""
    flat = {names[run.id]: _fields(run) for run in chosen}
    fields = dict.fromkeys(field for values in flat.values() for field in values)
    rows = []
    for field in fields:
        cells = {name: values.get(field, "not read") for name, values in flat.items()}
        if len(set(cells.values())) > 1:
            rows.append({"": field_name(field), **cells})
    return pd.DataFrame(rows)


def _fields(run: RunRecord) -> dict[str, str]:
    about = run.metadata
    fields: dict[str, Any] = {k: setting(v) for k, v in about["recipe"].items()}
    if run.state == "finished":
        hashes = {"base": about.get("base"), "calibration images": about.get("calibration")}
        hashes |= {f"source {name}": h for name, h in about.get("sources", {}).items()}
        fields |= {f"{n} (SHA-256)": str(h)[:12] for n, h in hashes.items() if h}
        fields["device"] = run.device
    return fields | {f"version of {name}": v for name, v in run.versions.items()}


def _keep_rates(chosen: Sequence[RunRecord], names: Mapping[str, str]) -> None:
    kept = {names[run.id]: run.kept() for run in chosen}
    if all(rate == 1 for rates in kept.values() for rate in rates.values()):  # or none
        return
    blocks = sorted({block for rates in kept.values() for block in rates})
    st.markdown("**Average keep rate of each block's nodes**")
    rows = [
        {"": n, **{str(b): f"{rates[b]:.1%}" if b in rates else "" for b in blocks}}
        for n, rates in kept.items()
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True)


def _maps(family: Family, chosen: Sequence[RunRecord], names: Mapping[str, str]) -> None:
    """M-Loss of the first scored run minus that of each other."""
    scored = [(names[run.id], scores) for run in chosen if (scores := run.scores())]
    for name, scores in scored[1:]:
        first, ours = scored[0]
        if not ours.keys() & scores.keys():
            continue
        st.markdown(f"**M-Loss of {readouts.plain(first)} minus that of {readouts.plain(name)}**")
        st.plotly_chart(
            difference_figure.difference(
                ours, scores, family.model.blocks, int(session.chosen("group"))
            ),
            key=f"difference-{name}",
            alt=f"Difference of M-Loss by block and node group: {first} minus {name}",
        )
