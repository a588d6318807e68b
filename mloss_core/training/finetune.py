"""finetune(settings, family, lesson, folder): trains the base's image tower on a lesson.

Progress is the events it yields; closing it between two events cancels it, and the same call goes
on from the last checkpoint. Nothing here holds a grad mode over a yield.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from ..data.calibration import preprocess
from ..errors import BadValue
from ..evaluation.evaluator import hits
from ..families.family import Family
from ..hardware import device as devices
from ..hardware.out_of_memory import reported_memory
from ..parallel import thread_map
from ..types import Planned
from ..version import __version__
from .events import Begun, Diverged, Looked, Stepped, TrainingEvent, Tuned, Written
from .keeping import Kept, checkpoint, keep, kept
from .lesson import Lesson
from .settings import Finetune
from .student import Gradient, Student

EMBEDDED = 32  # held-out pictures that a thread embeds at once


def finetune(
    settings: Finetune, family: Family, lesson: Lesson, folder: Path, *, device: str = "auto"
) -> Generator[TrainingEvent, None, None]:
    """Fine-tunes the family's base on the lesson, with the lesson's head frozen.

    The first event is Planned, the last Tuned. A resumed one says again what was said before its
    last checkpoint, and ends with the bytes of one that was never interrupted.

    Args:
        folder: where checkpoints are kept, see `keeping`; made where it is missing.
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        InputError: before any work, where settings, family or folder are wrong; where the loss is
            no number before the first checkpoint; where the disk is full.
        OutOfMemory: the work did not fit.
    """
    family.refresh()
    place = devices.choose(device)
    _check(settings, family, lesson)
    about = provenance(settings, family, lesson, place)
    known = kept(folder, about)
    with reported_memory(place.type):
        base = family.base().load(place)
        student = Student(settings, family.model, base, lesson.head.to(place), family.logit_scale)
        yield from _Training(family, lesson, folder, student, known).events()


def provenance(
    settings: Finetune, family: Family, lesson: Lesson, device: torch.device
) -> dict[str, Any]:
    """Everything that decides a fine-tune's bytes, but for the number of threads."""
    half = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return {
        "finetune": {**dataclasses.asdict(settings), "warm_up": settings.warm},
        "base": family.base().sha256,
        "task": lesson.name,
        "classes": list(lesson.classes),
        "head": lesson.head_from,
        "lesson": lesson.sha256,
        "pictures": {"trained": len(lesson.labels), "held_out": len(lesson.held_labels)},
        "logit_scale": family.logit_scale,
        "precision": "bf16" if half else "fp32",
        "version": __version__,
    }


def fingerprint(about: dict[str, Any]) -> str:
    """A short name of a fine-tune, from its provenance."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]


def batch_at(step: int, size: int, pictures: int, seed: int) -> Int64[np.ndarray, " n"]:
    """Which pictures a step sees, counted from 1: each epoch is a permutation of all, from the
    seed and its own number alone, so that a resumed training needs no generator's state."""
    first = (step - 1) * size
    epochs = range(first // pictures, (first + size - 1) // pictures + 1)
    orders = [np.random.default_rng([seed, epoch]).permutation(pictures) for epoch in epochs]
    start = first - epochs[0] * pictures
    return np.concatenate(orders)[start : start + size]


def _check(settings: Finetune, family: Family, lesson: Lesson) -> None:
    """Raises BadValue for blocks that the family does not have, or a lesson of one class."""
    beyond = [block for block in settings.blocks or () if not 0 <= block < family.model.blocks]
    if beyond:
        remedy = f"{family.name} has blocks 0 to {family.model.blocks - 1}"
        raise BadValue("blocks", beyond[0], "does not exist", remedy)
    if len(np.unique(lesson.labels)) < 2:
        problem, remedy = "has pictures of fewer than two classes", "give two or more"
        raise BadValue("task", lesson.name, problem, remedy)


class _Training:
    """One fine-tune on its way."""

    def __init__(self, family: Family, lesson: Lesson, folder: Path, student: Student, known: Kept):
        self.family, self.lesson, self.folder = family, lesson, folder
        self.student, self.settings, self.known = student, student.settings, known
        base = family.base()
        stored = base.read(family.model.shapes())
        self.dtypes = {name: tensor.dtype for name, tensor in stored.items()}

    def events(self) -> Iterator[TrainingEvent]:
        """All of it: what was done before, then the steps to come, then the result."""
        settings, known = self.settings, self.known
        looks, files = settings.looked_at(), settings.written_at()
        yield Planned(steps=2 + settings.steps + len(looks) + len(files))
        if known.tensors:
            self.student.restore(known.tensors)
        over = known.diverged is not None
        yield self._begun(settings.steps if over else known.step)
        yield from self._said_before()
        if not over:
            yield from self._steps(looks, files)
        if known.diverged is not None:
            yield Diverged(step=known.diverged, kept=known.step)
        yield self._tuned()

    def _begun(self, resumed: int) -> Begun:
        """What is to come, and how long a step takes: the first one is tried, and not taken."""
        start, a_step = time.perf_counter(), None
        if resumed < self.settings.steps:
            for _ in range(2):  # the first one warms up
                begun = time.perf_counter()
                self._gradient(resumed + 1)
                a_step = time.perf_counter() - begun
        lesson = self.lesson
        return Begun(
            task=lesson.name, head=lesson.head_from, trained=len(lesson.labels),
            held_out=len(lesson.held_labels), steps=self.settings.steps, resumed=resumed,
            a_step=a_step, skipped=lesson.skipped, seconds=time.perf_counter() - start,
        )  # fmt: skip

    def _said_before(self) -> Iterator[TrainingEvent]:
        """What an earlier, interrupted fine-tune said up to its last checkpoint."""
        known = self.known
        looks = {int(look[0]): look for look in known.looks}
        files = {int(step): seconds for step, seconds in known.written}
        for step in range(len(known.said) + 1):
            if step:
                loss, rate, gradient, seconds = known.said[step - 1]
                yield Stepped(step=step, loss=loss, rate=rate, gradient=gradient, seconds=seconds)
            if step in looks:
                yield _looked(looks[step])
            if step in files:
                path = checkpoint(self.folder, step)
                yield Written(step=step, path=path, seconds=files[step])

    def _steps(self, looks: tuple[int, ...], files: tuple[int, ...]) -> Iterator[TrainingEvent]:
        """The steps that are left; ends early where the loss or the model is no number."""
        known = self.known
        if not known.looks:
            yield self._look(0)
        for step in range(known.step + 1, self.settings.steps + 1):
            start = time.perf_counter()
            gradient = self._gradient(step)
            if not gradient.finite:
                self._diverge(step)
                return
            rate = self.student.step(gradient, step)
            seconds = time.perf_counter() - start
            said = [gradient.loss, rate, gradient.norm, seconds]
            if step in files and self._tower() is None:
                self._diverge(step)
                return
            known.said.append(said)
            yield Stepped(
                step=step, loss=gradient.loss, rate=rate, gradient=gradient.norm, seconds=seconds
            )
            if step in looks:
                yield self._look(step)
            if step in files:
                yield self._write(step)

    def _gradient(self, step: int) -> Gradient:
        lesson, settings = self.lesson, self.settings
        chosen = batch_at(step, settings.batch, len(lesson.labels), settings.seed)
        images = np.asarray(lesson.images[chosen][:])
        labels = torch.from_numpy(lesson.labels[chosen]).to(self.student.device)
        pixels = preprocess(images, self.family.model, self.student.device)
        return self.student.gradient(pixels, labels)

    def _look(self, step: int) -> Looked:
        """The held-out pictures and the distances, as they are now."""
        start = time.perf_counter()
        right = self._answers()
        blocks, outside = self.student.distances()
        look = [step, right.astype(int).tolist(), blocks, outside, time.perf_counter() - start]
        self.known.looks.append(look)
        return _looked(look)

    def _answers(self) -> Bool[np.ndarray, " n"]:
        lesson, student = self.lesson, self.student

        def embedded(start: int) -> Tensor:
            with torch.no_grad():
                images = lesson.held_images[start : start + EMBEDDED]
                pixels = preprocess(images, self.family.model, student.device)
                return student.tower.features(pixels)

        starts = range(0, len(lesson.held_labels), EMBEDDED)
        features = torch.cat(list(thread_map(embedded, starts, student.device)))
        return hits(features, student.head, lesson.held_labels)

    def _write(self, step: int) -> Written:
        """A checkpoint of this step, and the state to go on from."""
        start, known = time.perf_counter(), self.known
        tower = self._tower()
        assert tower is not None, "looked at before"
        known.step, known.tensors = step, self.student.state()
        known.written.append([step, 0.0])
        path = keep(self.folder, known, tower, self._metadata())
        seconds = known.written[-1][1] = time.perf_counter() - start
        return Written(step=step, path=path, seconds=seconds)

    def _diverge(self, step: int) -> None:
        """Goes back to the last checkpoint; raises BadValue where there is none."""
        known = self.known
        if not known.tensors:
            problem = f"leads to a loss that is no number at step {step}, before any checkpoint"
            shown = f"{self.settings.rate:g}"
            raise BadValue("rate", shown, problem, "lower the learning rate")
        known.said, known.diverged = known.said[: known.step], step
        known.looks = [look for look in known.looks if look[0] <= known.step]
        self.student.restore(known.tensors)
        tower = self._tower()
        assert tower is not None, "it was written before"
        keep(self.folder, known, tower, self._metadata())

    def _tower(self) -> dict[str, Tensor] | None:
        """The tensors in the base's dtypes, on the CPU; None where one holds no numbers."""
        tower = {}
        for name, dtype in self.dtypes.items():
            tower[name] = self.student.weights[name].detach().cpu().to(dtype)
            if not all(map(math.isfinite, tower[name].aminmax())):
                return None
        return tower

    def _metadata(self) -> dict[str, Any]:
        """What a file of the tower says of itself: nothing of when or how often it was resumed."""
        return {**self.known.about, "step": self.known.step}

    def _tuned(self) -> Tuned:
        tower = self._tower()
        assert tower is not None, "it was written before"
        known = self.known
        seconds = [*(said[3] for said in known.said), *(look[4] for look in known.looks)]
        seconds += [written[1] for written in known.written]
        return Tuned(
            weights=tower, step=known.step, device=self.student.device.type,
            seconds=math.fsum(seconds), metadata=self._metadata(),
        )  # fmt: skip


def _looked(look: list[Any]) -> Looked:
    step, right, blocks, outside, seconds = look
    return Looked(
        step=int(step), hits=np.array(right, bool), distances=np.array(blocks), outside=outside,
        seconds=seconds,
    )  # fmt: skip
