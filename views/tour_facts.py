"""What the tour's answers say of this visitor's own measurements; nothing before they are made."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mloss_core import BlockScored, BlockTheory

from . import session
from .looks import written


def brightest() -> str:
    """The blocks of highest and of lowest M-Loss on the map, once it is whole."""
    job = session.job_of("score_job")
    found = [e.scores for e in list(job.events) if isinstance(e, BlockScored)] if job else []
    if not found or job is None or job.active:
        return ""
    means = {s.block: s.mean_interval()[0] for s in found}
    most, least = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    return (
        f"On the map as measured: block {most} has the highest mean, {written(means[most])}, "
        f"and block {least} the lowest, {written(means[least])}."
    )


def reasons() -> str:
    """How far block means of M-Loss go with each of their two factors."""
    job = session.job_of("theory_job")
    found = [e for e in list(job.events) if isinstance(e, BlockTheory)] if job else []
    if len(found) < 3 or job is None or job.active:
        return ""
    top = max(found, key=lambda b: b.scores.node.mean())
    parts = []
    for name in ("curvature", "variance"):
        means = np.array([getattr(b.factors, name).mean() for b in found])
        here = getattr(top.factors, name).mean()
        place = int((means > here).sum()) + 1
        parts.append(f"{name} {written(here / means.mean())} times ({place}. of {len(found)})")
    return (
        f"As it was measured: block {top.scores.block} has the highest M-Loss. Beside the mean of "
        f"all blocks it has {' and '.join(parts)}."
    )


FACTS: dict[str, Callable[[], str]] = {"brightest": brightest, "reasons": reasons}
