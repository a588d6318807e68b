"""Background jobs that explain a map: M-Loss factors, one block's inputs, leave-one-out sets."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any

import streamlit as st

from mloss_core import Family, MergeRecipe
from mloss_core.compatibility import compatibility_sets
from mloss_core.culprits import losses_along
from mloss_core.seen import TracedBlock, trace_blocks

from . import session, work
from .jobs import Job

KEPT = 2  # blocks that stay looked into: each holds its inputs of all images
Events = Generator[Any, None, None]


def factors_job(family: Family, recipe: MergeRecipe) -> Job | None:
    """Both factors of every node, the Theory page's own job."""
    ask = "Measure curvature and variance"
    return _job_or_button(family, "theory", recipe, ask, lambda: work.theory(family, recipe))


def block_job(family: Family, recipe: MergeRecipe, block: int) -> Job | None:
    """What a block's c_fc sees; the result is that of `TracedBlock.on_cpu`."""
    spec = (recipe, block)

    def events() -> Events:
        def kept(block_data: TracedBlock) -> TracedBlock | None:
            return block_data.on_cpu() if block_data.scores.block == block else None

        with contextlib.closing(trace_blocks(recipe, family, kept)) as blocks:
            for block_data in blocks:
                yield block_data
                if block_data is not None:
                    return

    def begin() -> Job:
        return session.board().submit(
            "look", f"Looking into block {block}", events, spec=spec, steps=block + 1,
            finish=lambda log: log[-1], keep=KEPT,
        )  # fmt: skip

    return _job_or_button(family, "look", spec, f"Look into block {block}", begin)


def culprits_job(family: Family, recipe: MergeRecipe) -> Job | None:
    """M-Loss of all sources, of all but each one, and of all pairs, along the map's merge."""

    def begin() -> Job:
        return session.board().submit(
            "culprits", "M-Loss without each source",
            lambda: (block for block in losses_along(recipe, family, compatibility_sets(recipe))),
            spec=recipe, steps=family.model.blocks,
        )  # fmt: skip

    return _job_or_button(family, "culprits", recipe, "Measure M-Loss without each source", begin)


def map_job(family: Family, recipe: MergeRecipe, what: str) -> Job | None:
    """The map of that recipe, recorded as a run.

    Args:
        what: the map in words, for the button.
    """
    ask = f"Measure M-Loss {what}"
    return _job_or_button(family, "score", recipe, ask, lambda: work.score(family, recipe))


def _job_or_button(
    family: Family, kind: str, spec: Any, label: str, begin: Callable[[], Job]
) -> Job | None:
    """The job of that kind and spec. Small families begin it by themselves; else, and after it
    failed or was cancelled, a button does."""
    job = session.board().last(kind, spec)
    if job is not None and job.state in ("queued", "running", "finished"):
        return job
    alone = job is None and family.model.width <= work.NARROW
    if alone or st.button(label, key=f"ask-{kind}-{hash(spec)}"):
        job = begin()
        session.head_start(job)
    return job
