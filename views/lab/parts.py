"""Parts of the Lab: what is learnt, the settings, a training live, and its merges."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import streamlit as st

from mloss_core import Family
from mloss_core.training.along import Collapse, MergedAt, collapse
from mloss_core.training.events import Begun, Diverged, Looked, Stepped
from mloss_core.training.lesson import Lesson, of_pictures, of_task
from mloss_core.training.settings import SETTINGS, Finetune
from views.jobs.lab import Training, on_disk
from views.lab import figures
from views.shared import readouts
from views.state import allowed, link, session
from views.state.bound import bound
from views.state.job_board import Job, elapsed
from views.state.lab_fields import OF_SETTINGS

OWN = "Pictures of my own"
PICTURES = ["png", "jpg", "jpeg", "webp", "bmp", "gif"]


def lesson(family: Family) -> Lesson | None:
    """What is to be learnt; None where there are no pictures yet. Raises InputError."""
    tasks = [task for task in family.tasks if task in family.own_tasks(family.sources)]
    choices = [*tasks, OWN]
    at = session.chosen("lab_task")
    picked = st.selectbox(
        "What is learnt", choices, index=choices.index(at) if at in choices else 0,
        format_func=lambda name: name if name == OWN else family.title(name),
        key=session.widget(f"w-lab-task-{family.name}"),
        help="Of a task, four in five validation pictures are trained on; its test pictures never.",
    )  # fmt: skip
    session.choose_value("lab_task", picked)
    if picked != OWN:
        return _kept(("task", family.name, picked), lambda: of_task(family, picked))
    return _own(family)


def _own(family: Family) -> Lesson | None:
    """Pictures that a visitor brings: a zip, or class by class."""
    if why := allowed.why_only_looking():
        st.info(why)
        return None
    whole = st.file_uploader(
        "A .zip with a folder per class", type=["zip"], help="Eight pictures a class or more."
    )
    skip = st.checkbox("Leave damaged pictures out", help="Otherwise they are named, and refused.")
    if whole is not None:
        key = ("zip", family.name, whole.file_id, skip)
        return _kept(key, lambda: _of_files(family, {whole.name: whole.getvalue()}, skip))
    with st.expander("Or class by class"):
        count = st.number_input("Classes", 2, 20, 2, key="lab-classes")
        files = {}
        for number in range(int(count)):
            left, right = st.columns([1, 3])
            name = left.text_input(f"Class {number + 1}", key=f"lab-class-{number}").strip()
            sent = right.file_uploader(
                f"Pictures of class {number + 1}", PICTURES, accept_multiple_files=True,
                key=f"lab-pictures-{number}",
            )  # fmt: skip
            for place, picture in enumerate(sent or []):
                # A folder's name is a class's: what a path would mean is taken out.
                plain = re.sub(r"[/\\\0]", " ", name).strip(". ") or f"class {number + 1}"
                files[f"{plain}/{place:04d}{Path(picture.name).suffix.lower()}"] = picture
    if not files:
        st.info("Bring a .zip, or pictures of two classes or more.")
        return None
    key = ("files", family.name, tuple((p, f.file_id) for p, f in files.items()), skip)
    contents = {path: file.getvalue() for path, file in files.items()}
    return _kept(key, lambda: _of_files(family, contents, skip))


def _of_files(family: Family, files: dict[str, bytes], skip: bool) -> Lesson:
    """The lesson of files by their paths, or of the one .zip among them."""
    with tempfile.TemporaryDirectory() as place:
        for path, content in files.items():
            file = Path(place, "pictures", path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        (only,) = files if len(files) == 1 else ("",)
        of = Path(place, "pictures", only) if only.endswith(".zip") else Path(place, "pictures")
        return of_pictures(of, family, skip_damaged=skip)


def _kept(key: tuple[Any, ...], read: Any) -> Lesson:
    """A lesson, read once a session as long as it is the chosen one."""
    if st.session_state.get("lab-lesson", (None,))[0] != key:
        st.session_state["lab-lesson"] = (key, read())
    return st.session_state["lab-lesson"][1]


def settings(family: Family) -> Finetune:
    """The settings from their widgets, most in an expander; raises InputError."""
    left, middle, right = st.columns(3)
    with left:
        bound("lab_rate", st.number_input, min_value=1e-7, max_value=1.0, format="%.1e", step=1e-4)
    with middle:
        bound("lab_steps", st.number_input, min_value=1, max_value=100_000, step=50)
    with right:
        bound("lab_batch", st.number_input, min_value=1, max_value=4096, step=8)
    if not session.lecture():
        with st.expander("More settings"):
            _more(family)
    chosen = {name: session.chosen(key) for name, key in OF_SETTINGS.items()}
    values = {name: link.FIELDS[OF_SETTINGS[name]].parse(text) for name, text in chosen.items()}
    return Finetune(**values)


def _more(family: Family) -> None:
    """What is seldom changed."""
    left, right = st.columns(2)
    with left:
        bound("lab_decay", st.number_input, min_value=0.0, max_value=10.0, step=0.05, format="%g")
        bound("lab_warm_up", st.number_input, min_value=0, max_value=100_000, step=1)
        bound("lab_optimizer", st.selectbox)
        bound("lab_outside", st.selectbox)
    with right:
        blocks, count = SETTINGS["blocks"], range(family.model.blocks)
        held = link.FIELDS["lab_blocks"].parse(session.chosen("lab_blocks"))
        picked = st.pills(
            blocks.label, list(count), selection_mode="multi", help=blocks.help,
            default=list(count if held is None else held), key=session.widget("w-lab_blocks"),
        )  # fmt: skip
        every = len(picked) == len(count)
        field = link.FIELDS["lab_blocks"]
        chosen = field.format(None if every else tuple(sorted(picked)))
        session.choose_value("lab_blocks", chosen)
        bound("lab_seed", st.number_input, min_value=0, max_value=2**32 - 1, step=1)
        bound("lab_checkpoints", st.number_input, min_value=1, max_value=1000, step=1)


def about(of: Lesson) -> None:
    """How many pictures train, how many are held out, and what the head is."""
    head = {
        "zero-shot": "the family's own zero-shot head of the task",
        "class means": "the class means of the base's features",
    }[of.head_from]
    st.caption(
        f"{len(of.classes)} classes ({', '.join(of.classes[:12])}{'…' * (len(of.classes) > 12)}), "
        f"{len(of.labels)} pictures to train on, {len(of.held_labels)} held out. "
        f"The head stays as it is: {head}."
    )
    if of.skipped:
        st.warning(f"Left out as damaged: {', '.join(of.skipped[:10])}.")


def live(job: Job) -> None:
    """A training as far as it is: loss, held-out accuracy, and how far each block has moved."""
    events = list(job.events)
    begun = next((e for e in events if isinstance(e, Begun)), None)
    if begun is not None and job.active:
        far = "" if begun.expected is None else f", about {elapsed(begun.expected)} in all"
        resumed = f", going on after step {begun.resumed}" if begun.resumed else ""
        st.progress(job.share, f"{job.title}: {elapsed(job.seconds)}{far}{resumed}")
    if lost := next((e for e in events if isinstance(e, Diverged)), None):
        st.warning(
            f"The loss is no number at step {lost.step}: the result is that of step {lost.kept}. "
            "Lower the learning rate."
        )
    steps = [e for e in events if isinstance(e, Stepped)]
    looks = [e for e in events if isinstance(e, Looked)]
    if not looks:
        return
    first, last = looks[0].accuracy, looks[-1].accuracy
    ends = [readouts.with_interval(a.rate, *a.interval()) for a in (first, last)]
    st.markdown(f"On held-out pictures: {ends[0]} as the base, **{ends[1]}** now.")
    left, right = st.columns(2)
    with left:
        alt = f"Loss and accuracy by step, up to step {looks[-1].step}"
        st.plotly_chart(figures.learning(steps, looks), key="lab-learning", alt=alt)
    with right:
        st.plotly_chart(
            figures.distances(looks), key="lab-distances",
            alt="How far each block is from the base, by step",
        )  # fmt: skip
        st.caption("How far each block has moved: norm of its change over its own norm.")


def download(job: Job) -> None:
    """The trained tower as a file."""
    work: Training = job.spec
    file = on_disk(work).get(job.result.step)
    if file is not None:  # the command line clears the folder of a fine-tune that it did, too
        st.download_button(
            "Download the checkpoint", file.read_bytes, f"{work.lesson.name}.safetensors",
            "application/octet-stream", help="An image tower as any other source.",
        )  # fmt: skip


def merged(job: Job, base: str) -> None:
    """The merges along a training: one picture, the verdict, and which blocks light up."""
    points = [event for event in list(job.events) if isinstance(event, MergedAt)]
    if not points:
        return
    verdict: Collapse | None = collapse(points) if len(points) > 1 and not job.active else None
    alt = f"Own accuracy, merged accuracy and M-Loss of {len(points)} checkpoints of {base}"
    st.plotly_chart(figures.merging(points, verdict), key="lab-merging", alt=alt)
    if verdict is not None:
        st.markdown(verdict.words)
    st.caption(
        "Own: the checkpoint alone on the held-out pictures. Merged: mean over the held-out "
        "pictures and the other sources' own tasks, with M-TIES as the family recommends. "
        "M-Loss: mean over all nodes of all blocks. Bars are 95 % intervals."
    )
    st.plotly_chart(
        figures.conflict(points), key="lab-conflict", alt="M-Loss of each block, by checkpoint"
    )
    st.caption("Which blocks light up: mean M-Loss of each block when that checkpoint is merged.")


def others(family: Family, task: str) -> tuple[str, ...]:
    """The sources to merge it with: two of other tasks, unless others are chosen."""
    usual = [name for name in family.sources if family.own_task(name) != task][:2]
    wanted = [name for name in session.chosen("lab_others").split(",") if name in family.sources]
    picked = st.pills(
        "Merge it with", list(family.sources), selection_mode="multi", wrap=True,
        default=wanted or usual, format_func=family.title,
        key=session.widget(f"w-lab-others-{family.name}"),
    )  # fmt: skip
    names = tuple(name for name in family.sources if name in picked)
    session.choose_value("lab_others", ",".join(names))
    return names
