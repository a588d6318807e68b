"""What the Lab learns: a task of the family, or pictures that a visitor draws or brings."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from mloss_core import Family, InputError
from mloss_core.data.names import visible
from mloss_core.data.tasks import comparable
from mloss_core.errors import BadValue
from mloss_core.families.folders import roots
from mloss_core.families.layouts import is_family
from mloss_core.training.lesson import LEAST, Lesson, of_pictures, of_task, renamed
from views.lab import pad
from views.shared import readouts
from views.state import allowed, session
from views.state.bound import bound
from views.state.lab_fields import OWN, tasks

KINDS = ["png", "jpg", "jpeg", "webp", "bmp", "gif"]
IN_A_ROW = 4  # their number and their names
MOST = 20  # classes of a visitor's own


def lesson(family: Family) -> Lesson | None:
    """What is to be learnt; None where there are no pictures yet. Raises InputError."""
    choices = tasks(family)
    at = session.chosen("lab_task") or next(iter(choices))
    picked = st.selectbox(
        "What is learnt", list(choices), index=list(choices).index(at) if at in choices else 0,
        format_func=lambda name: choices[name], key=session.widget(f"w-lab-task-{family.name}"),
        help="Of a task, four in five validation pictures are trained on; its test pictures never.",
    )  # fmt: skip
    session.choose_value("lab_task", "" if picked == next(iter(choices)) else picked)
    if picked != OWN:
        return _kept(("task", family.name, picked), lambda: of_task(family, picked))
    if why := allowed.why_only_looking():
        st.info(why)
        return None
    return _own(family)


def _own(family: Family) -> Lesson | None:
    """A visitor's pictures. Those of before stay until others are brought: what was put into the
    page is gone when somebody comes back from another one, and is not lost for that."""
    way = bound("lab_from", st.segmented_control)
    skip = way != "draw" and st.checkbox(
        "Leave damaged pictures out", help="Otherwise they are named, and refused."
    )
    name = st.text_input(
        "Name of the task", placeholder="pictures", max_chars=60, key="lab-name",
        persist_state="session",
    ).strip()  # fmt: skip
    brought = {"draw": _drawn, "files": _sent, "zip": _archive, "folder": _on_server}[way]()
    if isinstance(brought, str):
        return _before(family, brought)
    which, read = brought

    def named() -> Lesson:
        of = read(family, skip)
        return renamed(of, name) if name else of

    return _kept(("own", family.name, way, which, skip, name), named)


# What was brought: something that tells it apart, and how it becomes a lesson. Or what to bring.
_Brought = tuple[Any, Callable[[Family, bool], Lesson]] | str


def _drawn() -> _Brought:
    """Drawings of each class, once there are enough of every one."""
    classes = _class_names()
    drawings = pad.drawings(classes)
    lacking = [n for n, of in zip(classes, drawings, strict=True) if len(of) < LEAST]
    if lacking:
        names = ", ".join(map(readouts.plain, lacking))
        return f"Draw {LEAST} of each class or more, better ten. To go: {names}."
    files = {
        f"{name}/{place:04d}.png": picture
        for name, of in zip(classes, drawings, strict=True)
        for place, picture in enumerate(of)
    }
    return hash(tuple(files.items())), lambda family, skip: of_files(family, files, skip)


def _sent() -> _Brought:
    """Files of each class."""
    names, files = _class_names(), {}
    for number, name in enumerate(names):
        sent = st.file_uploader(
            f"Pictures of {name}", KINDS, accept_multiple_files=True, key=f"lab-pictures-{number}"
        )
        for place, file in enumerate(sent or []):
            files[f"{name}/{place:04d}{Path(file.name).suffix.lower()}"] = file
    if not files:
        return f"Bring {LEAST} pictures of each class or more."

    def read(family: Family, skip: bool) -> Lesson:
        return of_files(family, {path: f.getvalue() for path, f in files.items()}, skip)

    return tuple((path, file.file_id) for path, file in files.items()), read


def _archive() -> _Brought:
    """One .zip with a folder per class."""
    file = st.file_uploader("A .zip with a folder per class", type=["zip"])
    if file is None:
        return f"Bring a .zip with a folder per class, and {LEAST} pictures or more in each."
    plain = _plain(file.name) or "pictures.zip"
    return file.file_id, lambda family, skip: of_files(family, {plain: file.getvalue()}, skip)


def _on_server() -> _Brought:
    """A folder or .zip that lies in the folder of models."""
    place = roots()[1]
    there = {
        path.name: path for path in visible(place)
        if path.suffix.lower() == ".zip" or (path.is_dir() and not is_family(path))
    }  # fmt: skip
    if not there:
        plain = readouts.plain(str(place))
        return f"Put a folder with a folder per class, or a .zip of it, into {plain}."
    at = session.chosen("lab_folder")
    picked = st.selectbox(
        "Folder or .zip", list(there), index=list(there).index(at) if at in there else 0,
        key=session.widget("w-lab-folder"), help=f"What lies in {place} and is no family.",
    )  # fmt: skip
    session.choose_value("lab_folder", picked)
    path = there[picked]
    changed = path.stat().st_mtime_ns
    return (picked, changed), lambda family, skip: of_pictures(path, family, skip_damaged=skip)


def _before(family: Family, otherwise: str) -> Lesson | None:
    """The visitor's pictures of before: of this visit, or of the training that is shown.

    Args:
        otherwise: what is said where there are none.
    """
    key, lesson = st.session_state.get("lab-lesson", (None, None))
    if key is None or key[:2] != ("own", family.name):
        job = session.job_of("lab_job")
        work = job.spec if job is not None else None
        lesson = work.lesson if work is not None and work.family.name == family.name else None
    if lesson is None or lesson.of_family:
        st.info(otherwise)
        return None
    title = readouts.plain(lesson.title)
    st.caption(f"The pictures of before are still here: {title}. Others take their place.")
    return lesson


def _class_names() -> list[str]:
    """The names of a visitor's classes, each of its own; raises BadValue."""
    columns = st.columns(IN_A_ROW)
    count = columns[0].number_input(
        "Classes", 2, MOST, 2, key="lab-classes", persist_state="session"
    )  # fmt: skip
    names: dict[str, str] = {}
    for number in range(int(count)):
        usual = f"class {number + 1}"
        if number and (number + 1) % IN_A_ROW == 0:
            columns = st.columns(IN_A_ROW)
        text = columns[(number + 1) % IN_A_ROW].text_input(
            f"Class {number + 1}", placeholder=usual, max_chars=60, key=f"lab-class-{number}",
            persist_state="session",
        )  # fmt: skip
        name = _plain(text) or usual
        if comparable(name) in names:
            raise BadValue("class", name, "is the name of two classes", "give each its own")
        names[comparable(name)] = name
    return list(names.values())


def _plain(text: str) -> str:
    """A name as a folder can have it: what a path would mean is taken out."""
    return re.sub(r'[/\\\0:*?"<>|]', " ", text).strip(". ")


def of_files(family: Family, files: Mapping[str, bytes], skip: bool) -> Lesson:
    """The lesson of files by their paths, or of the one .zip among them; raises InputError, which
    names files as the visitor does."""
    with tempfile.TemporaryDirectory() as place:
        for path, content in files.items():
            file = Path(place, "pictures", path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        (only,) = files if len(files) == 1 else ("",)
        of = Path(place, "pictures", only) if only.endswith(".zip") else Path(place, "pictures")
        try:
            return of_pictures(of, family, skip_damaged=skip)
        except InputError as error:
            parts = (error.value, error.problem, error.remedy)
            value, problem, remedy = (_outside(str(part), place) for part in parts)
            raise InputError(error.field, value, problem, remedy) from error


def _outside(text: str, place: str) -> str:
    """A text without the folder that only this server knows."""
    return text.replace(f"{place}/pictures/", "").replace(f"{place}/", "")


def _kept(key: Sequence[Any], read: Callable[[], Lesson]) -> Lesson:
    """A lesson, read once a session as long as it is the chosen one."""
    if st.session_state.get("lab-lesson", (None,))[0] != key:
        st.session_state["lab-lesson"] = (key, read())
    return st.session_state["lab-lesson"][1]
