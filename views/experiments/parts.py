"""Views of one experiment: progress, table, figure, conclusions, exports and published numbers."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from mloss_core import METHODS, Family
from mloss_core.evaluation.paired_test import RULE
from mloss_core.experiments import EXPERIMENTS, CellDone, Row, claims, rows
from mloss_core.experiments.expert_grid import by_task, points
from mloss_core.experiments.report import memory, passed, section
from mloss_core.experiments.tables import percent, published, settings
from views.experiments import expert_figures
from views.experiments import figures as experiment_figures
from views.state import session
from views.state.job_board import Job, elapsed


def finished_cells(job: Job) -> list[CellDone]:
    """The cells that a job has so far."""
    return [event for event in list(job.events) if isinstance(event, CellDone)]


def progress(job: Job, cells: Sequence[CellDone]) -> None:
    """Cells so far, and about how long the rest takes."""
    if not cells:
        st.progress(0.0, f"{job.title}: {job.state}, {elapsed(job.seconds)}")
        return
    last = cells[-1]
    cached = sum(done.cached for done in cells)
    parts = [f"{last.done} of {last.total} cells", f"{elapsed(job.seconds)} so far"]
    parts += [f"{cached} found on disk"] if cached else []
    if job.active and last.left is not None:
        parts.append(f"about {elapsed(last.left)} left")
    st.progress(last.done / last.total, f"{job.title}: {', '.join(parts)}")
    if job.active and last.cell.split == "val":
        st.caption("Choosing settings on validation images; no test image is looked at.")


def results(name: str, family: Family, cells: Sequence[CellDone]) -> None:
    """What is known so far."""
    table_rows = rows(cells, family.model)
    if not table_rows:
        return
    if name == "experts":
        experts(family, cells)
    else:
        figure, alt = experiment_figures.FIGURES[name]
        st.plotly_chart(figure(table_rows), key=f"figure-{name}", alt=alt)
    st.dataframe(table(family, table_rows), hide_index=True, width="stretch")
    if (last := cells[-1]).done == last.total:
        st.markdown("**What follows**")
        st.markdown("\n".join(f"- {line}" for line in claims(name, cells, table_rows)))
        st.caption(RULE)
        if not session.lecture():
            take_away(name, family, cells, table_rows)
    else:
        st.caption("What follows from it is said when all cells are measured.")


def experts(family: Family, cells: Sequence[CellDone]) -> None:
    """The experts measured so far: curves over the steps, and maps of each task's grid."""
    grid = points(cells)
    if not grid:
        return
    titles = {task: family.title(task) for task in by_task(grid)}
    alt = "Merged accuracy over the steps of an expert's fine-tune, by rate"
    st.plotly_chart(expert_figures.curves(grid, titles), key="figure-experts", alt=alt)
    for task, own in by_task(grid).items():
        st.markdown(f"**Experts of {titles[task]}**, over rate and steps")
        alt = f"Accuracies and measures of experts of {titles[task]} over rate and steps"
        st.plotly_chart(expert_figures.maps(own), key=f"figure-experts-{task}", alt=alt)


def table(family: Family, table_rows: Sequence[Row]) -> pd.DataFrame:
    """A row per model: settings, mean and tasks with 95 % intervals, cost."""
    lines = []
    for row in table_rows:
        reads = METHODS[row.recipe.method].reads if row.recipe else ()
        line = {"model": row.label, "settings": settings(row.recipe, reads)}
        line["mean, %"] = percent(*row.mean)
        for task in row.answers:
            accuracy = row.accuracy(task)
            line[family.title(task)] = percent(accuracy.rate, *accuracy.interval())
        line |= {"needs": row.needs, "tried": str(row.tried or "")}
        line["merging, s"] = "" if row.seconds is None else f"{row.seconds:.2f}"
        line |= {"memory, MB": memory(row), "blocks passed": passed(row)}
        line["towers run"] = str(row.towers)
        lines.append(line)
    return pd.DataFrame(lines).fillna("unknown")


def take_away(
    name: str, family: Family, cells: Sequence[CellDone], table_rows: Sequence[Row]
) -> None:
    """The table as CSV, and the whole section as Markdown."""
    left, right, _ = st.columns([1, 1, 3])
    left.download_button(
        "Table (CSV)", table(family, table_rows).to_csv(index=False), f"{name}.csv", "text/csv",
        width="stretch",
    )  # fmt: skip
    right.download_button(
        "Section (Markdown)", lambda: "\n\n".join(section(name, family, cells)), f"{name}.md",
        "text/markdown", width="stretch",
    )  # fmt: skip


def paper(name: str) -> None:
    """The paper's own numbers, apart from what is measured here."""
    experiment = EXPERIMENTS[name]
    if not experiment.published:
        return
    with st.expander("Published numbers (not measured here)"):
        st.caption("CLIP ViT-B/32 or ViT-L/14 on eight tasks, as the paper prints them; files "
                   "that begin with released_logs are the authors' released logs.")  # fmt: skip
        for file in experiment.published:
            st.markdown(f"`{file}`")
            st.dataframe(pd.DataFrame(published(file)), hide_index=True, width="stretch")
