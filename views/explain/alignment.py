"""How task vectors lie to each other and to their merge: overlap, what is kept, sign conflict."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import streamlit as st
from jaxtyping import Float
from streamlit.delta_generator import DeltaGenerator

from mloss_core import METHODS, Family, MergeRecipe
from mloss_core.analysis.alignment import BlockAlignment, MatrixAlignment
from views.explain import alignment_figures
from views.jobs import analyses, strip
from views.shared.theme import written
from views.state import session
from views.state.bound import bound
from views.state.explain_fields import PARTS
from views.state.job_board import Job


def show(family: Family, recipe: MergeRecipe, block: int) -> None:
    """The job, and what it has measured so far.

    Args:
        block: whose spectrum is drawn.
    """
    st.markdown(
        "Methods of singular values (TSV-M, Iso-C, WUDI and their like) look at each matrix of a "
        "task vector as a set of **directions**. Where the sources' leading directions overlap, "
        "their sum counts the same thing several times, and one method or another has to undo it. "
        "Where they do not, adding up loses nothing. No image is needed to see it."
    )
    if not METHODS[recipe.method].one_model:
        st.info(
            f"{METHODS[recipe.method].title} leaves several models: the sources are compared with "
            "each other alone."
        )
    job = analyses.alignment_job(family, recipe)
    strip.followed(job, analyses.ALIGNMENT, lambda job: _draw(family, recipe, job, block))


def _draw(family: Family, recipe: MergeRecipe, job: Job, block: int) -> None:
    rows = [event for event in list(job.events) if isinstance(event, BlockAlignment)]
    if not rows:
        return
    names = [family.title(source) for source in recipe.sources]
    count, title = family.model.blocks, METHODS[recipe.method].title
    left, right = st.columns([3, 2])
    _overlaps(left, rows, count, len(names))
    _conflict(right, rows, count, recipe.keep)
    if rows[0].matrices[0].kept is not None:
        _kept(rows, count, names, title)
    _spectrum(rows, block, len(names), title)
    if not session.lecture():
        _table(rows, names)
    session.remember()  # a fragment's own widgets are in the link, too


def _filled(rows: Sequence[BlockAlignment], count: int, values: Sequence) -> Float[np.ndarray, "_"]:
    """A row of values per block, NaN where it is not measured yet."""
    first = np.asarray(values[0], dtype=float)
    table = np.full((count, *first.shape), np.nan)
    for row, value in zip(rows, values, strict=True):
        table[row.block] = value
    return table


def _overlaps(place: DeltaGenerator, rows: Sequence[BlockAlignment], count: int, q: int) -> None:
    """How far the sources' leading directions overlap, and what it means."""
    with place:
        st.markdown("#### Do the sources use the same directions?")
        side = bound("side", st.segmented_control)
        shares, chances = (
            _filled(rows, count, [[getattr(m, name) for m in row.matrices] for row in rows])
            for name in (side, f"{side}_by_chance")
        )
        figure = alignment_figures.overlaps(shares, chances, PARTS)
        alt = f"Overlap of the sources' leading {side} singular subspaces, by block and matrix"
        st.plotly_chart(figure, key="overlaps", alt=alt)
        if not np.isfinite(shares).any():
            st.caption("No two sources have a direction to compare.")
            return
        chance = ", ".join(
            f"{part} {share:.2f}" for part, share in zip(PARTS, mean(chances), strict=True)
        )
        measured, random = float(np.nanmean(shares)), float(np.nanmean(chances))
        ratio = f", {measured / random:.1f} times as much as by chance" if random else ""
        st.caption(
            f"The leading 1/{q} of each source's {side} singular vectors: 0 is at right angles, 1 "
            f"the same subspace; mean over the pairs of sources. By chance: {chance}. On the whole "
            f"{measured:.2f}{ratio}. The more they overlap, the more an SVD method has to sort out."
        )


def _conflict(place: DeltaGenerator, rows: Sequence[BlockAlignment], count: int, k: float) -> None:
    """Sign conflict by block."""
    with place:
        st.markdown("#### Do their signs conflict?")
        shares = _filled(rows, count, [row.conflict for row in rows])
        alt = "Share of opposite signs of each block, over all pairs of sources"
        st.plotly_chart(alignment_figures.conflict(shares), key="conflict", alt=alt)
        st.caption(
            f"Of the entries that trimming at k = {k:g} leaves of two sources, the share of "
            "opposite signs. Half is what unrelated sources have; TIES elects a sign because of "
            "these."
        )


def _kept(rows: Sequence[BlockAlignment], count: int, names: Sequence[str], title: str) -> None:
    """What the merge has of each source's own change."""
    st.markdown(f"#### What does {title} keep of each source?")
    shares = _filled(rows, count, [mean(np.array([m.kept for m in r.matrices])) for r in rows])
    alt = f"Share of each source's own change that the merge by {title} has, by block"
    st.plotly_chart(alignment_figures.kept(shares, names), key="kept-of-sources", alt=alt)
    overall = mean(shares)
    if np.isfinite(overall).any():
        most, least = int(np.nanargmax(overall)), int(np.nanargmin(overall))
        favoured = (
            f" Most is kept of {names[most]} ({overall[most]:.2f}), least of {names[least]} "
            f"({overall[least]:.2f})."
        )
    else:
        favoured = ""
    st.caption(
        "The merge's change, projected on the source's own: 1 has all of it, 0 nothing, and below "
        "0 it goes the other way; mean over the block's four matrices. Plain averaging of sources "
        f"at right angles keeps 1/{len(names)} of each.{favoured}"
    )


def mean(rows: Float[np.ndarray, "n *rest"]) -> Float[np.ndarray, "*rest"]:
    """Mean over the rows, without what is unknown; NaN where all are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of means of nothing
        return np.nanmean(rows, axis=0)


def _spectrum(rows: Sequence[BlockAlignment], block: int, q: int, title: str) -> None:
    """How often one matrix's directions are counted."""
    st.markdown(f"#### Block {block}: is anything counted more than once?")
    part = bound("matrix", st.segmented_control)
    matrices = {row.block: row.matrices for row in rows}
    if block not in matrices:
        st.caption("This block is not measured yet.")
        return
    matrix = matrices[block][PARTS.index(part)]
    figure = alignment_figures.counted(matrix.in_sum, matrix.in_merge, q)
    alt = f"How often the sum and the merge count each direction of {part} in block {block}"
    st.plotly_chart(figure, key="counted", alt=alt)
    st.caption(spectrum_words(matrix, q, title))


def spectrum_words(matrix: MatrixAlignment, q: int, title: str) -> str:
    """What the spectrum says."""
    if not np.isfinite(matrix.in_sum).any():
        return "The sum of the task vectors has no direction here: nothing is counted."
    first = float(matrix.in_sum[0])
    said = (
        "Along each of the sum's largest directions, how often it counts what the sources do "
        f"there: once if one source does it all, {q} times if all do the same. Its largest is "
        f"counted {written(first)} times."
    )
    if matrix.in_merge is None:
        return said
    after = float(matrix.in_merge[0])
    return (
        f"{said} {title} counts it {written(after)} times. Well above 1 it is counted more than "
        "once, which SVC, Iso-C and TSV-M undo; well below 1 it is lost."
    )


def _table(rows: Sequence[BlockAlignment], names: Sequence[str]) -> None:
    """Every matrix of every block."""
    frame = pd.DataFrame(
        _row(row.block, part, matrix, names)
        for row in rows
        for part, matrix in zip(PARTS, row.matrices, strict=True)
    )
    number = st.column_config.NumberColumn(format="%.3g")
    with st.expander("Every matrix as a table"):
        config = {name: number for name in list(frame)[2:]}
        st.dataframe(frame, hide_index=True, column_config=config)
        st.download_button("CSV: alignment by matrix", frame.to_csv(index=False),
                           "alignment.csv", "text/csv", key="csv-alignment")  # fmt: skip


def _row(block: int, part: str, matrix: MatrixAlignment, names: Sequence[str]) -> dict:
    """One matrix's numbers."""
    row = {
        "block": block, "matrix": part, "left overlap": matrix.left,
        "left by chance": matrix.left_by_chance, "right overlap": matrix.right,
        "right by chance": matrix.right_by_chance, "counted in the sum": matrix.in_sum[0],
    }  # fmt: skip
    if matrix.in_merge is not None and matrix.kept is not None:
        row["counted in the merge"] = matrix.in_merge[0]
        row |= {f"kept of {name}": share for name, share in zip(names, matrix.kept, strict=True)}
    return row
