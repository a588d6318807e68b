"""Picture files: listed, and decoded as CLIP expects them when needed."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from ..errors import BadFile, LostLink
from ..places import check_plain
from ..text import normal
from .names import files_below, listed
from .shades import RangeError, as_rgb

# Kinds that Pillow reads by itself; it would hand EPS to another program.
KINDS = (
    "JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000", "DIB", "DDS", "ICO",
    "PCX", "PSD", "QOI", "SGI", "SUN", "TGA",
)  # fmt: skip
MARKED = KINDS[:9]  # whose files say what they are, whatever their ending
UNREAD = frozenset(
    (
        ".heic", ".heif", ".hif", ".jxl", ".svg", ".eps", ".dcm", ".cr2", ".cr3", ".nef", ".arw",
        ".dng", ".raf", ".orf", ".rw2",
    )
)  # fmt: skip
# Files beside pictures that need no look inside.
OTHERS = frozenset(
    (
        ".txt", ".json", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".md", ".html", ".log", ".py",
        ".npz", ".npy", ".zip",
    )
)  # fmt: skip
DECODERS = 2  # threads beside the model: more would take the cores it computes on


@dataclass(frozen=True)
class Pictures:
    """An array of images, N x size x size x 3, backed by picture files that slicing decodes.

    A slice is decoded at once; an array of numbers gives other Pictures, in that order.
    """

    paths: tuple[Path, ...]
    size: int

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, which: slice) -> UInt8[np.ndarray, "n h w 3"]: ...
    @overload
    def __getitem__(self, which: Int64[np.ndarray, " n"]) -> Pictures: ...
    def __getitem__(
        self, which: slice | Int64[np.ndarray, " n"]
    ) -> Pictures | UInt8[np.ndarray, "n h w 3"]:
        if isinstance(which, slice):
            return decoded(self.paths[which], self.size)
        return Pictures(tuple(self.paths[i] for i in which), self.size)


@dataclass(frozen=True)
class Resized:
    """An array of images backed by small pictures in memory that slicing enlarges.

    Args:
        pixels: as they came, grey or RGB.
        which: those of them that are meant, in order.
    """

    pixels: UInt8[np.ndarray, "m h w"] | UInt8[np.ndarray, "m h w 3"]
    which: Int64[np.ndarray, " n"]
    size: int

    def __len__(self) -> int:
        return len(self.which)

    @overload
    def __getitem__(self, which: slice) -> UInt8[np.ndarray, "n h w 3"]: ...
    @overload
    def __getitem__(self, which: Int64[np.ndarray, " n"]) -> Resized: ...
    def __getitem__(
        self, which: slice | Int64[np.ndarray, " n"]
    ) -> Resized | UInt8[np.ndarray, "n h w 3"]:
        if not isinstance(which, slice):
            return Resized(self.pixels, self.which[which], self.size)
        pictures = [Image.fromarray(self.pixels[i]) for i in self.which[which]]
        return (
            np.stack([prepared(p, self.size) for p in pictures]) if pictures else _none(self.size)
        )


def picture_files(
    folder: Path, skipped: Iterable[str] = (), argument: str = "pictures"
) -> tuple[Path, ...]:
    """All picture files below a folder, by name; raises BadFile if there are none.

    Args:
        skipped: files left out on the user's word, relative to the folder.
        argument: what errors call the folder.
    """
    if not folder.is_dir():
        raise BadFile(argument, folder, "is no folder", "check the path")
    out = {normal(Path(name).as_posix()) for name in skipped}
    files = [
        path
        for path in files_below(folder)
        if normal(path.relative_to(folder).as_posix()) not in out
    ]
    paths = tuple(path for path in files if _is_picture(path))
    if not paths:
        others = [path.name for path in files]
        problem = "holds no pictures" + (f" but {listed(others)}" if others else "")
        raise BadFile(argument, folder, problem, f"give .jpg, .png or {len(_endings())} others")
    return paths


@functools.cache
def _endings() -> frozenset[str]:
    """Endings of the kinds that are read; MPO, a camera's two JPEGs in one, is read as JPEG."""
    Image.init()
    return frozenset(end for end, kind in Image.EXTENSION.items() if kind in (*KINDS, "MPO"))


def _is_picture(path: Path) -> bool:
    """Whether a file is a picture, by its ending or else its content; raises BadFile for a picture
    of a kind that is not read."""
    ending = path.suffix.lower()
    if ending in _endings():
        if path.is_symlink() and not path.exists():
            raise LostLink("picture", path)
        return True
    if ending in UNREAD:
        remedy = "convert it to .png, move it away, or name it under skip in family.toml"
        raise BadFile("picture", path, f"is a {ending}, which is not read", remedy)
    if ending in OTHERS:
        return False
    try:
        check_plain(path)
        with Image.open(path, formats=MARKED):
            return True
    except Image.DecompressionBombError:  # said when it is decoded
        return True
    except Exception:  # whatever a decoder makes of it, it is no picture
        return False


def decoded(paths: Sequence[Path], size: int) -> UInt8[np.ndarray, "n h w 3"]:
    """Decodes and prepares picture files; raises BadFile naming one that cannot be decoded."""
    if not paths:
        return _none(size)
    with ThreadPoolExecutor(DECODERS) as threads:
        return np.stack(list(threads.map(lambda path: _decoded(path, size), paths)))


def _decoded(path: Path, size: int) -> UInt8[np.ndarray, "size size 3"]:
    try:
        check_plain(path)
        with Image.open(path, formats=KINDS) as picture:
            return prepared(picture, size)
    except RangeError as error:
        remedy = "save it with 8 bits, or scaled to that range"
        raise BadFile("picture", path, str(error), remedy) from error
    except Exception as error:  # decoders of damaged pictures raise a dozen kinds
        problem = f"cannot be decoded ({type(error).__name__})"
        remedy = "remove it, or name it under skip in family.toml"
        raise BadFile("picture", path, problem, remedy) from error


def prepared(picture: Image.Image, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A picture preprocessed for CLIP: shorter side to `size` (bicubic), centre cropped, RGB."""
    # As torchvision's Resize and CenterCrop round, which open_clip evaluates with.
    rgb = as_rgb(picture)
    width, height = (int(size * side / min(rgb.size)) for side in rgb.size)
    resized = rgb.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def _none(size: int) -> UInt8[np.ndarray, "0 size size 3"]:
    return np.empty((0, size, size, 3), np.uint8)
