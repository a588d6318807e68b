"""Classification tasks: labelled images from an .npz, without unpickling, or from folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from ..errors import BadFile, MlossError
from ..places import check_plain
from ..plain_text import Misread, decoded
from ..text import normal
from .images import Pictures, Resized, picture_files
from .names import by_number, in_order, listed, visible
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


def load_task(path: Path, name: str, title: str, kind: str, size: int, split: str = "test") -> Task:
    """Reads one split ("test" or "val") of tasks/<task>.npz; raises BadFile.

    Args:
        size: of the family's images, in pixels.
    """
    prefix, argument = {"test": "", "val": "val_"}[split], f"task {name}"
    arrays = read_npz(path, argument, (prefix + "images", prefix + "labels", "classes"))
    images, labels = arrays[prefix + "images"], arrays[prefix + "labels"]
    classes = class_names(arrays["classes"], argument, path)
    check_images(images, argument, path)
    check_pixels(images, size, argument, path)
    check_labels(labels, len(images), len(classes), argument, path)
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
            none means in the folders' own.
        skipped: pictures left out on the user's word, relative to their class folder.
        about: name, title and kind.

    Raises:
        BadFile: a split, a class or pictures are missing.
    """
    place, argument = folder / split, f"task {about['name']}"
    names = class_folders(place, argument)
    classes = tuple(classes) or tuple(names)
    ordered = matched(names, classes)
    if not ordered:
        odd = sorted({*map(comparable, names)} ^ {*map(comparable, classes)})
        problem = (
            f"has other class folders than the task's classes: {listed(odd)} "
            f"(folders {listed(names)}; classes {listed(classes)})"
        )
        remedy = "give one folder per class, or name the folders as classes in family.toml"
        raise BadFile(argument, place, problem, remedy)
    files = [picture_files(place / name, skipped) for name in ordered]
    return Task(
        images=Pictures(tuple(path for paths in files for path in paths), size),
        labels=np.repeat(np.arange(len(files)), [len(paths) for paths in files]),
        classes=classes,
        **about,
    )


def class_folders(place: Path, argument: str) -> list[str]:
    """Names of the folders of a split, as numbers where all are whole numbers, else as text.

    Raises:
        BadFile: there are none, or two of one name.
    """
    if not place.is_dir():
        raise BadFile(argument, place, "does not exist", "see docs/format.md")
    names = in_order(path.name for path in visible(place) if path.is_dir())
    if not names:
        raise BadFile(argument, place, "has no class folders", "give one folder per class")
    classes: dict[str, str] = {}
    for name in names:
        if comparable(name) in classes:
            problem = f"has two folders of one class: {classes[comparable(name)]} and {name}"
            raise BadFile(argument, place, problem, "put their pictures into one of them")
        classes[comparable(name)] = name
    return names


def check_order(names: Sequence[str], place: Path, argument: str) -> None:
    """Raises BadFile where class folders have another order by the numbers in their names."""
    names, numbered = list(names), by_number(names)
    if names != numbered:
        problem = (
            "has class folders whose order is not certain, and the head does not name its rows: "
            f"as text {listed(names)}, or by number {listed(numbered)}"
        )
        remedy = 'write classes = ["...", "..."] into family.toml, in the order of the head\'s rows'
        raise BadFile(argument, place, problem, remedy)


def matched(names: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    """Class folders in the order of these classes; none where they are not the same."""
    folders = {comparable(name): name for name in names}
    keys = [comparable(name) for name in classes]
    if sorted(keys) != sorted(folders):
        return ()
    return tuple(folders[key] for key in keys)


def comparable(name: str) -> str:
    """A class's name as it is compared: `_` is a space, in one Unicode form."""
    return normal(spoken(name))


def read_npz(
    path: Path, argument: str, keys: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Mapping[str, np.ndarray]:
    """The arrays of those keys, and the optional ones that are there; raises BadFile when missing,
    pickled, truncated or no .npz."""
    try:
        check_plain(path)
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


def class_names(classes: np.ndarray, argument: str, path: Path) -> tuple[str, ...]:
    """Class names of an .npz; raises BadFile unless they are a row of texts or whole numbers."""
    if classes.ndim != 1 or classes.dtype.kind not in "USiu":
        problem = f"has classes of dtype {classes.dtype} and shape {classes.shape}"
        raise BadFile(argument, path, problem, 'write them as np.array(["one", "two"])')
    if classes.dtype.kind != "S":
        return tuple(map(str, classes))
    try:
        return tuple(decoded(name) for name in classes.tolist())
    except Misread as error:
        problem = f"has a class name of bytes that {error}"
        raise BadFile(argument, path, problem, 'write them as np.array(["one", "two"])') from error


def check_labels(labels: np.ndarray, images: int, classes: int, argument: str, path: Path) -> None:
    """Raises BadFile unless there is one integer label per image, each of a class."""
    if labels.dtype.kind not in "iu":
        problem = f"has labels of dtype {labels.dtype}, such as {labels.ravel()[:1].tolist()}"
        remedy = "give whole numbers: the row of the head for each image, from 0 (dtype int64)"
        raise BadFile(argument, path, problem, remedy)
    if labels.shape != (images,):
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


def check_pixels(images: np.ndarray, size: int, argument: str, path: Path) -> None:
    """Raises BadFile unless the images are of the family's size."""
    if images.shape[1:3] != (size, size):
        problem = f"has images of {images.shape[1]} x {images.shape[2]} pixels"
        raise BadFile(argument, path, problem, f"resize them to {size} x {size}")
