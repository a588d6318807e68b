"""What the server tells an open Explore view: a live merge as it goes on, as lines of JSON.

The view asks by a link's own fields. Each line holds parts of a picture (`picture`) that are known
anew, and a word on how far the work is.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mloss_core import BlockMerged, BlockScored, Family, MlossError
from mloss_core.analysis.left import BlockLeft
from views.explore import picture, shipped
from views.explore.picture import Hits, Picture
from views.jobs import kinds, live
from views.state import allowed, session
from views.state.error_text import error_text
from views.state.job_board import Job

GLANCE = 0.03  # seconds between two looks at a job
GRIDDED = ("m-ties", "ties")  # methods that the coarse grid knows
VISITOR = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass
class _Sent:
    """What one view has of a job."""

    events: int = -1  # how many it has heard of; at first not even that there are none
    parts: set[str] = field(default_factory=set)
    readouts: int = 0

    def new(self, part: str) -> bool:
        """Whether it is news."""
        fresh = part not in self.parts
        self.parts.add(part)
        return fresh


async def lines(query: Mapping[str, str]) -> AsyncIterator[str]:
    """The answer to a view's question, a line at a time.

    Args:
        query: fields of a link; "visitor", who asks; "former", the job of the setting before; or
            "follow", a launched job to tell of instead of a live merge.
    """
    try:
        async for parts in _parts(query):
            yield json.dumps(parts) + "\n"
    except MlossError as error:
        yield json.dumps({"error": error_text(error)}) + "\n"


async def _parts(query: Mapping[str, str]) -> AsyncIterator[Picture]:
    chosen, wrong = await asyncio.to_thread(session.of_link, query)
    if wrong:
        yield {"error": wrong[0]}
        return
    family = session.load(chosen["family"])
    recipe = session.recipe_of(chosen, family)
    former = session.board().get(query.get("former", ""))
    if "follow" in query:
        job = session.board().get(query["follow"])
        if job is None:
            yield {"end": True}
            return
        async for parts in _followed(job, family, former):
            yield parts
        async for parts in _references(family):
            yield parts
        yield {"end": True}
        return
    visitor = query.get("visitor", "")
    if not VISITOR.fullmatch(visitor):
        yield {"error": "visitor: give letters, digits and -"}
        return
    if why_not := allowed.why_only_looking():
        yield {"note": why_not, "end": True}
        return
    if why_not := live.why_not(recipe):
        yield {"note": f"Not live: {why_not}. Launch it.", "end": True}
        return
    job = live.ask(visitor, family, recipe)
    async for parts in _followed(job, family, former):
        yield parts
    if job.state == "finished":
        async for parts in _followed(live.details(visitor, family, recipe), family, None):
            yield parts
        async for parts in _references(family):
            yield parts
        if recipe.method in GRIDDED and not shipped.grid_and_map(family, live.grid_of(recipe)):
            cells = live.grid(family, recipe)
            while cells.active:
                await asyncio.sleep(1.0)
            if cells.state == "finished":
                yield {"grid": grid_of(cells)}
    yield {"end": True}


async def _references(family: Family) -> AsyncIterator[Picture]:
    """What merges stand beside, once it is measured; wider families measure it when launched."""
    if family.model.width > kinds.NARROW:
        return
    job = kinds.references(family)
    while job.active:
        await asyncio.sleep(0.5)
    hits = kinds.known_references(family)
    yield {"references": picture.references_of(hits, kinds.own_tasks(family))}


async def _followed(job: Job, family: Family, former: Job | None) -> AsyncIterator[Picture]:
    """All that becomes known of a job, until it has ended."""
    sent, active = _Sent(), True
    while active:
        active = job.active
        events = list(job.events)
        if len(events) != sent.events or not active:
            sent.events = len(events)
            yield {"status": status(job, events, family.model.blocks), "share": job.share}
            for parts in await asyncio.to_thread(
                lambda e=events: list(news(job, e, family, former, sent))
            ):
                yield parts
        if active:
            await asyncio.sleep(GLANCE)
    if job.state == "failed":
        yield {"error": job.error}
    elif job.state == "finished" and job.kind != "details":
        yield {"took": job.seconds}


def news(
    job: Job, events: Sequence[object], family: Family, former: Job | None, sent: _Sent
) -> Iterator[Picture]:
    """What of a job is known and has not been sent."""
    blocks, tasks = family.model.blocks, kinds.own_tasks(family)
    scores = [e.scores for e in events if isinstance(e, BlockScored)]
    if len(scores) == blocks and sent.new("scores"):
        yield {"scores": picture.scores_of(scores, live.map_recipe(job.spec))}
    # Looked for at every event until it is there, and packed once.
    lacks = "merged" not in sent.parts and job.kind != "details"
    if lacks and (merged := picture.merged_of(events, family)) and sent.new("merged"):
        yield {"merged": merged}
    yield from _readouts(job, events, former, tasks, sent)
    lacks = "after" not in sent.parts
    if lacks and (after := picture.after_of(events, tasks, blocks)) and sent.new("after"):
        yield {"after": after | {"along": picture.setting_of(job.spec)}}
    left = [e for e in events if isinstance(e, BlockLeft)]
    if len(left) == blocks and sent.new("left"):
        yield {"left": picture.left_of(left), "left_along": picture.setting_of(job.spec)}
    references = kinds.known_references(family)
    if references and sent.new(f"references {len(references)}"):
        yield {"references": picture.references_of(references, tasks)}


def _readouts(
    job: Job, events: Sequence[object], former: Job | None, tasks: Sequence[str], sent: _Sent
) -> Iterator[Picture]:
    """The newest stage of which all tasks are known; all images only once TIES has them, too."""
    alone = job.spec.method == "ties"
    merged = picture.stage_hits(events, "merged", ("quick", "full"))
    beside = ("quick", "full") if job.kind == "live" else ("before", "references")
    ties = picture.stage_hits(events, "ties", beside)
    for rank, (ours, others) in enumerate(zip(merged, ties, strict=True)):
        both = alone or others.keys() == set(tasks)
        waits = rank == 1 and not both and job.kind == "live"
        if not tasks or ours.keys() != set(tasks) or waits:
            continue
        newest = 1 + 2 * rank + both
        if newest > sent.readouts:
            sent.readouts = newest
            other = others if others.keys() == set(tasks) else {}
            readouts = picture.readouts_of(ours, other, _hits_of(former))
            yield {"readouts": readouts | {"job": job.id}}  # what the next setting is paired with


def _hits_of(job: Job | None) -> Hits:
    """The newest whole answers of a merge that was shown before."""
    if job is None:
        return {}
    quick, full = picture.stage_hits(list(job.events), "merged", ("quick", "full"))
    return full if full.keys() == quick.keys() else quick


def status(job: Job, events: Sequence[object], blocks: int) -> str:
    """How far a merge is, in a few words."""
    if job.kind == "details":
        return ""
    if job.state == "queued":
        return "waiting for the work before it"
    if job.state in ("failed", "cancelled"):
        return job.state
    merged = sum(isinstance(event, BlockMerged) for event in events)
    if merged < blocks:
        return f"merging block {merged} of {blocks}"
    if not any(picture.stage_hits(events, "merged", ("quick", "full"))):
        return "merged; measuring"
    return "measuring all images" if job.active else ""


def so_far(job: Job, family: Family) -> Picture:
    """All that is known of a job by now."""
    known: Picture = {}
    for parts in news(job, list(job.events), family, None, _Sent()):
        known |= parts
    return known


def grid_of(job: Job) -> dict[str, Any]:
    """The cells of a grid that are known, as the view interpolates between them."""
    cells = [event for event in list(job.events) if isinstance(event, live.GridCell)]
    return {
        "keeps": list(live.KEEPS),
        "shares": list(live.SHARES),
        "scaling": job.spec.scaling,
        "images": cells[0].images if cells else 0,
        "cells": [{"keep": c.keep, "share": c.share, "rates": c.rates} for c in cells],
    }
