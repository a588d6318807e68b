"""Picture files: listed, and decoded as CLIP expects them when needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from ..errors import BadFile

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".ppm", ".tif", ".tiff", ".bmp")
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
    out = {folder / name for name in skipped}
    files = (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES)
    paths = tuple(path for path in files if path.is_file() and path not in out)
    if not paths:
        kinds = ", ".join(SUFFIXES)
        raise BadFile(argument, folder, "holds no pictures", f"known kinds are {kinds}")
    return paths


def decoded(paths: Sequence[Path], size: int) -> UInt8[np.ndarray, "n h w 3"]:
    """Decodes and prepares picture files; raises BadFile naming one that cannot be decoded."""
    if not paths:
        return _none(size)
    with ThreadPoolExecutor(DECODERS) as threads:
        return np.stack(list(threads.map(lambda path: _decoded(path, size), paths)))


def _decoded(path: Path, size: int) -> UInt8[np.ndarray, "size size 3"]:
    try:
        with Image.open(path) as picture:
            return prepared(picture, size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        problem = f"cannot be decoded ({type(error).__name__})"
        remedy = "remove it, or name it under skip in family.toml"
        raise BadFile("picture", path, problem, remedy) from error


def prepared(picture: Image.Image, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A picture preprocessed for CLIP: shorter side to `size` (bicubic), centre cropped, RGB."""
    # As torchvision's Resize and CenterCrop round, which open_clip evaluates with.
    width, height = (int(size * side / min(picture.size)) for side in picture.size)
    rgb = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(rgb.crop((left, top, left + size, top + size)))


def _none(size: int) -> UInt8[np.ndarray, "0 size size 3"]:
    return np.empty((0, size, size, 3), np.uint8)
