"""The Explore page's data and what its view sends: see `component` and `browser/`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from mloss_core import METHODS, Family, InputError, MergeRecipe, MlossError, RunRecord, load_run
from mloss_core.experiments.plans import papers_blocks
from mloss_core.fields import FIELDS as OF_RECIPE
from mloss_core.recipe import published
from mloss_core.runs.store import final_hits
from views.explore import component, picture, shipped, stream
from views.jobs import kinds, live
from views.runs import parts as runs
from views.shared import nav, readouts
from views.state import allowed, selection, session, tour_steps
from views.state.error_text import error_text
from views.state.job_board import Job
from views.state.link import FIELDS, RECIPE

OWN = ("method", "keep", "variation", "scaling", "blocks")  # what the view's own controls change
HIGHEST = 3  # blocks of the preset of highest M-Loss


def show(family: Family) -> None:
    """The view, in a fragment: what it sends draws nothing else anew."""

    @st.fragment
    def fragment() -> None:
        callbacks = {f"on_{name}_change": (lambda n=name: _sent(family, n)) for name in SENT}
        component.mount(contents(family), key=_key(), **callbacks)
        session.remember()
        match st.session_state.pop("explore-next", None):
            case "app":
                st.rerun()
            case "explain":
                st.switch_page(nav.page("explain"))
            case "compare":
                compared(family)

    fragment()


def _key() -> str:
    return session.widget("explore")


def _sent(family: Family, name: str) -> None:
    SENT[name](family, st.session_state[_key()][name])


def _setting(family: Family, sent: dict[str, Any]) -> None:
    """A setting that was let go of: into the choice, and so into the link."""
    blocks = sent["blocks"]
    values = {
        **{key: RECIPE[key].format(sent[key]) for key in OWN[1:4]},
        "method": sent["method"],
        "blocks": "all" if blocks is None else selection.text(blocks, family.model.blocks),
    }
    if values["method"] != session.chosen("method"):
        st.session_state["explore-next"] = "app"  # the gear shows what this method reads
        values |= published_settings(family, values["method"])
    for key, value in values.items():
        session.choose_value(key, value)


def published_settings(family: Family, method: str) -> dict[str, str]:
    """Settings that a newly chosen method is published with; what the former one was published
    with goes back to the family's own."""
    sources = session.chosen_sources()
    former = published(session.chosen("method"), family, sources)
    settings = published(method, family, sources)
    usual, fields = session.usual(family), {f.name: f for f in RECIPE.values()}
    back = {
        fields[name].link: usual[fields[name].link]
        for name, value in former.items()
        if session.chosen(fields[name].link) == fields[name].format(value)
    }
    return back | {fields[n].link: fields[n].format(value) for n, value in settings.items()}


def _look(family: Family, sent: dict[str, str]) -> None:
    for key, value in {
        "by": sent["by"],
        "colours": sent["scale"],
        "scores": sent["scores"],
    }.items():
        session.choose_value(key, value)


def _node(family: Family, sent: str) -> None:
    session.choose_value("node", sent)


def _launch(family: Family, sent: dict[str, Any]) -> None:
    _setting(family, sent)
    if allowed.why_no_job():
        return  # the button was disabled and says why
    job = kinds.merge(family, session.current_recipe())
    session.choose_value("merge_job", job.id)
    st.session_state["explore-next"] = "app"  # so that the strip shows it


def _compare(family: Family, sent: dict[str, Any]) -> None:
    st.session_state["explore-next"] = "compare"


def _explain(family: Family, sent: dict[str, Any]) -> None:
    st.session_state["explore-next"] = "explain"


SENT = {
    "setting": _setting, "look": _look, "node": _node, "launch": _launch, "compare": _compare,
    "explain": _explain,
}  # fmt: skip


def contents(family: Family) -> dict[str, Any]:
    """What the view draws from: the family, the choice, and what is known of it already."""
    launched = session.job_of("merge_job")
    recipe, shown, problem = None, {"picture": {}, "settled": False}, ""
    try:
        recipe = session.current_recipe()
        shown = _picture(family, recipe, _job(recipe, launched))
    except InputError as error:
        problem = error_text(error)
    return {
        **frame(family, st.session_state.chosen),
        "epoch": st.session_state.get("drawn", 0),
        "visitor": allowed.visitor(),
        "live": not problem and is_live(family),
        "follow": launched.id if launched is not None and launched.active else "",
        "said": _outcome(launched),
        "barred": allowed.why_no_job(),
        "kept": _kept(launched),
        "isKept": launched is not None and bool(launched.result) and launched.spec == recipe,
        "problem": problem,
        **shown,
    }


def frame(family: Family, state: Mapping[str, str]) -> dict[str, Any]:
    """The part of it that the family and the choice decide."""
    own = {name: OF_RECIPE[name].parse(state[OF_RECIPE[name].link]) for name in OWN}
    return {
        "family": family.name,
        "blocks": family.model.blocks,
        "nodes": family.model.nodes,
        "group": min(int(state["group"]), family.model.nodes),
        "sources": state["sources"].count(",") + 1 if state["sources"] else 0,
        "tasks": [{"name": t, "title": family.title(t)} for t in kinds.own_tasks(family)],
        "methods": methods(),
        "help": {key: FIELDS[key].help for key in OWN},
        "presets": presets(family),
        "base": urlencode({key: state[key] for key in RECIPE if key not in OWN}),
        "setting": own | {"blocks": None if own["blocks"] is None else list(own["blocks"])},
        "look": {"by": state["by"], "scale": state["colours"], "scores": state["scores"]},
        "ranks": state["ranks"],
        "lecture": state["view"] == "lecture",
        "target": tour_steps.target(state["tour"]),
    }


def is_live(family: Family) -> bool:
    """Whether every move is merged at once: on at first for small families."""
    choice = session.chosen("live")
    if allowed.why_only_looking():
        return False
    return choice == "on" or (not choice and family.model.width <= kinds.NARROW)


def _job(recipe: MergeRecipe, launched: Job | None) -> Job | None:
    """The newest job that knows something of this very recipe."""
    if launched is not None and launched.spec == recipe and launched.state == "finished":
        return launched
    return session.board().find("live", recipe)


def _picture(family: Family, recipe: MergeRecipe, job: Job | None) -> dict[str, Any]:
    """What of the picture is known, and whether nothing is left to ask for."""
    tasks = kinds.own_tasks(family)
    measured = picture.references_of(kinds.known_references(family), tasks)
    shown: picture.Picture = {
        **shipped.references(family),
        **shipped.grid_and_map(family, live.grid_of(recipe)),
        **shipped.picture(family, recipe),
    }
    shown["references"] = shown.get("references", {}) | measured
    jobs = (job, session.board().find("details", recipe))
    for each in jobs:
        if each is not None:
            shown |= stream.so_far(each, family)
    settled = all(each is not None and each.state == "finished" for each in jobs)
    return {"picture": shown, "settled": settled}


def methods() -> list[dict[str, Any]]:
    """The table of methods, as far as the view needs it."""
    return [
        {
            "name": name,
            "title": method.title,
            "line": f"{method.explanation} {method.paper}.",
            "reads": list(method.reads),
            "nodeWise": method.node_wise,
        }
        for name, method in METHODS.items()
    ]


def presets(family: Family) -> list[dict[str, Any]]:
    """Choices of blocks with a name: all, none, the paper's few, this family's highest."""
    count = family.model.blocks
    named: list[dict[str, Any]] = [
        {"label": "all", "blocks": None},
        {"label": "none (TIES)", "blocks": []},
    ]
    for blocks in papers_blocks(count):
        scaled = "" if count == 12 else ", scaled"
        label = f"the paper's blocks (ViT-B/32{scaled})" if 0 in blocks else "… without block 0"
        named.append({"label": label, "blocks": list(blocks)})
    return [*named, {"label": f"this family's {HIGHEST} highest", "highest": HIGHEST}]


def _outcome(job: Job | None) -> str:
    """What became of a launched merge that left no result."""
    if session.chosen("merge_job") and job is None:
        return "The job of this link is gone: the server was started anew."
    if job is None or job.state not in ("failed", "cancelled"):
        return ""
    return job.error if job.state == "failed" else f"Cancelled: {job.title}."


def _kept(job: Job | None) -> dict[str, str] | None:
    """The launched merge's file."""
    run = _run_of(job)
    if job is None or run is None or run.model is None or session.lecture():
        return None
    size = f"{run.model.stat().st_size / 1e6:.1f} MB"
    return {"href": f"/download/{run.id}", "size": size, "words": readouts.summary(job.spec)}


def _run_of(job: Job | None) -> RunRecord | None:
    if job is None or not job.result:
        return None
    try:
        return load_run(job.result)
    except MlossError:
        return None  # it may have been deleted since


@st.dialog("Compare", width="large")
def compared(family: Family) -> None:
    """The launched merge beside what it stands against, and its files."""
    job = session.job_of("merge_job")
    if job is None or job.state != "finished":
        st.info(
            "Nothing is kept yet. *Launch and keep* merges, measures base, own sources, TIES and "
            "the ensemble on all test images, and this shows them side by side. Two or more kept "
            "merges are compared on the Runs page."
        )
        return
    hits = final_hits(list(job.events))
    st.markdown(f"**{readouts.plain(readouts.summary(job.spec))}**")
    readouts.final(family, hits, job.spec.method)
    runs.beside_reference(family, hits)
    if (run := _run_of(job)) is not None:
        runs.download_links(run)
    nav.next_step("runs", "All merges that are kept")
