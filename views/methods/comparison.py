"""Views of a comparison of methods: which, the frontier, the table, the verdicts and the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from mloss_core import METHODS, Family, InputError, MergeRecipe, verdict
from mloss_core.experiments import CellDone, Row, rows
from mloss_core.experiments.report import memory
from mloss_core.types import Embedded
from views.jobs import strip
from views.jobs.kinds import LeftOut
from views.methods import at_published, figures
from views.shared import readouts
from views.state import allowed, session
from views.state.bound import bound
from views.state.error_text import error_text
from views.state.job_board import Job, elapsed
from views.state.link import FIELDS
from views.state.methods_fields import COMPARED, listed

TRAINS = "training on unlabeled images"
ORDER = tuple(figures.NEEDS)  # what needs nothing is measured first


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a comparison has so far.

    Args:
        rows: references and methods, in the order in which they were measured.
        left_out: why a method has no row.
        way: how far the method is that is being measured.
    """

    rows: Sequence[Row]
    left_out: Mapping[str, str]
    way: Embedded | None

    @property
    def merges(self) -> list[Row]:
        """The methods that were measured, highest mean first."""
        merges = [row for row in self.rows if figures.is_merge(row)]
        return sorted(merges, key=lambda row: -row.mean[0])

    @property
    def best(self) -> Row | None:
        """The method of the highest mean among those that leave one model."""
        return next((row for row in self.merges if row.one_model), None)


def compared(family: Family, job: Job) -> Compared:
    """What the job's events say."""
    events = list(job.events)
    cells = [event for event in events if isinstance(event, CellDone)]
    left_out = {event.method: event.why for event in events if isinstance(event, LeftOut)}
    last = events[-1] if events and job.active else None
    way = last if isinstance(last, Embedded) else None
    return Compared(rows=rows(cells, family.model), left_out=left_out, way=way)


def choose() -> tuple[str, ...]:
    """Which methods to compare, those that need nothing first."""
    field, chosen = FIELDS["methods"], listed(session.chosen("methods"))
    number = st.session_state.get("methods-taken", 0)
    picked = st.multiselect(
        field.label, COMPARED, list(chosen), format_func=lambda name: METHODS[name].title,
        key=session.widget(f"w-methods-{number}"), help=field.help,
    )  # fmt: skip
    session.choose_value("methods", ",".join(picked))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        for label, which in SETS.items():
            names = tuple(name for name in COMPARED if which(name))
            st.button(label, on_click=_take, args=(names,), help=f"{len(names)} methods.")
    return tuple(sorted(picked, key=lambda name: ORDER.index(METHODS[name].needs)))


SETS: dict[str, Callable[[str], bool]] = {
    "All that need nothing": lambda name: METHODS[name].needs == "nothing",
    "All but training": lambda name: METHODS[name].needs != TRAINS,
}


def _take(names: Sequence[str]) -> None:
    session.choose_value("methods", ",".join(names))
    # Another widget: one that keeps its key keeps its value, too.
    st.session_state["methods-taken"] = st.session_state.get("methods-taken", 0) + 1


def budget() -> float | None:
    """Seconds that the comparison may take; None for no limit, and in the lecture view."""
    if session.lecture():
        return None
    return bound("budget", st.number_input, min_value=1.0, max_value=1e6, step=10.0, format="%g")


def recipes(family: Family, methods: Sequence[str]) -> list[MergeRecipe]:
    """The chosen methods at their published settings; none, with the reason, if that cannot be."""
    sources = session.chosen_sources()
    if not methods:
        st.info("Choose a method or more.")
        return []
    if len(sources) < 2:
        return []  # the choice of sources says so
    if not family.own_tasks(sources):
        st.info("None of the chosen sources has test images: choose others, or add their tasks.")
        return []
    try:
        return [at_published.recipe_of(name, family, sources) for name in methods]
    except InputError as error:
        st.error(error_text(error))
        return []


def show(family: Family, job: Job) -> None:
    """The comparison as far as it is; everything appears as it comes."""
    so_far = compared(family, job)
    names = job.spec[0][0].sources
    if names != session.chosen_sources():
        st.caption(f"Of other sources than are chosen now: {', '.join(map(family.title, names))}.")
    _progress(job, so_far)
    strip.outcome(job, gone=False)
    left, right = st.columns([3, 2])
    if so_far.rows:
        with left:
            _frontier(so_far)
    with right:
        _table(job, so_far)
    if so_far.best is not None:
        _best(so_far, so_far.best, "is so far" if job.active else "is")


def _progress(job: Job, so_far: Compared) -> None:
    """How many methods are done, and how far the next one is."""
    if not job.active:
        return
    of = len(job.spec[0])
    words = [f"{len(so_far.merges) + len(so_far.left_out)} of {of} methods", elapsed(job.seconds)]
    if so_far.way is not None:
        words.append(f"{so_far.way.source}: {so_far.way.done} %")
    st.progress(job.share, f"{job.title}: {', '.join(words)} (cancel it at the foot)")


def _frontier(so_far: Compared) -> None:
    """Accuracy over seconds, and how to read it."""
    best = so_far.best
    alt = f"Mean accuracy over seconds of merging, of {len(so_far.merges)} methods"
    alt += f"; highest with one model: {best.label}" if best is not None else ""
    st.plotly_chart(figures.frontier(so_far.rows, best), key="frontier", alt=alt)
    st.caption(
        "Up and to the left is better. The line joins the methods that leave one model and that no "
        "quicker one beats. The larger a mark, the more memory merging took; open marks leave "
        "several models. Bars are 95 % intervals. Seconds are those of merging alone."
    )


def _table(job: Job, so_far: Compared) -> None:
    """A row a model, highest mean first, and those that have none with the reason."""
    references = [row for row in so_far.rows if not figures.is_merge(row)]
    lines = [
        {
            "model": row.label,
            "mean accuracy": readouts.with_interval(*row.mean),
            "seconds": "" if row.seconds is None or row in references else f"{row.seconds:.2f}",
            "MB": "" if row in references else memory(row),
            "needs": row.needs if row not in references else "reference",
        }
        for row in [*so_far.merges, *references]
    ]
    for method, why in so_far.left_out.items():
        lines.append({"model": METHODS[method].title, "mean accuracy": why})
    if lines:
        st.dataframe(pd.DataFrame(lines).fillna(""), hide_index=True, width="stretch")
    for method, why in so_far.left_out.items():
        st.caption(f"**{METHODS[method].title}**: {readouts.plain(why)}")
    waiting = [r.method for r in job.spec[0] if r.method not in _done(so_far)]
    if waiting:
        words = "Still to come" if job.active else "Not measured"
        st.caption(f"{words}: {', '.join(METHODS[name].title for name in waiting)}.")


def _done(so_far: Compared) -> set[str]:
    """Methods that need not be waited for."""
    return {row.recipe.method for row in so_far.merges if row.recipe} | so_far.left_out.keys()


def _best(so_far: Compared, best: Row, verb: str) -> None:
    """The best that leaves one model, what it needed, and how it compares with every other."""
    accuracy = readouts.with_interval(*best.mean)
    took = "" if best.seconds is None else f", {elapsed(best.seconds)} of merging"
    used = f", {memory(best)} MB" if memory(best) else ""
    needed = "nothing besides the models" if best.needs == "nothing" else best.needs
    st.markdown(
        f"**{best.label}** {verb} the best that leaves one model: {accuracy}. "
        f"It needed {needed}{took}{used}."
    )
    others = [row for row in [*so_far.merges, *so_far.rows] if row.label != best.label]
    unique = {row.label: row for row in others}
    readouts.verdicts(
        [verdict(best.label, row.label, best.answers, row.answers) for row in unique.values()]
    )
    st.caption(
        "It is chosen on the very images that it is measured on, which flatters it a little. With "
        "settings chosen on validation images instead: the Experiments page."
    )


def keep(so_far: Compared, launch: Callable[[MergeRecipe], None]) -> None:
    """The button that merges by the best once more and keeps the file."""
    best = so_far.best
    if best is None or best.recipe is None:
        return
    if allowed.button(
        f"Keep the best: {best.label}", allowed.why_no_job(), type="primary",
        help="Merges with it again, records the run, and offers the checkpoint for download.",
    ):  # fmt: skip
        launch(best.recipe)
