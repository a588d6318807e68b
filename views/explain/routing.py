"""Where SMILE sends tokens: by task and source, by block, and over one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import streamlit as st
from jaxtyping import Float, Int, UInt8

from mloss_core import METHODS, Family, MergeRecipe
from views.explain import routing_figures
from views.jobs import analyses, strip
from views.jobs.analyses import BlockRoutes, Routed
from views.shared import nav
from views.state import session
from views.state.bound import bound
from views.state.explain_fields import PARTS
from views.state.job_board import Job

SMILE = "smile"


def show(family: Family, recipe: MergeRecipe, block: int) -> None:
    """The job, and what it has measured so far; or that this method does not route.

    Args:
        block: that is looked at.
    """
    if recipe.method != SMILE:
        st.info(
            f"Only {METHODS[SMILE].title} routes: it keeps a small expert of every source, and "
            "each linear layer gives each token to one of them. The chosen method is "
            f"{METHODS[recipe.method].title}."
        )
        nav.next_step("explore", "Choose SMILE on the Explore page")
        return
    st.markdown(
        "SMILE keeps a small **expert** of every source in each linear layer. A token goes to the "
        "source whose task vector answers it most strongly; nobody says which task the picture is "
        "of. Here is who gets which tokens of each task's calibration images."
    )
    job = analyses.routing_job(family, recipe)
    strip.followed(job, analyses.ROUTING, lambda job: _draw(family, recipe, job, block))


def _draw(family: Family, recipe: MergeRecipe, job: Job, block: int) -> None:
    events = list(job.events)
    routed = next((event for event in events if isinstance(event, Routed)), None)
    routes = {event.block: event.chosen for event in events if isinstance(event, BlockRoutes)}
    if routed is None or not routes:
        return
    layer = bound("layer", st.segmented_control)
    layers = list(range(len(PARTS))) if layer == "all" else [PARTS.index(layer)]
    tables = {b: _shares(chosen[layers], routed.tasks, recipe) for b, chosen in routes.items()}
    _both(family, recipe, routed, tables, block)
    if block in routes:
        st.markdown(f"#### One picture, block {block}")
        _picture(family, recipe, routed, routes[block], layers)
    session.remember()  # a fragment's own widgets are in the link, too


def _both(
    family: Family,
    recipe: MergeRecipe,
    routed: Routed,
    tables: dict[int, Float[np.ndarray, "tasks q"]],
    block: int,
) -> None:
    """The chosen block's table, and every block's share of tokens that go home."""
    tasks = list(dict.fromkeys(routed.tasks))
    left, right = st.columns([3, 2])
    with left:
        st.markdown(f"#### Block {block}: whose tokens go where?")
        if block in tables:
            names = [family.title(source) for source in recipe.sources]
            titles = [family.title(task) for task in tasks]
            figure = routing_figures.shares(tables[block], titles, names)
            alt = f"Share of each task's tokens that go to each source in block {block}"
            st.plotly_chart(figure, key="routes", alt=alt)
        else:
            st.caption("This block is not measured yet.")
    homes = home(family, recipe, tasks)
    blocks = np.full(family.model.blocks, np.nan)
    for number, table in tables.items():
        blocks[number] = (table * homes).sum(1).mean()
    chance = float((homes.sum(1) / len(recipe.sources)).mean())
    with right:
        st.markdown("#### Do they go to their own source?")
        alt = "Share of tokens that go to their task's own source, by block"
        st.plotly_chart(routing_figures.own(blocks, chance), key="routes-own", alt=alt)
    st.caption(
        f"{len(routed.tasks)} calibration images of {len(tasks)} tasks; all tokens, the class "
        f"token among them. Mean over the tasks and blocks: {np.nanmean(blocks):.1%} go to their "
        f"task's own source, {chance:.1%} by chance. In the last block only the class token goes "
        "on to the embedding."
    )


def home(family: Family, recipe: MergeRecipe, tasks: Sequence[str]) -> Float[np.ndarray, "tasks q"]:
    """1 where a source is a task's own, else 0."""
    own = [family.own_task(source) for source in recipe.sources]
    return np.array([[float(task == mine) for mine in own] for task in tasks])


def _shares(
    chosen: UInt8[np.ndarray, "layers n tokens"], tasks: Sequence[str], recipe: MergeRecipe
) -> Float[np.ndarray, "tasks q"]:
    """Of each task's tokens in these layers, the share that each source gets."""
    of = np.array(tasks)
    rows = []
    for task in dict.fromkeys(tasks):
        mine = chosen[:, of == task].ravel()
        rows.append(np.bincount(mine, minlength=len(recipe.sources)) / len(mine))
    return np.array(rows)


def _picture(
    family: Family,
    recipe: MergeRecipe,
    routed: Routed,
    chosen: UInt8[np.ndarray, "layers n tokens"],
    layers: Sequence[int],
) -> None:
    """One picture, and the source that each of its patches goes to."""
    left, right = st.columns([1, 3])
    with left:
        most = len(routed.tasks) - 1
        number = bound("picture", st.number_input, min_value=0, max_value=most, step=1)
        task = family.title(routed.tasks[number])
        words = f"A picture of {task}"
        st.image(routed.images[number], caption=words, width=200, alt=words)
    names = [family.title(source) for source in recipe.sources]
    places = [family.sources.index(source) for source in recipe.sources]
    grids = {PARTS[layer]: grid(chosen[layer, number]) for layer in layers}
    with right:
        figure = routing_figures.patches(grids, names, places)
        alt = f"The source that each patch of picture {number}, of {task}, goes to"
        st.plotly_chart(figure, key="routes-picture", alt=alt)
    first = ", ".join(f"{names[chosen[i, number, 0]]} in {PARTS[i]}" for i in layers)
    st.caption(f"A square is a patch, in its place. The class token goes to {first}.")


def grid(tokens: UInt8[np.ndarray, " tokens"]) -> Int[np.ndarray, "h w"]:
    """The patches' tokens in their places; the class token, which comes first, has none."""
    side = round((len(tokens) - 1) ** 0.5)
    return tokens[1:].reshape(side, side).astype(int)
