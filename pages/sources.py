"""Sources page: accuracy and direction of each source, and the family's card."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from mloss_core import Accuracy, Family
from mloss_core.analysis.task_vectors import Geometry
from mloss_core.errors import BadFile
from mloss_core.plain_text import read_text
from views.jobs import analyses, kinds
from views.shared import figures, nav, sources
from views.sources import before
from views.state import session
from views.state.job_board import Job


def about(family: Family) -> None:
    """The family's card."""
    st.subheader(family.about.get("title", family.name))
    if description := family.about.get("description"):
        st.markdown(description)
    model = family.model
    facts = {
        "blocks": model.blocks,
        "nodes per block": model.nodes,
        "width": model.width,
        "pixels": f"{model.image_size} × {model.image_size}",
        "activation": model.activation,
        "sources": len(family.sources),
        "task" if len(family.tasks) == 1 else "tasks": len(family.tasks),
    }
    st.caption(" · ".join(f"**{value}** {name}" for name, value in facts.items()))
    if family.assumed:
        names = {"mean": "mean", "std": "standard deviation"}
        st.caption(
            f"Nothing tells the {' and '.join(names[name] for name in family.assumed)} of pixels: "
            "CLIP's are assumed. `mloss families --init` writes down what is taken."
        )
    if not session.lecture():
        card(family)


def card(family: Family) -> None:
    """The model and data card that lies in the family's folder, with its picture sheet."""
    text, sheet = family.folder / "README.md", family.folder / "sheet.png"
    # What a browser is sent must not be a link to somebody's own file.
    if not text.is_file() or text.is_symlink() or sheet.is_symlink():
        return
    with st.expander("Model and data card: what it is made of, by whom, under which licences"):
        if sheet.is_file():
            st.image(str(sheet), caption="Pictures of every task", alt="Pictures of every task")
        try:
            lines = read_text(text, str).splitlines()
        except BadFile as error:
            st.warning(str(error))
            return
        # The sheet stands above: a browser could not find it by its path in the folder.
        st.markdown("\n".join(line for line in lines if not line.startswith("![")))


def accuracy_text(family: Family, source: str, accuracy: Accuracy | None, awaited: bool) -> str:
    """An accuracy with its 95 % interval and count, or why it is not known."""
    if family.own_task(source) not in family.tasks:
        return "no test images of its own"
    if accuracy is None:
        return "measuring…" if awaited else "not measured"
    low, high = accuracy.interval()
    return f"{accuracy.rate:.1%}  ({low:.1%} to {high:.1%}, n = {accuracy.total})"


def own_event(family: Family, source: str) -> tuple[str, str]:
    """Model and task of the event that tells a source's accuracy on its own task."""
    task = family.own_task(source)
    return ("own" if source == task else source), task


def measured(family: Family, job: Job, sure: Job) -> None:
    """Own-task and base accuracy of every source and what tells before a merge whether they are of
    a kind, as far as the background has come."""
    accuracies = {
        of: Accuracy(correct=int(hits.sum()), total=len(hits))
        for of, hits in kinds.known_references(family).items()
    }
    geometry = session.cached_geometry(
        family.name, family.sources, tuple(family.source(s).sha256 for s in family.sources)
    )
    if job.state == "failed":
        st.error(job.error)
        if st.button("Measure again", help="When what it says has been mended."):
            kinds.references(family, again=True)
            st.rerun()
    standing, awaited = before.standing(family, geometry, sure), job.state != "failed"
    rows = [
        {
            "source": family.title(name),
            "own task, this source": accuracy_text(
                family, name, accuracies.get(own_event(family, name)), awaited
            ),
            "own task, base": accuracy_text(
                family, name, accuracies.get(("base", family.own_task(name))), awaited
            ),
            "task vector": f"{100 * norm:.3g} % of the base's norm",
            **before.row(standing, place),
        }
        for place, (name, norm) in enumerate(
            zip(family.sources, geometry.relative_norms, strict=True)
        )
    ]
    config = before.columns(standing)
    st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch", column_config=config)
    st.caption(
        "Accuracies are measured here, on the family's test images, with Wilson's 95 % interval. "
        "The norm of a task vector says how far fine-tuning moved the weights. Confidence is the "
        "mean of the largest probability, on calibration images of the source's own task."
    )
    before.section(family, standing, sure)
    directions(family, geometry)


def directions(family: Family, geometry: Geometry) -> None:
    """Whether the sources move the same way."""
    if len(family.sources) > 1:
        st.subheader("Do they move in the same direction?")
        names = [family.title(name) for name in family.sources]
        st.plotly_chart(
            figures.cosine_matrix(geometry.cosines, names),
            key="cosines",
            alt="Cosine similarity of each pair of task vectors",
        )


st.title("Sources")
family = sources.choose_family()
st.subheader("What each source is worth")
job, sure = kinds.references(family), analyses.confidences_job(family)
session.while_active(sure if sure.active else job)(lambda: measured(family, job, sure))()
about(family)
nav.next_step("explore", "Choose among them, see where they disagree, and merge them")
