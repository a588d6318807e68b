"""Sentences that interpret compatibility's numbers, for the app and for the report."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ...evaluation.rank_correlation import Correlation
from ...intervals import mean_of_means
from ..exchangeable import EXACT, gains_if_alike
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
    if not math.isfinite(low):
        return f"{head}. Difference to M-Loss not measured: too few models for an interval."
    outcome = "distinguishable" if low > 0 or high < 0 else "not distinguishable"
    gap = f"{abs(mean):.2f} {'ahead' if mean >= 0 else 'behind'}"
    return f"{head}: {outcome} from M-Loss, which is {gap} (95 % interval {spread(low, high)})."


def gap(gaps: Sequence[GapMeasured]) -> str:
    """A sentence on whether M-TIES is nearer to the ensemble than TIES."""
    mean, low, high = gap_difference(gaps)
    m_ties, ties = (
        float(np.mean([values.mean() for values in column]))
        for column in ([g.m_ties for g in gaps], [g.ties for g in gaps])
    )
    images = sum(len(g.ties) for g in gaps)
    head = "nearer to" if mean > 0 else "farther from" if mean < 0 else "as far from"
    share = f" by {abs(mean) / ties:.1%} of TIES' distance" if mean and ties else ""
    verdict = "Not measured" if math.isnan(low) else "Not distinguishable"
    if low > 0 or high < 0:
        verdict = "Distinguishable"
    return (
        f"**{verdict}**: M-TIES is {head} the ensemble {'than' if mean else 'as'} TIES{share}. "
        f"Mean distances are {m_ties:.4f} and {ties:.4f}, the difference is {ties - m_ties:+.5f} "
        f"(95 % interval {spread(low, high, '+.5f')}, paired on {images:,} images).{_alike(gaps)}"
    )


def _alike(gaps: Sequence[GapMeasured]) -> str:
    """A sentence on rows trimmed alike, M-TIES' trim without M-Loss; empty where not measured."""
    measured = [(g.alike, g.m_ties) for g in gaps if g.alike is not None]
    if len(measured) < len(gaps):
        return ""
    distance = float(np.mean([alike.mean() for alike, _ in measured]))
    mean, low, high = mean_of_means([alike - m_ties for alike, m_ties in measured])
    head = "nearer than" if low > 0 else "farther than" if high < 0 else "not distinguishable from"
    return (
        f" Rows trimmed alike, the same trim without M-Loss, are at {distance:.4f}: M-TIES is "
        f"{head} they are (difference {mean:+.5f}, {low:+.5f} to {high:+.5f})."
    ).replace("from they are", "from them")


def gains(
    names: Sequence[str],
    intervals: Float[np.ndarray, "3 q"],
    alpha: Sequence[float],
    measure: str,
) -> str:
    """Sentences on the source whose removal lowers M-Loss most, and on those nearer to the middle.

    Args:
        intervals: gain of leaving out each source: mean, low and high.
        alpha: merging weights of the sources.
        measure: of the gains, a key of MEASURES.
    """
    best = int(intervals[0].argmax())
    mean, low, high = intervals[:, best]
    shown = f"(95 % interval {spread(low, high, '.1%')})"
    if low > 0:
        said = f"**Leaving out {names[best]} lowers M-Loss most**: by {mean:.1%} {shown}."
    else:
        said = (
            "**Leaving out a source is not shown to lower M-Loss**: most falls without "
            f"{names[best]}, {mean:.1%} {shown}."
        )
    like = gains_if_alike(alpha, measure)
    if not np.isfinite(like).all():
        return said
    said += f" {alike(like[best], measure)} Only what differs from that tells of a source."
    nearer = [name for name, upper, g in zip(names, intervals[2], like, strict=True) if upper < g]
    if nearer:
        said += (
            f" Without {', '.join(nearer)} M-Loss falls less than that, or rises: nearer to the "
            "middle of all than the others."
        )
    return said


def alike(gain: float, measure: str) -> str:
    """A sentence on what leaving a source out would do if all were alike; empty for NaN."""
    if not math.isfinite(gain):
        return ""
    estimate = "" if measure in EXACT else "about "
    note = "" if measure in EXACT else ", an estimate for normal differences (docs/theory.md)"
    does = "fall" if gain >= 0 else "rise"
    return (
        f"If all sources were alike, M-Loss would {does} by {estimate}{abs(gain):.1%} without "
        f"it{note}."
    )


def spread(low: float, high: float, form: str = "+.2f") -> str:
    """An interval as text, or "not measured"."""
    return f"{low:{form}} to {high:{form}}" if math.isfinite(low) else "not measured"
