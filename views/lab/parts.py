"""Parts of the Lab: the settings, what is known beforehand, a training live, and its merges."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from mloss_core import Family, InputError, load
from mloss_core.experiments.expert_words import advice
from mloss_core.training.along import MergedAt, collapse
from mloss_core.training.events import Begun, Diverged, Looked, Stepped
from mloss_core.training.lesson import Lesson
from mloss_core.training.settings import SETTINGS, Finetune
from views.jobs import kinds, lab, strip
from views.lab import figures
from views.shared import readouts
from views.state import link, session
from views.state.bound import bound
from views.state.job_board import Job, elapsed
from views.state.lab_fields import OF_SETTINGS, listed

SHOWN = 12  # classes that are named
REMEMBERED = 600  # seconds for which advice is kept: it reads what every expert left on disk


def settings(family: Family) -> Finetune:
    """The settings from their widgets, most in an expander; raises InputError."""
    left, middle, right = st.columns(3)
    with left:
        bound("lab_rate", st.number_input, min_value=1e-9, max_value=1e6, format="%g", step=1e-4)
    with middle:
        bound("lab_steps", st.number_input, min_value=1, max_value=100_000, step=10)
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
        bound(
            "lab_warm_up", st.number_input, min_value=0, max_value=100_000, step=1,
            placeholder="a tenth of the steps",
        )  # fmt: skip
        bound("lab_optimizer", st.selectbox)
        bound("lab_outside", st.selectbox)
    with right:
        blocks, count = SETTINGS["blocks"], range(family.model.blocks)
        field = link.fields(family)["lab_blocks"]
        held = field.parse(session.chosen("lab_blocks"))
        picked = st.pills(
            blocks.label, list(count), selection_mode="multi", help=blocks.help, wrap=True,
            default=list(count if held is None else held), key=session.widget("w-lab_blocks"),
        )  # fmt: skip
        every = len(picked) == len(count)
        session.choose_value("lab_blocks", field.format(None if every else tuple(sorted(picked))))
        bound("lab_seed", st.number_input, min_value=0, max_value=2**32 - 1, step=1)
        bound("lab_checkpoints", st.number_input, min_value=1, max_value=1000, step=1)


def others(family: Family, task: str) -> tuple[str, ...]:
    """The sources to merge it with: two of other tasks, unless others are chosen."""
    usual = [name for name in family.sources if family.own_task(name) != task][:2]
    wanted = [name for name in listed(session.chosen("lab_others")) if name in family.sources]
    picked = st.pills(
        "Merge it with", list(family.sources), selection_mode="multi", wrap=True,
        default=wanted or usual, format_func=family.title,
        key=session.widget(f"w-lab-others-{family.name}-{task}"),
    )  # fmt: skip
    names = [name for name in family.sources if name in picked]
    session.choose_value("lab_others", "" if names == usual else ",".join(names))
    return tuple(names)


def during(family: Family) -> bool:
    """Whether it is merged while it trains: on at first for small families."""
    choice = session.chosen("lab_during")
    usual = family.model.width <= kinds.NARROW
    ticked = st.checkbox(
        "Merge each checkpoint while it trains", choice == "on" or (not choice and usual),
        key=session.widget(f"w-lab-during-{family.name}"),
        help="As soon as it is written. Otherwise they can be merged when all are there.",
    )  # fmt: skip
    session.choose_value("lab_during", "" if ticked == usual else "on" if ticked else "off")
    return ticked


def wrong(error: InputError) -> None:
    """What cannot be of the settings, by its label."""
    st.error(error.labelled(SETTINGS[error.field].label))


def about(of: Lesson) -> None:
    """How many pictures train, how many are held out, and what the head is."""
    head = {
        "zero-shot": "the family's own zero-shot head of the task"
        if of.of_family
        else "the family's text tower names the classes (zero-shot)",
        "class means": "the class means of the base's features",
    }[of.head_from]
    names = ", ".join(map(readouts.plain, of.classes[:SHOWN]))
    st.caption(
        f"{len(of.classes)} classes ({names}{'…' * (len(of.classes) > SHOWN)}), "
        f"{len(of.labels)} pictures to train on, {len(of.held_labels)} held out. "
        f"The head stays as it is: {head}."
    )
    if of.skipped:
        names = ", ".join(map(readouts.plain, of.skipped[:SHOWN]))
        st.warning(f"Left out as damaged: {names}.")


def beforehand(work: lab.Training) -> None:
    """What is known before training: what this family's grid of experts shows, where one was
    measured, and how long it takes."""
    if words := _advice(work.family.name):
        st.info(words)
    if lab.on_disk(work):
        return
    job = kinds.job_or_button(
        work.family, "pace", lab.pace_key(work), "How long will it take?", lambda: lab.pace(work)
    )

    def draw() -> None:
        strip.outcome(job, gone=False)
        if job is not None and job.state == "finished":
            seconds = elapsed(job.result * work.settings.steps)
            merging = ", besides the merges on the way" * bool(work.others)
            st.caption(f"About {seconds} of training on this server{merging}.")

    session.while_active(job)(draw)()


@st.cache_data(ttl=REMEMBERED, show_spinner=False)
def _advice(family: str) -> str | None:
    return advice(load(family))


def live(job: Job) -> None:
    """A training as far as it is: loss, held-out accuracy, and how far each block has moved."""
    events = list(job.events)
    begun = next((e for e in events if isinstance(e, Begun)), None)
    if begun is not None and begun.resumed and job.active:
        st.caption(f"It goes on after step {begun.resumed}.")
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
    st.markdown(
        f"On held-out pictures: {ends[0]} as the base, **{ends[1]}** after step {looks[-1].step}."
    )
    left, right = st.columns(2)
    with left:
        alt = f"Loss and accuracy by step, up to step {looks[-1].step}"
        st.plotly_chart(figures.learning(steps, looks), key="lab-learning", alt=alt)
        st.caption("Loss of each step's pictures before it. Bands are 95 % intervals.")
    with right:
        st.plotly_chart(
            figures.distances(looks), key="lab-distances",
            alt="How far each block is from the base, by step",
        )  # fmt: skip
        st.caption("How far each block has moved: norm of its change over its own norm.")


def merged(job: Job) -> None:
    """The merges along a training: one picture, the verdict, and which blocks light up."""
    points = [event for event in list(job.events) if isinstance(event, MergedAt)]
    for event in [event for event in list(job.events) if isinstance(event, lab.Unmerged)]:
        st.warning(f"The merges on the way have ended, the training has not. {event.words}")
    if not points:
        return
    verdict = collapse(points) if len(points) > 1 and not job.active else None
    left, right = st.columns(2)
    with left:
        alt = f"Own accuracy, merged accuracy and M-Loss of {len(points)} checkpoints by step"
        st.plotly_chart(figures.merging(points, verdict), key="lab-merging", alt=alt)
        st.caption(
            "Own: the checkpoint alone on the held-out pictures. Merged: mean over the held-out "
            "pictures and the other sources' own tasks, with M-TIES as the family recommends. "
            "M-Loss: mean over all nodes of all blocks. Bands are 95 % intervals."
        )
    with right:
        st.plotly_chart(
            figures.conflict(points), key="lab-conflict", alt="M-Loss of each block, by checkpoint"
        )
        st.caption(
            "Which blocks light up: mean M-Loss of each block when that checkpoint is merged."
        )
    if verdict is not None:
        st.markdown(verdict.words)


def download(job: Job) -> None:
    """The trained tower as a file."""
    work: lab.Training = job.spec
    file = lab.on_disk(work).get(job.result.step)
    if file is not None:  # the command line clears the folder of a fine-tune that it did, too
        st.download_button(
            "Download the checkpoint", file.read_bytes, f"{work.lesson.name}.safetensors",
            "application/octet-stream", help="An image tower as any other source.",
        )  # fmt: skip


def target(family: Family, lesson: Lesson, usual: Sequence[str]) -> tuple[str, str, list[str]]:
    """Which family of one's own gets the source, under which name, and beside which others."""
    left, right = st.columns(2)
    name = left.text_input("Family of yours", "mine", help="Made where there is none yet.")
    source = right.text_input("Source", lesson.name)
    beside = st.multiselect(
        "Sources that a new family gets, too", list(family.sources),
        [name for name in usual if name in family.sources], format_func=family.title,
    )  # fmt: skip
    return name, source, beside
