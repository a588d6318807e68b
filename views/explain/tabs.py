"""Tabs of the Explain page: what explains the map, and what the chosen recipe's merge leaves."""

from __future__ import annotations

import streamlit as st

from mloss_core import BlockScored, Family, InputError, MergeRecipe
from mloss_core.analysis.curvature import SMOOTH
from mloss_core.analysis.node import Node, node_of
from views.explain import (
    alignment,
    chosen,
    few_blocks,
    leave_one_out,
    left,
    node_picker,
    routing,
    two_maps,
    why,
)
from views.jobs import kinds, strip
from views.state import session
from views.state.explain_fields import TABS
from views.state.job_board import Job

MEASURED = {"merged": "along the merge", "pretrained": "before the merge"}


def show(family: Family, job: Job | None) -> None:
    """Explains the map of a score job and the merge of the chosen recipe; nothing while the map is
    measured. Without a map, what needs none is shown all the same."""
    if job is not None and job.active:
        return
    try:
        recipe = session.current_recipe()
    except InputError:
        return  # the page says what is wrong
    losses = _losses(job)
    place = node_picker.choose(family, losses) if losses else (node_picker.block_alone(family), 0)
    opened = _tabs()
    for name, tab in opened.items():
        with tab:
            if tab.open and name in OF_MERGE:
                OF_MERGE[name](family, recipe, place[0])
            elif tab.open and job is not None and losses:
                _of_map(name, family, job, place)
            elif tab.open:
                st.info("This explains the map, which is not measured: see above.")


def _losses(job: Job | None) -> dict:
    """The nodes' M-Loss of each block of a finished map."""
    if job is None or job.state != "finished":
        return {}
    return {e.scores.block: e.scores.node for e in list(job.events) if isinstance(e, BlockScored)}


def _of_map(name: str, family: Family, job: Job, place: tuple[int, int]) -> None:
    """A tab that explains the map."""
    recipe: MergeRecipe = job.spec
    if name == "why":
        _why(family, recipe, place)
    elif name == "source":
        _source(family, recipe, place)
    elif name == "runs":
        two_maps.show(family, recipe)
    else:
        _blocks(family, job)


# What looks at the merge of the chosen recipe, whatever its method.
OF_MERGE = {
    "left": lambda family, recipe, block: left.show(family, recipe),
    "alignment": alignment.show,
    "routing": routing.show,
}


def _tabs() -> dict:
    """The tabs; the open one is in the link."""
    titles, key = list(TABS.values()), session.widget("w-explain")

    def tab_changed() -> None:
        place = titles.index(st.session_state[key])
        session.choose_value("explain", list(TABS)[place])

    tabs = st.tabs(titles, default=TABS[session.chosen("explain")], key=key, on_change=tab_changed)
    return dict(zip(TABS, tabs, strict=True))


def _why(family: Family, recipe: MergeRecipe, place: tuple[int, int]) -> None:
    look = kinds.block_job(family, recipe, place[0])
    smooth = family.model.activation in SMOOTH
    explain = kinds.factors_job(family, recipe) if smooth else None
    if explain is not None:
        session.choose_value("theory_job", explain.id)  # its maps are the Theory page's, too

    def draw() -> None:
        strip.outcome(look, gone=False)
        strip.progress(_active(look, explain))
        node = _node(family, recipe, place[1], look)
        why.show(family, recipe.sources, place, node, explain)

    session.while_active(_active(look, explain))(draw)()


def _source(family: Family, recipe: MergeRecipe, place: tuple[int, int]) -> None:
    many = len(recipe.sources) > 2
    look = kinds.block_job(family, recipe, place[0]) if many else None
    job = kinds.culprits_job(family, recipe) if many else None

    def draw() -> None:
        strip.outcome(look, gone=False)
        strip.progress(_active(look, job))
        node = _node(family, recipe, place[1], look)
        leave_one_out.show(family, recipe, place[0], node, job)

    session.while_active(_active(look, job))(draw)()


def _blocks(family: Family, job: Job) -> None:
    """The choice of few blocks, what it costs and covers, and merges with it."""
    events = [e for e in job.events if isinstance(e, BlockScored)]
    scores = [e.scores for e in events]
    chosen.choice(family, job.spec, scores, sum(e.seconds for e in events))
    if not session.lecture():
        chosen.table(family, events)
    chosen.nodes_of(family, scores)
    few_blocks.show(family, job.spec)


def _active(*jobs: Job | None) -> Job | None:
    """The first that still works."""
    return next((job for job in jobs if job is not None and job.active), None)


def _node(family: Family, recipe: MergeRecipe, number: int, look: Job | None) -> Node | None:
    """The node itself, once its block is looked into."""
    if look is None or look.result is None:
        return None
    return node_of(look.result, number, family.model.activation, recipe.alpha)
