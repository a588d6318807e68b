"""What a model is fine-tuned on: pictures to train on, pictures held out, and a frozen head."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from ..data.images import Pictures, Resized, decoded, picture_files
from ..data.names import listed
from ..data.tasks import class_folders
from ..errors import BadFile, BadTensor, BadValue
from ..families.family import Family
from ..text import normal
from .archives import unpacked
from .head import frozen_head

LEAST = 8  # pictures of a class of one's own
HELD_OUT, MOST_HELD = 0.2, 512  # of each class; of all together, about: they are looked at often
SEED = 0  # of the split: the same for every fine-tune, so that they are compared on the same
TOGETHER = 64  # pictures that are decoded at once
IN_MEMORY = 1 << 30  # bytes of decoded pictures that are kept
SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))

Images = UInt8[np.ndarray, "_ h w 3"] | Pictures | Resized
Labels = Int64[np.ndarray, " _"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """A task to be learnt.

    Args:
        name: the task's, plain.
        of_family: whether it is a task of the family; else it is of one's own pictures.
        images, labels: trained on.
        held_images, held_labels: never trained on.
        head: unit rows, a class each; it stays as it is.
        head_from: "zero-shot" (of the family's text tower) or "class means" (of the base).
        skipped: damaged pictures that were left out on the user's word.
    """

    name: str
    title: str
    of_family: bool
    classes: tuple[str, ...]
    images: Images
    labels: Labels
    held_images: Images
    held_labels: Labels
    head: Float[Tensor, "c d"]
    head_from: str
    skipped: tuple[str, ...] = ()

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of pictures, labels, classes and head: what decides a fine-tune's bytes."""
        digest = hashlib.sha256(repr((self.classes, self.head_from)).encode())
        digest.update(self.head.numpy().tobytes())
        for part, labels in ((self.images, self.labels), (self.held_images, self.held_labels)):
            digest.update(labels.tobytes())
            digest.update(_sha256(part))
        return digest.hexdigest()


def _sha256(images: Images) -> bytes:
    """Hash of images; of files as they are, without decoding them."""
    digest = hashlib.sha256()
    if isinstance(images, Pictures):
        for path in images.paths:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    elif isinstance(images, Resized):
        digest.update(np.ascontiguousarray(images.pixels[images.which]).data)
    else:
        digest.update(np.ascontiguousarray(images).data)
    return digest.digest()


def of_task(family: Family, name: str) -> Lesson:
    """A family's task: four in five of its validation pictures are trained on, the fifth is held
    out, class by class; its test pictures are never looked at.

    Raises:
        UnknownName: there is no such task.
        BadFile: it has no validation pictures.
        BadValue: these are too few.
    """
    task = family.task(name, "val")
    head = family.heads(torch.device("cpu"))[task.name]
    if len(head) != len(task.classes):
        remedy = f"give one per class: {len(task.classes)}"
        raise BadTensor(f"heads of {family.name}", task.name, f"has {len(head)} rows", remedy)
    trained, held = split(task.labels)
    if not len(held):
        problem = f"has {len(task.labels)} validation pictures, none of which can be held out"
        raise BadValue("task", name, problem, "give two or more of a class")
    return Lesson(
        name=task.name, title=task.title, of_family=True, classes=task.classes,
        images=task.images[trained], labels=task.labels[trained],
        held_images=task.images[held], held_labels=task.labels[held],
        head=torch.nn.functional.normalize(head, dim=-1), head_from="zero-shot",
    )  # fmt: skip


def of_pictures(
    path: Path, family: Family, *, name: str = "", head: str = "auto", skip_damaged: bool = False
) -> Lesson:
    """Pictures of one's own: a folder of a folder per class, or a .zip of it.

    Args:
        name: of the task; the folder's own unless given.
        head: "zero-shot", "class means", or "auto": zero-shot where the family has a text tower.
        skip_damaged: whether pictures that cannot be decoded are left out.

    Raises:
        BadFile: there are no class folders, two of one name, or damaged pictures.
        BadValue: a class has too few pictures.
        UnknownName: of another word for the head.
    """
    if path.is_dir():
        found = _read(path, path, family.model.image_size, skip_damaged)
    elif not path.exists():
        raise BadFile("pictures", path, "does not exist", "check the path")
    else:
        with unpacked(path) as place:
            found = _read(path, place, family.model.image_size, skip_damaged)
            if isinstance(found.images, Pictures):
                problem = f"holds {len(found.images)} pictures, more than memory should"
                raise BadFile("pictures", path, problem, "unpack it, and give the folder")
    trained, held = split(found.labels)
    images, labels = found.images[trained], found.labels[trained]
    matrix, source = frozen_head(family, found.classes, images, labels, head)
    title = normal(name or path.stem).strip()
    return Lesson(
        name=_plain(title), title=title, of_family=False, classes=found.classes,
        images=images, labels=labels,
        held_images=found.images[held], held_labels=found.labels[held],
        head=matrix, head_from=source, skipped=found.skipped,
    )  # fmt: skip


def split(labels: Labels) -> tuple[Labels, Labels]:
    """Which pictures are trained on, and which are held out: a fifth of each class (less where that
    is more than MOST_HELD), one at least where a class has two, drawn by the class's own seed."""
    trained, held, share = [], [], min(HELD_OUT, MOST_HELD / len(labels))
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        order = np.random.default_rng([SEED, int(label)]).permutation(own)
        aside = max(1, round(share * len(own))) if len(own) > 1 else 0
        held.append(order[:aside])
        trained.append(order[aside:])
    return np.sort(np.concatenate(trained)), np.sort(np.concatenate(held))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """The pictures of class folders."""

    classes: tuple[str, ...]
    images: UInt8[np.ndarray, "n h w 3"] | Pictures
    labels: Labels
    skipped: tuple[str, ...]


def _read(path: Path, place: Path, size: int, skip_damaged: bool) -> _Found:
    """The pictures of a folder of class folders, each of which can be decoded.

    Args:
        path: what messages call it.
    """
    try:
        classes = class_folders(place, "pictures")
    except BadFile as error:
        raise BadFile("pictures", path, error.problem, error.remedy) from error
    if {name.lower() for name in classes} <= SPLITS:
        problem = f"holds {listed(classes)}, which are splits and no classes"
        raise BadFile("pictures", path, problem, f"give one of them: {path / classes[0]}")
    if len(classes) < 2:
        problem = f"has one class, {classes[0]}"
        raise BadFile("pictures", path, problem, "give two folders of pictures or more")
    found, room = [], IN_MEMORY
    for name in classes:
        found.append(_sound(place / name, size, room))
        room -= 3 * size**2 * len(found[-1][0])
    damaged = [bad.relative_to(place).as_posix() for _, bads, _ in found for bad in bads]
    if damaged and not skip_damaged:
        problem = f"holds {len(damaged)} damaged pictures: {listed(damaged)}"
        remedy = "mend them, move them away, or ask for damaged pictures to be skipped"
        raise BadFile("pictures", path, problem, remedy)
    for name, (paths, _, _) in zip(classes, found, strict=True):
        if len(paths) < LEAST:
            problem = f"has {len(paths)} pictures that can be used"
            raise BadValue(f"class of {path.name}", name, problem, f"give {LEAST} or more")
    paths = tuple(path for paths, _, _ in found for path in paths)
    kept = [images for _, _, images in found if images is not None]
    return _Found(
        classes=tuple(map(normal, classes)),
        images=np.concatenate(kept) if len(kept) == len(found) else Pictures(paths, size),
        labels=np.repeat(np.arange(len(found)), [len(paths) for paths, _, _ in found]),
        skipped=tuple(damaged),
    )


def _sound(
    folder: Path, size: int, room: int
) -> tuple[list[Path], list[Path], UInt8[np.ndarray, "n h w 3"] | None]:
    """A class's pictures that can be decoded, those that cannot, and the former decoded; None
    where they take more than `room` bytes."""
    paths, damaged, parts = [], [], []
    files, unread = _listed(folder)
    for start in range(0, len(files), TOGETHER):
        good, images, bad = _decoded(files[start : start + TOGETHER], size)
        paths += good
        damaged += bad
        room -= images.nbytes
        if room >= 0:
            parts.append(images)
    images = np.concatenate(parts) if room >= 0 and parts else None
    return paths, [*unread, *damaged], images


def _listed(folder: Path) -> tuple[Sequence[Path], list[Path]]:
    """The pictures of a class, and those of kinds that are not read."""
    unread: list[Path] = []
    while True:
        skipped = [path.relative_to(folder).as_posix() for path in unread]
        try:
            return picture_files(folder, skipped, f"class {folder.name}"), unread
        except BadFile as error:
            if error.field != "picture":
                raise
            unread.append(Path(str(error.value)))


def _decoded(
    paths: Sequence[Path], size: int
) -> tuple[list[Path], UInt8[np.ndarray, "n h w 3"], list[Path]]:
    """Pictures that can be decoded, these decoded, and those that cannot."""
    try:
        return list(paths), decoded(paths, size), []
    except BadFile:
        if len(paths) == 1:
            return [], decoded([], size), list(paths)
    halves = (paths[: len(paths) // 2], paths[len(paths) // 2 :])
    (good, images, bad), (more, others, worse) = (_decoded(half, size) for half in halves)
    return [*good, *more], np.concatenate([images, others]), [*bad, *worse]


def _plain(title: str) -> str:
    """A name that a file and a task can have."""
    plain = "".join("-" if letter in '/\\\0:*?"<>|' else letter for letter in title)
    return plain.strip(" .") or "pictures"


def renamed(lesson: Lesson, name: str) -> Lesson:
    """The same lesson under another name."""
    return dataclasses.replace(lesson, name=_plain(normal(name)), title=name)
