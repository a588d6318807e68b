"""Session state: a visitor's choices, their way into the URL and back, shared resources.

The state is one small dict of plain values in `st.session_state.chosen`. Widgets are drawn from it
and write to it (`views/shared/widgets.py`). The shell puts it into the URL after each run: a
reload, a page switch and a shared link all lead to the same choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st
import torch

from mloss_core import (
    METHODS,
    Evaluator,
    Family,
    InputError,
    MergeRecipe,
    families,
    geometry,
    load,
)
from mloss_core.analysis.task_vectors import Geometry
from mloss_core.data import calibration
from mloss_core.fields import FIELDS as OF_RECIPE
from mloss_core.hardware.device import choose
from mloss_core.recipe import check
from mloss_core.tensor_cache import TensorCache
from views.state import allowed, tour_steps
from views.state.error_text import error_text
from views.state.job_board import GAVE_WAY, IDLE, Job, JobBoard
from views.state.link import FIELDS, defaults, fields

# Settings that few methods read, and the others refuse: chosen, they wait for one that does.
WAITING = ("after", "norms")


@st.cache_resource(show_spinner=False)
def board() -> JobBoard:
    """The job board of this server."""
    return JobBoard(admit=allowed.admit)


def device() -> torch.device:
    """Where all jobs of this server compute."""
    return choose("auto")


@st.cache_resource(show_spinner=False)
def evaluator(family: str) -> Evaluator:
    """The evaluator of a family; only the job worker may compute with it."""
    return Evaluator(load(family), device())


@st.cache_resource(show_spinner=False)
def tensor_cache() -> TensorCache:
    """The tensors of sources that are merged again and again; only the job worker may use it."""
    return TensorCache(keeps=True)


@st.cache_data(show_spinner="Measuring task vectors…", max_entries=64)
def cached_geometry(family: str, sources: tuple[str, ...], hashes: tuple[str, ...]) -> Geometry:
    """Norms and cosines of task vectors, by the files' content."""
    return geometry(load(family), sources)


@st.cache_data(show_spinner=False, max_entries=64)
def _pool(path: Path, changed: int, tasks: tuple[str, ...]) -> int:
    """Calibration images of these tasks, by the pool's time of change."""
    return calibration.pool_size(path, tasks)


def pool_size(family: Family, sources: Sequence[str]) -> int:
    """How many calibration images there are for these sources, at least 1."""
    pool = family.calibration_pool
    try:
        return max(1, _pool(pool, pool.stat().st_mtime_ns, family.pool_tasks(sources)))
    except (InputError, OSError):
        return 128  # the job will say what is wrong with the file


def usual(family: Family) -> dict[str, str]:
    """What a first visit starts from."""
    return defaults(family, pool_size(family, family.sources))


def start() -> list[str]:
    """Fills the state from the link on a session's first run; returns what was wrong with it,
    again on every run until it is dismissed: a page may run again before anybody has read it."""
    if "chosen" not in st.session_state:
        chosen, wrong = of_link(st.query_params.to_dict())
        st.session_state.chosen, st.session_state.wrong = chosen, wrong
    return st.session_state.wrong


def of_link(query: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The state that a link describes, and what was wrong with it."""
    wrong = []
    try:
        family = load(query.get("family", "demo"))
    except InputError as error:
        wrong.append(f"{error_text(error)}. Another family is shown.")
        names = families()
        family = load("demo" if "demo" in names else names[0])
    chosen, of_family = usual(family), fields(family)
    for key in ("tour", *(key for key in FIELDS if key not in ("tour", "family"))):
        if key not in query:
            continue
        try:
            of_family[key].parse(query[key])
        except InputError as error:
            problem = error.labelled(of_family[key].label)
            text = " ".join(query[key].split())[:60]
            wrong.append(f"{problem}. In the link, {key}={text} was not used.")
            continue
        chosen[key] = query[key]
        if key == "tour":  # the link holds what differs from the step's own settings
            chosen |= tour_steps.settings(query[key], family.model.blocks)
    return chosen, wrong + _mended(chosen, family)


def _mended(chosen: dict[str, str], family: Family) -> list[str]:
    """What is valid by itself and not with the rest: that field alone goes back to what fits."""
    wrong = []
    most = pool_size(family, tuple(filter(None, chosen["sources"].split(","))))
    if int(chosen["samples"]) > most:
        wanted, chosen["samples"] = chosen["samples"], str(most)
        wrong.append(
            f"{FIELDS['samples'].label} {wanted}: the calibration pool holds {most} images for "
            f"these sources. {most} are used."
        )
    k, e = float(chosen["keep"]), float(chosen["variation"])
    if e > k:
        chosen["variation"] = chosen["keep"]
        wrong.append(
            f"{FIELDS['variation'].label} {e:g}: is more than the base keep rate k = {k:g}. "
            f"e = {k:g} is used."
        )
    try:
        check(recipe_of(chosen, family), family)
    except InputError as error:
        wrong.append(f"{error_text(error)}. The settings of the link were not used.")
        chosen |= usual(family)
    return wrong


def dismiss() -> None:
    """What was wrong with the link has been read."""
    st.session_state.wrong = []


def remember() -> None:
    """Puts the state into the URL, without what is as it would be anyway, on a step of the tour
    with what the step sets."""
    family = current_family()
    chosen = st.session_state.chosen
    initial = usual(family) | tour_steps.settings(chosen["tour"], family.model.blocks)
    link = {k: chosen[k] for k in FIELDS if chosen[k] != initial[k] or k == "family"}
    if st.query_params.to_dict() != link:
        st.query_params.from_dict(link)


def chosen(key: str) -> str:
    """A field of the state, as text."""
    return st.session_state.chosen[key]


def choose_value(key: str, value: str) -> None:
    """Changes a field of the state."""
    st.session_state.chosen[key] = value


def replace(state: dict[str, str]) -> None:
    """Makes another state the choice; the widgets that are shown start from it."""
    st.session_state.chosen = state
    st.session_state.drawn = st.session_state.get("drawn", 0) + 1


def widget(name: str) -> str:
    """The key of a widget that starts from the choice: another one when the choice was replaced,
    since a widget that keeps its key keeps its value, too."""
    drawn = st.session_state.get("drawn", 0)
    return f"{name}-{drawn}" if drawn else name


def lecture() -> bool:
    """Whether what a class does not need is hidden."""
    return chosen("view") == "lecture"


def current_family() -> Family:
    """The chosen family; its folder is read anew, so that added sources show."""
    return load(chosen("family"))


def chosen_sources() -> tuple[str, ...]:
    """The chosen sources, in the family's order."""
    return tuple(name for name in chosen("sources").split(",") if name)


def recipe_of(state: Mapping[str, str], family: Family, **changes: Any) -> MergeRecipe:
    """The recipe that a state describes; raises InputError."""
    values: dict[str, Any] = {
        name: field.parse(state[field.link]) for name, field in OF_RECIPE.items() if field.link
    }
    values["weights"] = _alpha(values["weights"], values["sources"])
    if values["tokens"] == family.model.tokens:
        values["tokens"] = None
    values |= {"family": family.name, **changes}
    reads = METHODS[values["method"]].reads if values["method"] in METHODS else WAITING
    values |= {name: OF_RECIPE[name].default for name in WAITING if name not in reads}
    return MergeRecipe(**values)


def current_recipe(**changes: Any) -> MergeRecipe:
    """The recipe of this visitor's choice, with changes."""
    return recipe_of(st.session_state.chosen, current_family(), **changes)


def _alpha(parts: tuple[float, ...] | None, sources: tuple[str, ...]) -> tuple[float, ...] | None:
    """Merging weights from relative parts such as 1, 1, 2; None where all are equal."""
    if parts is None or (len(set(parts)) == 1 and parts[0] > 0 and len(parts) == len(sources)):
        return None
    total = math.fsum(parts)
    if total <= 0 or abs(total - 1) < 1e-12:  # a run's own weights stay as they are, to the bit
        return parts
    return tuple(part / total for part in parts)


def job_of(key: str) -> Job | None:
    """The job whose id stands in the state under "score_job" or its like."""
    return board().get(chosen(key)) if chosen(key) else None


def head_start(job: Job, seconds: float = 2.0) -> None:
    """Waits for a job that has just begun: most are done in a second or two, and drawing beside the
    work slows both. If it is not, the page is drawn again, so that its strip shows the job."""
    with st.spinner("Measuring…"):
        job.wait(seconds)
    if job.active:
        remember()
        st.rerun()


def at(page: str) -> None:
    """The visitor is on this page: what other pages of his began by themselves stands back."""
    st.session_state.page = page
    for name, of in list(st.session_state.setdefault("begun", {}).items()):
        job = board().get(name)
        if job is None or not job.active:
            del st.session_state.begun[name]
        elif of != page:
            board().move(job, IDLE)


def begun(job: Job) -> Job:
    """A job that the page began by itself: it goes after all that anybody asked for, and before
    what the pages that were left have begun."""
    st.session_state.setdefault("begun", {})[job.id] = st.session_state.get("page", "")
    board().move(job, GAVE_WAY)
    allowed.stands_back(job)
    return job


def looked_at(job: Job) -> None:
    """A job that is found again: if a page began it by itself, it goes on for this one."""
    if job.active and job.id in st.session_state.get("begun", {}):
        begun(job)


def while_active(job: Job | None, seconds: float = 1.0) -> Callable:
    """A fragment decorator that redraws as long as the job works, then the whole page once."""
    watched = job if job is not None and job.active else None

    def decorate(draw: Callable[[], None]) -> Callable[[], None]:
        @st.fragment(run_every=seconds if watched else None)
        def fragment() -> None:
            draw()
            if watched and not watched.active:
                st.rerun()

        return fragment

    return decorate
