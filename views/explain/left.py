"""What a merge leaves of the gaps at every node, beside what plain averaging leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import streamlit as st
from jaxtyping import Float

from mloss_core import METHODS, Family, MergeRecipe
from mloss_core.analysis.left import BlockLeft
from views.explain import left_figures
from views.jobs import analyses, strip
from views.jobs.analyses import BothLeft
from views.shared import figures, nav
from views.shared.theme import written, written_alike
from views.state import session
from views.state.job_board import Job

MEAN = ""  # of all sources
Nodes = Mapping[int, Float[np.ndarray, " nodes"]]
Pair = tuple[Nodes, Nodes]  # plain averaging's, the merge's


def show(family: Family, recipe: MergeRecipe) -> None:
    """The job, and what it has measured so far; or why there is nothing to measure."""
    method = METHODS[recipe.method]
    if not method.one_model:
        several_models(method.title)
        return
    st.markdown(
        f"What **{method.title}** leaves, at its chosen settings: the gap at every node between "
        "the merged model and the ensemble, and between the merged model and each source on the "
        "source's own task. Beside it stands the same of plain averaging, whose gap to the "
        "ensemble is the paper's M-Loss. Equal colours are equal values. The smaller, the closer."
    )
    job = analyses.left_job(family, recipe)
    strip.followed(job, analyses.LEFT, lambda job: _draw(family, recipe, job))


def several_models(title: str) -> None:
    """Why there is no one model to look at."""
    st.info(
        f"{title} leaves several models, not one: there is no merged node to compare. Choose a "
        "method that leaves one model."
    )
    nav.next_step("explore", "Choose another method on the Explore page")


def _draw(family: Family, recipe: MergeRecipe, job: Job) -> None:
    blocks = [event for event in list(job.events) if isinstance(event, BothLeft)]
    if not blocks:
        return
    st.markdown("#### Merged model against the ensemble")
    st.caption(
        "Merged model and ensemble see the same inputs, those of the merged model. Methods such as "
        "TIES leave the average on purpose: the gaps below say if that brings the sources closer."
    )
    _maps(family, recipe, _pair(blocks, None), "gap to the ensemble", "ensemble")
    st.markdown("#### Merged model against each source, on the source's own task")
    if blocks[0].merge.own is None:
        st.info(
            "The calibration images do not say which task each is of, so that no source's own can "
            f"be picked. Make a pool that does: mloss pool {family.name}"
        )
    else:
        _own(family, recipe, blocks)
    if not session.lecture():
        _table(family, recipe, blocks)
    session.remember()  # a fragment's own widgets are in the link, too


def _own(family: Family, recipe: MergeRecipe, blocks: Sequence[BothLeft]) -> None:
    """The maps of one source, or their mean."""
    source = _source(family, recipe)
    place = None if source == MEAN else recipe.sources.index(source)
    pair = _pair(blocks, range(len(recipe.sources)) if place is None else [place])
    if not any(np.isfinite(nodes).any() for nodes in pair[1].values()):
        st.info(f"No calibration image is of {family.title(source)}'s own task: unknown.")
        return
    whom = "the sources, their mean" if source == MEAN else family.title(source)
    _maps(family, recipe, pair, f"gap to {whom}", "own")


def _source(family: Family, recipe: MergeRecipe) -> str:
    """One of the merged sources, or MEAN."""
    options, chosen = [MEAN, *recipe.sources], session.chosen("left_of")
    value = st.selectbox(
        "Source", options, index=options.index(chosen) if chosen in options else 0,
        key=session.widget("w-left_of"),
        format_func=lambda name: family.title(name) if name else "mean over the sources",
        help="The gap on the images of the source's own task, each model on its own inputs.",
    )  # fmt: skip
    session.choose_value("left_of", value)
    return value


def _pair(blocks: Sequence[BothLeft], places: Sequence[int] | None) -> Pair:
    """Both maps: of the gap to the ensemble, or the mean of those to the sources at `places`."""
    return (
        {both.average.block: gap(both.average, places) for both in blocks},
        {both.merge.block: gap(both.merge, places) for both in blocks},
    )


def gap(left: BlockLeft, places: Sequence[int] | None) -> Float[np.ndarray, " nodes"]:
    """A block's gap to the ensemble, or its mean over the sources that have images; else NaN."""
    if places is None or left.own is None:
        return left.node
    rows = left.own[list(places)]
    rows = rows[np.isfinite(rows).all(1)]
    return rows.mean(0) if len(rows) else np.full(left.own.shape[1], np.nan)


def _maps(family: Family, recipe: MergeRecipe, pair: Pair, what: str, key: str) -> None:
    """Before and after side by side, the strip of sums, and what they say."""
    count, title = family.model.blocks, METHODS[recipe.method].title
    st.markdown(summary(pair, title, what))
    size, colours = int(session.chosen("group")), session.chosen("colours")
    left, middle, right = st.columns([3, 3, 2])
    before, after = pair
    for place, when, name, mine, other in (
        (left, "before", "Simple average", before, after),
        (middle, "after", title, after, before),
    ):
        place.markdown(f"**{name}**")
        figure = figures.heatmap(mine, count, size, colours, "gap", other)
        alt = f"{name}: {what} by block and node group"
        place.plotly_chart(figure, key=f"left-{key}-{when}", alt=alt)
    totals = [_sums(nodes, count) for nodes in pair]
    right.markdown("**Sum of each block**")
    right.plotly_chart(
        left_figures.sums(totals[0], totals[1], title), key=f"left-{key}-sums",
        alt=f"Sum over the nodes of each block: {what}, after plain averaging and after {title}",
    )  # fmt: skip


def _sums(nodes: Nodes, blocks: int) -> Float[np.ndarray, " blocks"]:
    """The sum over each block's nodes; NaN where a block is not measured yet."""
    return np.array([nodes[b].sum() if b in nodes else np.nan for b in range(blocks)])


def summary(pair: Pair, title: str, what: str) -> str:
    """How much smaller or larger the merge's gap is than plain averaging's."""
    before, after = (float(sum(nodes.sum() for nodes in maps.values())) for maps in pair)
    fewer = sum(float(pair[1][block].sum() < pair[0][block].sum()) for block in pair[0])
    if not before:
        return f"The {what} of plain averaging is zero; of {title} it is {written(after)}."
    first, second = written_alike((before, after))
    share = after / before - 1
    change = "the same" if not share else f"{abs(share):.1%} {'less' if share < 0 else 'more'}"
    change = change if share < 1 else f"{1 + share:.1f} times as much"
    return (
        f"The {what}, summed over all nodes of {len(pair[0])} blocks, is {second} after {title} "
        f"and {first} after plain averaging: **{change}**. It is smaller in {fewer:.0f} of "
        f"{len(pair[0])} blocks."
    )


def _table(family: Family, recipe: MergeRecipe, blocks: Sequence[BothLeft]) -> None:
    """Sums of each block, of both and to all."""
    title = METHODS[recipe.method].title
    rows = []
    for both in blocks:
        row: dict[str, float] = {"block": both.merge.block}
        for name, left in (("simple average", both.average), (title, both.merge)):
            row[f"{name}, to the ensemble"] = float(left.node.sum())
            for place, source in enumerate(recipe.sources if left.own is not None else ()):
                column = f"{name}, to {family.title(source)}"
                row[column] = float(gap(left, [place]).sum())
        rows.append(row)
    frame = pd.DataFrame(rows)
    number = st.column_config.NumberColumn(format="%.3g")
    with st.expander("The sums of each block as a table"):
        config = {name: number for name in list(frame)[1:]}
        st.dataframe(frame, hide_index=True, column_config=config)
        st.download_button("CSV: what is left by block", frame.to_csv(index=False),
                           "what-is-left.csv", "text/csv", key="csv-left")  # fmt: skip
