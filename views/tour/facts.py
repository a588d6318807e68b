"""Sentences of the tour's answers about the session's own measurements; empty before any."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mloss_core import BlockScored, BlockTheory
from views.shared.theme import written, written_alike
from views.state import session


def brightest() -> str:
    """The blocks of highest and of lowest M-Loss on the map, once it is whole."""
    job = session.job_of("score_job")
    scores = [e.scores for e in list(job.events) if isinstance(e, BlockScored)] if job else []
    if not scores or job is None or job.active:
        return ""
    means = {s.block: s.mean_interval()[0] for s in scores}
    most, least = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    highest, lowest = written_alike((means[most], means[least]))
    return (
        f"On the map as measured: block {most} has the highest mean, {highest}, "
        f"and block {least} the lowest, {lowest}."
    )


def reasons() -> str:
    """How far block means of M-Loss go with each of their two factors."""
    job = session.job_of("theory_job")
    theories = [e for e in list(job.events) if isinstance(e, BlockTheory)] if job else []
    if len(theories) < 3 or job is None or job.active:
        return ""
    top = max(theories, key=lambda b: b.scores.node.mean())
    parts = []
    for name in ("curvature", "variance"):
        means = np.array([getattr(b.factors, name).mean() for b in theories])
        here = getattr(top.factors, name).mean()
        place = int((means > here).sum()) + 1
        parts.append(f"{name} {written(here / means.mean())} times ({place}. of {len(theories)})")
    return (
        f"As it was measured: block {top.scores.block} has the highest M-Loss. Beside the mean of "
        f"all blocks it has {' and '.join(parts)}."
    )


FACTS: dict[str, Callable[[], str]] = {"brightest": brightest, "reasons": reasons}
