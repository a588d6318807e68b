"""What compatibility's numbers say, in words: for the app and for the report alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ..correlation import Correlation
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
    """Whether M-Loss predicts the drops of these sets, and whether better than its rivals do.

    Args:
        what: the sets, as people call them, e.g. "pairs".
    """
    count = len(study.sets)
    if count < FEW or np.ptp(study.drops[0]) == 0:
        need = f"it takes {FEW} or more that lose differently"
        some = f"{count} {what}" if count != 1 else f"one {what.removesuffix('s')}"
        return [f"Over {some} nothing can be said: {need}."]
    found = study.correlations()
    said = [f"Over {count} {what}, {_main(found[MAIN])}"]
    for rival in RIVALS:
        if math.isfinite(found[rival].rho):
            said.append(_against(rival, found[rival], study.ahead_of(rival)))
    return said


def _main(found: Correlation) -> str:
    low, high = found.by_models
    shown = (
        f"the rank correlation of M-Loss with the accuracy drop is {found.rho:+.2f} "
        f"(95 % interval over models {spread(low, high)})"
    )
    if not math.isfinite(low):
        return f"{shown}: too few models for an interval, so nothing is shown either way."
    if low > 0:
        return f"**M-Loss predicts**: {shown}. Sets of higher M-Loss lose more."
    if high < 0:
        return f"**M-Loss points the wrong way**: {shown}. Sets of higher M-Loss lose less."
    return f"**M-Loss is not shown to predict**: {shown}, which holds 0."


def _against(rival: str, found: Correlation, ahead: tuple[float, float, float]) -> str:
    mean, low, high = ahead
    title = TITLES[rival][0].upper() + TITLES[rival][1:]
    head = f"{title}: {found.rho:+.2f} ({spread(*found.by_models)})"
    gap = f"M-Loss is {abs(mean):.2f} {'ahead' if mean >= 0 else 'behind'}"
    shown = f"{head}; {gap} (difference {mean:+.2f}, {spread(low, high)})"
    sure = math.isfinite(low) and (low > 0 or high < 0)
    return f"{shown}." if sure else f"{shown}: not distinguishable."


def gap(gaps: Sequence[GapMeasured]) -> str:
    """Whether M-TIES is nearer to the ensemble than TIES, as the paper claims."""
    mean, low, high = gap_difference(gaps)
    ours, theirs = (
        float(np.mean([values.mean() for values in column]))
        for column in ([g.m_ties for g in gaps], [g.ties for g in gaps])
    )
    images = sum(len(g.ties) for g in gaps)
    head = "nearer to" if mean > 0 else "farther from" if mean < 0 else "as far from"
    said = (
        f"**M-TIES is {head} the ensemble{' than TIES' if mean else ' as TIES'}**: mean distance "
        f"{ours:.4f} against {theirs:.4f}, difference {theirs - ours:+.5f} (95 % interval "
        f"{low:+.5f} to {high:+.5f}, paired on {images:,} images)"
    )
    if low <= 0 <= high:
        return f"{said}: not distinguishable."
    share = abs(mean) / theirs if theirs else 0.0
    return f"{said}, which is {share:.1%} of TIES' distance."


def gains(names: Sequence[str], found: Float[np.ndarray, "3 q"]) -> str:
    """Which source, left out, lowers M-Loss most; and what any source would give."""
    best, q = int(found[0].argmax()), len(names)
    mean, low, high = found[:, best]
    said = (
        f"**Leaving out {names[best]} lowers M-Loss most**: by {mean:.1%} (95 % interval "
        f"{spread(low, high, '.1%')}). If all sources were alike, leaving out any one would lower "
        f"it by about {alike(q):.1%} (Section 4 of the paper), so only what is beyond that tells."
    )
    raising = [name for name, gain in zip(names, found[0], strict=True) if gain < 0]
    if raising:
        said += f" Without {', '.join(raising)} M-Loss rises: they stand near the middle of all."
    return said


def alike(sources: int) -> float:
    """By what share M-Loss falls without any one of so many like sources: it grows with their
    number q as (q - 1) / q (Section 4 of the paper)."""
    return 1 / (sources - 1) ** 2


def spread(low: float, high: float, form: str = "+.2f") -> str:
    """An interval, or that there is none."""
    return f"{low:{form}} to {high:{form}}" if math.isfinite(low) else "not known"
