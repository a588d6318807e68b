"""Background jobs of the Lab: a fine-tune, and the merges of its checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mloss_core import Family
from mloss_core.errors import BadFile
from mloss_core.training.along import along
from mloss_core.training.events import Tuned
from mloss_core.training.finetune import finetune, fingerprint, provenance
from mloss_core.training.keeping import checkpoints, usual_folder
from mloss_core.training.lesson import Lesson
from mloss_core.training.settings import Finetune
from views.jobs.kinds import Events
from views.state import session
from views.state.job_board import Job

FEW = 3  # jobs of a kind that stay: each holds a whole tower
IMAGES = 100  # test pictures of each other task that a merge on the way is measured on


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """What a job trains, and where its checkpoints lie."""

    family: Family
    lesson: Lesson
    settings: Finetune
    folder: Path

    @property
    def key(self) -> tuple[str, str]:
        """The same for two that would write the same bytes."""
        return self.family.name, self.folder.name


def training(family: Family, lesson: Lesson, settings: Finetune) -> Training:
    """The fine-tune of these settings; one that was stopped goes on from its last checkpoint."""
    about = provenance(settings, family, lesson, session.device())
    folder = usual_folder(fingerprint(about))
    return Training(family=family, lesson=lesson, settings=settings, folder=folder)


def on_disk(work: Training) -> Mapping[int, Path]:
    """Its checkpoints by step; none before the first is written, or after they were cleared."""
    try:
        return checkpoints(work.folder)
    except BadFile:
        return {}


def train(work: Training) -> Job:
    """The fine-tune as a job; its spec is `work`, its result the `Tuned` with all weights."""
    whole: list[Tuned] = []

    def events() -> Events:
        for event in finetune(work.settings, work.family, work.lesson, work.folder):
            if isinstance(event, Tuned):
                whole.append(event)
                event = dataclasses.replace(event, weights={})  # the board keeps events for long
            yield event

    title = f"Fine-tuning on {work.lesson.title}"
    return session.board().submit(
        "finetune", title, events, spec=work, finish=lambda log: whole[-1], keep=FEW
    )


def merges(work: Training, others: Sequence[str]) -> Job:
    """Every checkpoint merged with the other sources."""

    def events() -> Events:
        yield from along(
            checkpoints(work.folder), work.family, work.lesson, others, images=IMAGES,
            device=session.device().type,
        )  # fmt: skip

    title = f"Merging the checkpoints of {work.lesson.title}"
    return session.board().submit("along", title, events, spec=(work.key, tuple(others)), keep=FEW)
