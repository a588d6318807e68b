"""M-Loss heatmap page: the paper's Figure 3, filled in block by block while it is computed."""

from __future__ import annotations

import io
import math
from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from mloss_core import BlockScored, Family, InputError, NodeScores
from views.heatmap import chosen as chosen_views
from views.heatmap import explain, few_blocks
from views.jobs import kinds, strip
from views.shared import figures, nav, theme, widgets
from views.state import session
from views.state.error_text import error_text
from views.state.job_board import Job, elapsed

LABELS = {"raw": "M-Loss (Eq. 4)", "normalised": "normalised M-Loss (Eq. 7)"}


def controls(family: Family) -> Job | None:
    """What to measure, and the job that measures it; the first visit measures by itself."""
    places = st.columns(4, vertical_alignment="bottom")
    if session.lecture():  # a class sees the button alone: let it stand first
        places = places[::-1]
    left, inner, middle, right = places
    with left:
        widgets.samples(family)
    with inner:
        widgets.tokens(family)
    with middle:
        widgets.seed("Seed of the draw")
    widgets.bound(
        "inputs", st.segmented_control, "Measured", explain.MEASURED,
        help="Along: each block sees what the blocks merged before it make of the images. Before: "
        "what the base makes of them, as in the released code. It is a setting of merges, too.",
    )  # fmt: skip
    try:
        # Eq. 4 along the paper's own merge; of the released code's ways, inputs alone are followed.
        plain = {"scores": "absolute", "ranks": "m-loss", "scope": "tensor"}
        recipe = session.current_recipe(method="m-ties", blocks=None, **plain)
    except InputError as error:
        st.error(error_text(error))
        return None
    job = session.job_of("score_job")
    clicked = right.button("Compute M-Loss", type="primary", width="stretch")
    turned = job is None or job.spec.inputs_from != recipe.inputs_from
    first = turned and (job is not None or not session.chosen("score_job"))
    if clicked or (first and family.model.width <= kinds.NARROW):
        job = kinds.score(family, recipe)
        session.choose_value("score_job", job.id)
        session.head_start(job)
    inputs = ", inputs from the base" * (recipe.inputs_from == "pretrained")
    settings = f"k = {recipe.keep:g}, e = {recipe.variation:g}, λ = {recipe.scaling:g}{inputs}"
    st.caption(
        f"{len(recipe.sources)} sources, along an M-TIES merge with {settings} (set on the Merge "
        f"page); {widgets.memory(recipe, family)}"
    )
    widgets.doubtful(family, recipe.sources)
    if job is not None and job.spec != recipe:
        st.info("The settings have changed since this map was measured: compute it again.")
    return job


def look(family: Family) -> tuple[int, str, str, str]:
    """How to draw it: group size, colours, raw or normalised, picture format."""
    a, b, c, d = st.columns([2, 2, 2, 1])
    with a:
        most = min(200, family.model.nodes)
        group = widgets.bound("group", st.slider, min_value=1, max_value=most, step=1)
    with b:
        colours = widgets.bound("colours", st.segmented_control)
    with c:
        scores = widgets.bound("scores", st.segmented_control)
    picture = d.segmented_control(
        "Picture",
        ["png", "svg"],
        default="png",
        required=True,
        help="What the camera button saves.",
    )
    return group, colours, scores, picture


def table(scores: list[NodeScores]) -> pd.DataFrame:
    """Every node's scores, for export."""
    parts = [
        pd.DataFrame(
            {
                "block": s.block,
                "node": np.arange(len(s.node)),
                "mloss": s.node,
                "mloss_normalised": s.node_normalised,
            }
        )
        for s in scores
    ]
    return pd.concat(parts, ignore_index=True)


def draw(family: Family, job: Job, group: int, colours: str, kind: str, picture: str) -> None:
    """The map and the means beside it, from what is known so far."""
    strip.outcome(job, gone=False)
    scores = [e.scores for e in list(job.events) if isinstance(e, BlockScored)]
    blocks = family.model.blocks
    if not scores:
        st.info(f"Nothing measured yet: {job.state}.")
        return
    nodes = {s.block: s.node if kind == "raw" else s.node_normalised for s in scores}
    config = {"toImageButtonOptions": {"format": picture, "filename": "mloss", "scale": 2}}
    left, right = st.columns([3, 1])
    figure = figures.heatmap(nodes, blocks, group, colours, LABELS[kind])
    if job.state == "finished":
        chosen_views.pointed_map(left, family, nodes, group, figure, config)
    else:
        alt = f"Heatmap of {LABELS[kind]}: blocks by groups of {group} nodes"
        left.plotly_chart(figure, key="heatmap", config=config, alt=alt)
    right.plotly_chart(
        figures.block_means({s.block: s.mean_interval() for s in scores}, blocks),
        key="means",
        config=config,
        alt="Mean node M-Loss of each block with its 95 % interval over calibration images",
    )
    highest = max(scores, key=lambda s: s.mean_interval()[0])
    mean, low, high = highest.mean_interval()
    state = "measured so far" if job.active else f"measured in {elapsed(job.seconds)}"
    state += f" on {session.device().type}"
    shown, least, most = theme.written_alike((mean, low, high))
    interval = f"95 % interval over images {least} to {most}"
    if math.isnan(low):
        interval = "one image has no interval"
    st.caption(
        f"{len(scores)} of {blocks} blocks {state}. Highest mean: block {highest.block} with "
        f"{shown} ({interval}). Means and intervals are of raw M-Loss."
    )


def exports(job: Job) -> None:
    """Numbers to download; hidden in the lecture view."""
    if session.lecture():
        return
    scores = [e.scores for e in job.events if isinstance(e, BlockScored)]
    if not scores:
        return
    text = io.StringIO()
    table(scores).to_csv(text, index=False)
    st.download_button(
        "Download CSV", text.getvalue(), "mloss.csv", "text/csv", help="Every node's scores."
    )


def show_choice(family: Family, job: Job) -> None:
    """Choosing blocks of the finished map, what follows from it, and merging with them."""
    events = [e for e in job.events if isinstance(e, BlockScored)]
    scores = [e.scores for e in events]
    st.subheader("Choose blocks")
    st.caption(chosen_views.HOW)
    chosen_views.choice(family, job.spec, scores, sum(e.seconds for e in events))
    if not session.lecture():
        chosen_views.table(family, events)
    chosen_views.nodes_of(family, job.spec, scores)
    few_blocks.show(family, job.spec)


family = session.current_family()
st.title("M-Loss heatmap")
st.caption(
    "Each cell: how far *average, then activate* is from *activate, then average* at these nodes, "
    "mean over tokens and images. Bright cells are where the sources conflict."
)
job = controls(family)
group, colours, kind, picture = look(family)
if job is None:
    gone = bool(session.chosen("score_job")) and session.job_of("score_job") is None
    strip.outcome(None, gone=gone)
    if not gone:
        st.info(
            f"Press *Compute M-Loss*: the {family.model.blocks} blocks of this family are measured "
            "one by one, on a CPU some seconds each."
        )
else:
    if job.active:
        session.while_active(job)(partial(draw, family, job, group, colours, kind, picture))()
    else:
        draw(family, job, group, colours, kind, picture)
        if job.state == "finished":
            show_choice(family, job)
        exports(job)
        explain.show(family, job)
    nav.next_step("merge", "Next: merge them")
