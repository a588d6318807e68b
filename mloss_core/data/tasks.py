"""Classification tasks: labelled images from an .npz, without unpickling, or from folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from ..errors import BadFile, MlossError
from .images import Pictures, Resized, picture_files
from .prompts import spoken

BOMB, LARGE = 200, 1 << 28  # an archive may unpack to so many times its size, or to so many bytes


@dataclass(frozen=True, kw_only=True)
class Task:
    """A classification task: test images only; validation images are in another record.

    Args:
        kind: "source" (a source was fine-tuned on it) or "out-of-domain".
        images, labels: labels are row numbers of the task's head.
        classes: class names in label order.
    """

    name: str
    title: str
    kind: str
    images: UInt8[np.ndarray, "n h w 3"] | Pictures | Resized
    labels: Int64[np.ndarray, " n"]
    classes: tuple[str, ...]


def load_task(path: Path, name: str, title: str, kind: str, split: str = "test") -> Task:
    """Reads one split ("test" or "val") of tasks/<task>.npz; raises BadFile."""
    prefix = {"test": "", "val": "val_"}[split]
    arrays = read_npz(path, f"task {name}", (prefix + "images", prefix + "labels", "classes"))
    images, labels = arrays[prefix + "images"], arrays[prefix + "labels"]
    classes = tuple(str(c) for c in arrays["classes"])
    check_images(images, f"task {name}", path)
    check_labels(labels, len(images), len(classes), f"task {name}", path)
    labels = labels.astype(np.int64)
    return Task(name=name, title=title, kind=kind, images=images, labels=labels, classes=classes)


def load_folder(
    folder: Path,
    split: str,
    size: int,
    classes: Sequence[str],
    skipped: Sequence[str],
    **about: str,
) -> Task:
    """Reads <task>/<split>/<class>/ of pictures; they are decoded when they are needed.

    Args:
        split: "test" or "val".
        classes: names of the class folders in the head's order, where `_` and a space are the same;
            none means by name.
        skipped: pictures left out on the user's word, relative to their class folder.
        about: name, title and kind.

    Raises:
        BadFile: a split, a class or pictures are missing.
    """
    place, argument = folder / split, f"task {about['name']}"
    there = {spoken(name): place / name for name in class_folders(place, argument)}
    classes = tuple(classes) or tuple(path.name for path in there.values())
    odd = there.keys() ^ set(map(spoken, classes))
    if odd:
        shown = ", ".join(sorted(odd)[:10])
        problem = f"has other class folders than the task's classes: {shown}"
        raise BadFile(argument, place, problem, "give one folder per class")
    files = [picture_files(there[spoken(name)], skipped) for name in classes]
    return Task(
        images=Pictures(tuple(path for paths in files for path in paths), size),
        labels=np.repeat(np.arange(len(files)), [len(paths) for paths in files]),
        classes=classes,
        **about,
    )


def class_folders(place: Path, argument: str) -> list[str]:
    """Names of the folders of a split, in order; raises BadFile if there are none."""
    if not place.is_dir():
        raise BadFile(argument, place, "does not exist", "see docs/format.md")
    names = sorted(path.name for path in place.iterdir() if path.is_dir())
    if not names:
        raise BadFile(argument, place, "has no class folders", "give one folder per class")
    return names


def read_npz(
    path: Path, argument: str, keys: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Mapping[str, np.ndarray]:
    """The arrays of those keys, and the optional ones that are there; raises BadFile when missing,
    pickled, truncated or no .npz."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            missing = [key for key in keys if key not in file.files]
            if missing:
                problem = f"has no array {missing[0]!r} but {', '.join(file.files)[:80]}"
                raise BadFile(argument, path, problem, f"it needs {', '.join(keys)}")
            packed, unpacked = path.stat().st_size, sum(i.file_size for i in file.zip.infolist())
            if unpacked > max(BOMB * packed, LARGE):
                problem = f"unpacks to {unpacked} bytes, {unpacked // packed} times its size"
                raise BadFile(argument, path, problem, "write it with numpy.savez")
            there = [key for key in optional if key in file.files]
            return {key: file[key] for key in (*keys, *there)}
    except FileNotFoundError as error:
        raise BadFile(argument, path, "does not exist", "check the path") from error
    except MlossError:
        raise
    except Exception as error:  # damaged archives raise a dozen kinds
        problem = f"cannot be read as .npz of plain arrays ({type(error).__name__})"
        raise BadFile(
            argument, path, problem, "write it with numpy.savez, without objects"
        ) from error


def check_labels(labels: np.ndarray, images: int, classes: int, argument: str, path: Path) -> None:
    """Raises BadFile unless there is one integer label per image, each of a class."""
    if labels.shape != (images,) or labels.dtype.kind not in "iu":
        problem = f"has labels of shape {labels.shape} for {images} images"
        raise BadFile(argument, path, problem, "give one integer label per image")
    if not images:
        raise BadFile(argument, path, "holds no images", "give at least one")
    if labels.min() < 0 or labels.max() >= classes:
        odd = labels.min() if labels.min() < 0 else labels.max()
        problem = f"has label {odd} for {classes} classes"
        raise BadFile(argument, path, problem, "labels are 0 to classes - 1")


def check_images(images: np.ndarray, argument: str, path: Path) -> None:
    """Raises BadFile unless images are uint8, N x H x W x 3 and at least one."""
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        problem = f"has images of shape {images.shape} and dtype {images.dtype}"
        raise BadFile(argument, path, problem, "give uint8, N x H x W x 3")
    if 0 in images.shape:
        raise BadFile(argument, path, "holds no images", "give at least one")
