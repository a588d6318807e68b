"""Sentences that interpret compatibility's numbers, for the app and for the report."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ...evaluation.evaluator import mean_difference
from ...evaluation.rank_correlation import Correlation
from .ensemble_gap import GapMeasured, gap_difference
from .prediction import MAIN, RIVALS, Study

TITLES = {
    "layer": "M-Loss of layers (Eq. 3), summed",
    "normalised": "normalised M-Loss of layers (Eq. 6), summed",
    "node": "M-Loss of nodes (Eq. 4), mean",
    "cosine": "cosine of task vectors",
    "distance": "distance of task vectors",
    "norm": "norm of task vectors",
    "signs": "sign conflict",
}
FEW = 10  # sets below which a rank correlation says next to nothing
SIZES = {"pairs": 2, "triples": 3, "pairs and triples": None}


def prediction(study: Study, what: str) -> list[str]:
    """Sentences on whether M-Loss predicts these sets' drops, and better than its rivals.

    Args:
        what: the sets, as people call them, e.g. "pairs".
    """
    count = len(study.sets)
    if count < FEW or np.ptp(study.drops[0]) == 0:
        need = f"it takes {FEW} or more that lose differently"
        some = f"{count} {what}" if count != 1 else f"one {what.removesuffix('s')}"
        return [f"Over {some} nothing can be said: {need}."]
    correlations = study.correlations()
    said = [f"Over {count} {what}, {_main(correlations[MAIN])}"]
    for rival in RIVALS:
        if math.isfinite(correlations[rival].rho):
            said.append(_against(rival, correlations[rival], study.ahead_of(rival)))
    return said


def _main(correlation: Correlation) -> str:
    low, high = correlation.by_models
    shown = (
        f"the rank correlation of M-Loss with the accuracy drop is {correlation.rho:+.2f} "
        f"(95 % interval over models {spread(low, high)})"
    )
    if not math.isfinite(low):
        return f"{shown}: too few models for an interval, so nothing is shown either way."
    if low > 0:
        return f"**M-Loss predicts**: {shown}. Sets of higher M-Loss lose more."
    if high < 0:
        return f"**M-Loss points the wrong way**: {shown}. Sets of higher M-Loss lose less."
    return f"**M-Loss is not shown to predict**: {shown}, which holds 0."


def _against(rival: str, correlation: Correlation, ahead: tuple[float, float, float]) -> str:
    mean, low, high = ahead
    title = TITLES[rival][0].upper() + TITLES[rival][1:]
    head = f"{title}: {correlation.rho:+.2f} ({spread(*correlation.by_models)})"
    gap = f"M-Loss is {abs(mean):.2f} {'ahead' if mean >= 0 else 'behind'}"
    shown = f"{head}; {gap} (difference {mean:+.2f}, {spread(low, high)})"
    sure = math.isfinite(low) and (low > 0 or high < 0)
    return f"{shown}." if sure else f"{shown}: not distinguishable."


def gap(gaps: Sequence[GapMeasured]) -> str:
    """A sentence on whether M-TIES is nearer to the ensemble than TIES."""
    mean, low, high = gap_difference(gaps)
    m_ties, ties = (
        float(np.mean([values.mean() for values in column]))
        for column in ([g.m_ties for g in gaps], [g.ties for g in gaps])
    )
    images = sum(len(g.ties) for g in gaps)
    head = "nearer to" if mean > 0 else "farther from" if mean < 0 else "as far from"
    said = (
        f"**M-TIES is {head} the ensemble{' than TIES' if mean else ' as TIES'}**: mean distance "
        f"{m_ties:.4f} against {ties:.4f}, difference {ties - m_ties:+.5f} (95 % interval "
        f"{low:+.5f} to {high:+.5f}, paired on {images:,} images)"
    )
    if low <= 0 <= high:
        return f"{said}: not distinguishable.{_alike(gaps)}"
    share = abs(mean) / ties if ties else 0.0
    return f"{said}, which is {share:.1%} of TIES' distance.{_alike(gaps)}"


def _alike(gaps: Sequence[GapMeasured]) -> str:
    """A sentence on rows trimmed alike, M-TIES' trim without M-Loss; empty where not measured."""
    measured = [(g.alike, g.m_ties) for g in gaps if g.alike is not None]
    if len(measured) < len(gaps):
        return ""
    distance = float(np.mean([alike.mean() for alike, _ in measured]))
    mean, low, high = mean_difference([alike - m_ties for alike, m_ties in measured])
    head = "nearer than" if low > 0 else "farther than" if high < 0 else "not distinguishable from"
    return (
        f" Rows trimmed alike, the same trim without M-Loss, are at {distance:.4f}: M-TIES is "
        f"{head} they are (difference {mean:+.5f}, {low:+.5f} to {high:+.5f})."
    ).replace("from they are", "from them")


def gains(names: Sequence[str], intervals: Float[np.ndarray, "3 q"]) -> str:
    """A sentence on the source whose removal lowers M-Loss most."""
    best, q = int(intervals[0].argmax()), len(names)
    mean, low, high = intervals[:, best]
    said = (
        f"**Leaving out {names[best]} lowers M-Loss most**: by {mean:.1%} (95 % interval "
        f"{spread(low, high, '.1%')}). If all sources were alike, leaving out any one would lower "
        f"it by about {alike(q):.1%} (Section 4 of the paper), so only what is beyond that tells."
    )
    raising = [name for name, gain in zip(names, intervals[0], strict=True) if gain < 0]
    if raising:
        said += f" Without {', '.join(raising)} M-Loss rises: they stand near the middle of all."
    return said


def alike(sources: int) -> float:
    """The share by which M-Loss falls without one of q like sources.

    M-Loss grows with their number q as (q - 1) / q (Section 4 of the paper).
    """
    return 1 / (sources - 1) ** 2


def spread(low: float, high: float, form: str = "+.2f") -> str:
    """An interval as text, or "not known"."""
    return f"{low:{form}} to {high:{form}}" if math.isfinite(low) else "not known"
