"""Reports of compatibility: a section of Markdown, and rows for JSON lines and CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ...intervals import with_interval
from ...mloss import MEASURES
from ...text import markdown_table
from ...types import MergeRecipe
from ..task_vectors import Geometry
from . import words
from .ensemble_gap import GapMeasured
from .prediction import Study
from .sets import Compatibility, pairs
from .words import SIZES, TITLES, spread

Row = dict[str, Any]


def pair_rows(
    compatibility: Compatibility, moved: Geometry, signs: Float[np.ndarray, "q q"] | None
) -> Iterator[Row]:
    """Rows of each pair: M-Loss over all blocks, cosine and sign conflict."""
    matrices = {measure: compatibility.pair_matrix(measure) for measure in MEASURES}
    for i, j in pairs(len(compatibility.sources)):
        row: Row = {"first": compatibility.sources[i], "second": compatibility.sources[j]}
        row |= {f"mloss_{measure}": float(matrix[i, j]) for measure, matrix in matrices.items()}
        row["cosine"] = float(moved.cosines[i, j])
        yield row | {"sign_conflict": None if signs is None else float(signs[i, j])}


def left_out_rows(compatibility: Compatibility) -> Iterator[Row]:
    """Rows of the gain from leaving out each source, by measure and block (null: all blocks)."""
    for measure in MEASURES:
        for block in (None, *(b.block for b in compatibility.blocks)):
            gains = compatibility.gains(measure, block)
            for i, name in enumerate(compatibility.sources if gains is not None else ()):
                assert gains is not None
                row: Row = {"source": name, "block": block, "measure": measure}
                yield row | _interval(gains[:, i])


def whole_rows(compatibility: Compatibility) -> Iterator[Row]:
    """Rows of the whole set's M-Loss, by measure and block (null: all blocks)."""
    for measure in MEASURES:
        for block in (None, *(b.block for b in compatibility.blocks)):
            row: Row = {"block": block, "measure": measure}
            yield row | _interval(compatibility.whole(measure, block))


def set_rows(study: Study) -> Iterator[Row]:
    """Rows of every merged set: its drop in points, and its predictors."""
    for i, members in enumerate(study.sets):
        row: Row = {"sources": "+".join(study.sources[m] for m in members)}
        mean, low, high = map(float, study.drops[:, i])
        row |= {"drop": mean, "drop_low": low, "drop_high": high}
        yield row | {name: float(column[i]) for name, column in study.predictors.items()}


def correlation_rows(study: Study) -> Iterator[Row]:
    """Rows of every predictor's rank correlation with the drop, over pairs, triples, and both."""
    for what, size in SIZES.items():
        part = study.of_size(size)
        for name, c in part.correlations().items() if len(part.sets) > 2 else ():
            row: Row = {"sets": what, "count": len(part.sets), "predictor": name}
            row |= {"rho": _finite_or_none(c.rho)}
            for label, (low, high) in (("models", c.by_models), ("sets", c.by_sets)):
                row |= {
                    f"low_{label}": _finite_or_none(low),
                    f"high_{label}": _finite_or_none(high),
                }
            yield row


def gap_rows(gaps: Iterable[GapMeasured]) -> Iterator[Row]:
    """Rows of each task: mean distances to the ensemble, and their paired difference."""
    for g in gaps:
        row: Row = {"task": g.task, "m_ties": float(g.m_ties.mean()), "ties": float(g.ties.mean())}
        if g.alike is not None:
            row["rows_trimmed_alike"] = float(g.alike.mean())
        mean, low, high = with_interval(g.ties - g.m_ties).tolist()
        row |= {"difference": mean, "low": _finite_or_none(low), "high": _finite_or_none(high)}
        yield row | {"images": len(g.ties)}


def markdown(
    title: str,
    recipe: MergeRecipe,
    compatibility: Compatibility,
    study: Study,
    gaps: Sequence[GapMeasured],
) -> str:
    """The Markdown section on whether M-Loss predicts mergeability on this family."""
    lines = [f"## Does M-Loss predict mergeability? {title}", "", *_setting(recipe, study), ""]
    for what, size in SIZES.items():
        if len(study.of_size(size).sets):
            said = words.prediction(study.of_size(size), what)
            lines += [f"- {sentence}" for sentence in said] + [""]
    lines += markdown_table(
        ("predictor", "sets", "rank correlation", "95 % over models", "95 % over sets"),
        [
            (
                TITLES[r["predictor"]], f"{r['count']} {r['sets']}", _number(r["rho"]),
                _spread(r, "models"), _spread(r, "sets"),
            )
            for r in correlation_rows(study)
        ],
    ).splitlines()  # fmt: skip
    lines += _left_out(recipe, compatibility)
    if gaps:
        lines += ["", "### The ensemble gap", "", words.gap(gaps), ""]
        lines += markdown_table(
            ("task", "M-TIES", "rows trimmed alike", "TIES", "TIES minus M-TIES", "95 % interval"),
            [
                (
                    r["task"], f"{r['m_ties']:.4f}", _distance(r.get("rows_trimmed_alike")),
                    f"{r['ties']:.4f}", f"{r['difference']:+.5f}",
                    "not measured" if r["low"] is None else spread(r["low"], r["high"], "+.5f"),
                )
                for r in gap_rows(gaps)
            ],
        ).splitlines()  # fmt: skip
    return "\n".join(lines) + "\n"


def _setting(recipe: MergeRecipe, study: Study) -> list[str]:
    drops = study.drops[0]
    return [
        f"{len(study.sets)} sets of {len(study.sources)} sources were merged by {recipe.method} "
        f"(k = {recipe.keep:g}, lambda = {recipe.scaling:g}) in equal parts and evaluated on all "
        f"test images of their members' tasks. They lose {drops.min():.1f} to {drops.max():.1f} "
        f"points against their own sources (median {np.median(drops):.1f}). M-Loss was measured "
        f"before merging, on {recipe.samples} images, with the base's inputs.",
        "",
        "Correlations are Spearman's, turned so that above zero means: points as expected. Sets "
        "share models, so the interval that counts draws the models anew; the one over sets "
        "treats them as independent and is too narrow. The main measure, fixed beforehand, is "
        "Eq. 3 summed over the blocks. Pairs and triples together mix in the number of sources.",
    ]


def _interval(values: Float[np.ndarray, "3"]) -> Row:
    mean, low, high = (_finite_or_none(float(v)) for v in values)
    return {"mean": mean, "low": low, "high": high}


def _finite_or_none(value: float) -> float | None:
    """The number, or None where it is not finite: JSON has no NaN."""
    return value if math.isfinite(value) else None


def _distance(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:+.2f}"


def _spread(row: Row, label: str) -> str:
    low, high = row[f"low_{label}"], row[f"high_{label}"]
    return "not measured" if low is None else spread(low, high)


def _left_out(recipe: MergeRecipe, compatibility: Compatibility) -> list[str]:
    """What leaving out each source gains; nothing where there are two alone."""
    gains = compatibility.gains("layer")
    if gains is None:
        return []
    said = words.gains(compatibility.sources, gains, recipe.alpha, "layer")
    rows = zip(compatibility.sources, gains.T, strict=True)
    table = markdown_table(
        ("without", "M-Loss falls by", "95 % interval"),
        [(n, f"{m:+.1%}", spread(lo, hi, "+.1%")) for n, (m, lo, hi) in rows],
    )
    return ["", "### Leaving one source out", "", said, "", *table.splitlines()]
