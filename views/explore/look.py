"""A node's side card: its gap as a figure's numbers, and which source causes it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mloss_core import MlossError
from mloss_core.analysis.node import activated_at, gap, node_of
from views.jobs import kinds, live
from views.state import session
from views.state.error_text import error_text

GLANCE = 0.03
POINTS = 48  # of the drawn curve


async def answer(query: Mapping[str, str]) -> dict[str, Any]:
    """What the card of `node`, block:node, shows; an error in words where it cannot be."""
    try:
        chosen, wrong = await asyncio.to_thread(session.of_link, query)
        match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", query.get("node", ""))
        if wrong or match is None:
            return {"error": wrong[0] if wrong else "node: give a block and a node, as 3:17"}
        family = session.load(chosen["family"])
        recipe = live.map_recipe(session.recipe_of(chosen, family))
        block, number = int(match[1]), int(match[2])
        job = kinds.look(family, recipe, block)
        while job.active:
            await asyncio.sleep(GLANCE)
        if job.result is None:
            return {"error": job.error or "no longer measured: point at it again"}
        node = node_of(job.result, number, family.model.activation, recipe.alpha)
        return await asyncio.to_thread(card, node, [family.title(s) for s in recipe.sources])
    except MlossError as error:
        return {"error": error_text(error)}


def card(node: Any, titles: list[str]) -> dict[str, Any]:
    """The gap at a typical token, the activation's curve around it, and each source's share."""
    image, token = node.typical()
    at = gap(node.h[:, image, token], node.act, node.alpha)
    low, high = float(min(at.h.min(), -1.0)), float(max(at.h.max(), 1.0))
    x = np.linspace(low - 0.1 * (high - low), high + 0.1 * (high - low), POINTS)
    without = node.without()
    return {
        "block": node.block,
        "node": node.node,
        "loss": float(node.losses().mean()),
        "curve": [x.tolist(), activated_at(x, node.act).tolist()],
        "sources": titles,
        "h": at.h.tolist(),
        "activated": at.activated.tolist(),
        "mean": at.mean,
        "merged": at.merged,
        "ensembled": at.ensembled,
        "without": None if without is None else without.tolist(),
        "spread": node.spread().tolist(),
    }
