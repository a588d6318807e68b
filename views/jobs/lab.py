"""Background jobs of the Lab: a fine-tune, the merges of its checkpoints, and how long it takes."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mloss_core import Family, MlossError
from mloss_core.checkpoints.image_tower import Checkpoint
from mloss_core.data.calibration import pool_size
from mloss_core.errors import BadFile
from mloss_core.fields import FIELDS
from mloss_core.training.along import MergedAt, along
from mloss_core.training.events import Begun, Tuned, Written
from mloss_core.training.finetune import finetune, fingerprint, provenance
from mloss_core.training.keep_as import keep_as
from mloss_core.training.keeping import checkpoints, usual_folder
from mloss_core.training.lesson import Lesson
from mloss_core.training.settings import Finetune
from mloss_core.types import Planned
from views.jobs.kinds import Events
from views.state import session
from views.state.error_text import error_text
from views.state.job_board import Job

CLASS = 30  # jobs of a kind that stay: one for each of a class
IMAGES = 100  # test pictures of each other task that a merge on the way is measured on


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """What a job trains, and where its checkpoints lie.

    Args:
        others: sources that each checkpoint is merged with as it is written.
    """

    family: Family
    lesson: Lesson
    settings: Finetune
    folder: Path
    others: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """The same for two that would write the same bytes."""
        return self.family.name, self.folder.name


@dataclass(frozen=True, kw_only=True)
class Unmerged:
    """The event that a checkpoint could not be merged on the way; the training goes on without.

    Args:
        words: what was wrong.
    """

    words: str


def training(
    family: Family, lesson: Lesson, settings: Finetune, others: Sequence[str] = ()
) -> Training:
    """The fine-tune of these settings; one that was stopped goes on from its last checkpoint."""
    about = provenance(settings, family, lesson, session.device())
    folder = usual_folder(fingerprint(about))
    return Training(
        family=family, lesson=lesson, settings=settings, folder=folder, others=tuple(others)
    )


def on_disk(work: Training) -> Mapping[int, Path]:
    """Its checkpoints by step; none before the first is written, or after they were cleared."""
    try:
        return checkpoints(work.folder)
    except BadFile:
        return {}


def train(work: Training) -> Job:
    """The fine-tune as a job; its spec is `work`, its result the `Tuned` without weights, which are
    the last checkpoint on disk: the board keeps its events for long."""

    def events() -> Events:
        others = work.others
        for event in finetune(work.settings, work.family, work.lesson, work.folder):
            if isinstance(event, Planned) and others:
                event = Planned(steps=event.steps + len(work.settings.written_at()))
            elif isinstance(event, Tuned):
                event = dataclasses.replace(event, weights={})
            yield event
            if isinstance(event, Written) and others:
                merged = _merged(work, {event.step: event.path}, others)
                try:
                    yield from (each for each in merged if isinstance(each, MergedAt))
                except MlossError as error:
                    others = ()
                    yield Unmerged(words=error_text(error))

    title = f"Fine-tuning on {work.lesson.title}"
    return session.board().submit(
        "finetune", title, events, spec=work, finish=lambda log: log[-1], keep=CLASS
    )


def merges(work: Training, others: Sequence[str]) -> Job:
    """Every checkpoint merged with the other sources."""
    title = f"Merging the checkpoints of {work.lesson.title}"
    return session.board().submit(
        "along", title, lambda: _merged(work, checkpoints(work.folder), others),
        spec=(work.key, tuple(others)), keep=CLASS,
    )  # fmt: skip


def _merged(work: Training, files: Mapping[int, Path], others: Sequence[str]) -> Events:
    """M-TIES as the family's makers recommend it, on as many images as its pool can give."""
    family = work.family
    there = pool_size(family.calibration_pool, family.pool_tasks(others))
    settings = family.recommended("m-ties") | {"samples": min(FIELDS["samples"].default, there)}
    yield from along(
        files, family, work.lesson, others, settings=settings, images=IMAGES,
        device=session.device().type,
    )  # fmt: skip


def merged_with(job: Job) -> tuple[str, ...]:
    """The sources that a fine-tune, or the merges along one, merges its checkpoints with."""
    return job.spec.others if job.kind == "finetune" else job.spec[1]


def pace_key(work: Training) -> tuple:
    """What decides how long a step takes."""
    settings = work.settings
    return (
        work.family.name, settings.batch, settings.blocks, settings.outside, settings.optimizer
    )  # fmt: skip


def pace(work: Training) -> Job:
    """Tries a step, and takes none; the job's result is the seconds."""

    def events() -> Events:
        with tempfile.TemporaryDirectory() as place:
            tried = finetune(work.settings, work.family, work.lesson, Path(place))
            with contextlib.closing(tried) as log:
                yield next(event for event in log if isinstance(event, Begun))

    return session.board().submit(
        "pace", "Timing a step", events, spec=pace_key(work),
        finish=lambda log: log[-1].a_step, shown=False,
    )  # fmt: skip


def keep(job: Job, family: str, source: str, beside: Sequence[str]) -> None:
    """The result of a fine-tune as a source of a family of one's own; raises InputError."""
    work: Training = job.spec
    path = on_disk(work).get(job.result.step)
    if path is None:
        problem, remedy = "holds its checkpoints no more", "train it again"
        raise BadFile("keep_in", work.folder, problem, remedy)
    tower = Checkpoint.open(path, work.lesson.name)
    weights, said = tower.read(tower.shapes), job.result.metadata
    keep_as(work.family, work.lesson, weights, said, family, source, beside)
