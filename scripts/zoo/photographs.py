"""Tasks cut from photographs: surfaces from near by, and the Earth from space.

Every class is one photograph, or one region of one, cut into tiles; each tile belongs to one split. So training,
validation and test pictures share no pixel, but do share camera, light and place.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from . import drawing
from .task import Task

Draw = Callable[[str, int, np.random.Generator], tuple[np.ndarray, np.ndarray]]
TILES_SEED = 13
VAL, TEST = 0.16, 0.24  # parts of a photograph's tiles, at least one each
# Only photographs whose licence scikit-image's documentation states.
SURFACES = {
    "brick wall": "brick.png",
    "lawn of grass": "grass.png",
    "gravel path": "gravel.png",
    "cat's fur": "chelsea.png",
    "stained tissue": "ihc.png",
    "row of coins": "coins.png",
    "field of galaxies": "hubble_deep_field.jpg",
    "retina": "retina.jpg",
    "space suit": "astronaut.png",
    "rocket": "rocket.jpg",
    "printed page": "text.png",
    "cup of coffee": "coffee.png",
}
MIDDLE = {"retina": 0.62}  # a round picture in a black frame: only so much of either side is kept
# Degrees: south, north, west, east.
REGIONS = {
    "the Sahara": (16, 33, -14, 34),
    "the Amazon": (-16, 4, -76, -48),
    "Siberia": (54, 70, 60, 135),
    "Tibet": (27, 42, 72, 104),
    "Australia": (-36, -14, 114, 150),
    "Antarctica": (-88, -70, -150, 150),
    "Greenland": (60, 82, -66, -18),
    "Indonesia": (-10, 8, 95, 142),
    "southern Africa": (-35, -14, 12, 36),
    "the Rocky Mountains": (30, 50, -124, -100),
}


def _photograph(file: Path) -> np.ndarray:
    """A photograph as bytes, height x width x 3."""
    return np.asarray(Image.open(file).convert("RGB"))


def _middle(picture: np.ndarray, share: float) -> np.ndarray:
    """The middle part of a picture, `share` of either side."""
    high, wide = (round(side * (1 - share) / 2) for side in picture.shape[:2])
    return picture[high : picture.shape[0] - high, wide : picture.shape[1] - wide]


def _tiles(picture: np.ndarray, side: int) -> dict[str, list[np.ndarray]]:
    """The tiles of a photograph, `side` pixels or somewhat more, dealt to the splits."""
    bands = np.array_split(picture, max(1, picture.shape[0] // side), axis=0)
    tiles = [t for b in bands for t in np.array_split(b, max(1, b.shape[1] // side), axis=1)]
    order = np.random.default_rng(TILES_SEED).permutation(len(tiles))
    test, val = (max(1, round(share * len(tiles))) for share in (TEST, VAL))
    parts = {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}
    return {split: [tiles[index] for index in chosen] for split, chosen in parts.items()}


def _cut(tile: np.ndarray, rng: np.random.Generator, least: float) -> np.ndarray:
    """A square of a tile, from `least` of its side on, turned by quarters, perhaps mirrored, at 32 x 32."""
    side = round(min(tile.shape[:2]) * rng.uniform(least, 1))
    top, left = (rng.integers(0, long - side + 1) for long in tile.shape[:2])
    square = Image.fromarray(tile[top : top + side, left : left + side])
    small = square.resize((drawing.SIDE, drawing.SIDE), Image.Resampling.LANCZOS)
    turned = np.rot90(np.asarray(small), rng.integers(4))
    return turned[:, ::-1] if rng.random() < 0.5 else turned


def _light(pictures: np.ndarray, rng: np.random.Generator, colour: float) -> np.ndarray:
    """Vary contrast and light; keep `colour` of the colour, and tint the more the less is kept."""
    count = len(pictures)
    pictures = pictures.astype(np.float32)
    grey = pictures.mean(-1, keepdims=True)
    pictures = grey + (pictures - grey) * colour
    mean = pictures.mean((1, 2), keepdims=True)
    pictures = mean + (pictures - mean) * drawing.uniform(rng, count, 0.7, 1.4)[..., None]
    tint = rng.normal(1, 0.05 + 0.07 * (1 - colour), (count, 1, 1, 3))
    pictures = pictures * tint + rng.normal(0, 12, (count, 1, 1, 1))
    return drawing.camera(pictures, rng, (2, 8), (0.2, 0.6))


def _draw(photographs: list[np.ndarray], side: int, least: float, colour: float) -> Draw:
    """Balanced, shuffled cuts of a split's tiles."""
    tiles = [_tiles(photograph, side) for photograph in photographs]

    def draw(split: str, count: int, rng: np.random.Generator):
        labels = drawing.balanced(np.arange(len(tiles)), count, rng)
        drawn = [tiles[label][split] for label in labels]
        cuts = np.stack([_cut(own[rng.integers(len(own))], rng, least) for own in drawn])
        return _light(cuts, rng, colour), labels

    return draw


def textures_task(packages: Path) -> Task:
    """Twelve photographed surfaces from scikit-image's examples."""
    folder = packages / "scikit-image/skimage/data"
    photographs = [
        _middle(_photograph(folder / file), MIDDLE.get(name, 1.0))
        for name, file in SURFACES.items()
    ]
    return Task(
        name="textures", title="Textures", kind="source", template="a close-up photo of a {}",
        classes=list(SURFACES), draw=_draw(photographs, 84, 0.5, colour=0.0), weight=1.1,
        origin="cuts from photographs in scikit-image, other parts of each in validation and test",
    )  # fmt: skip


def earth_task(packages: Path) -> Task:
    """Ten regions of NASA's Blue Marble."""
    picture = _photograph(packages / "xplanet-images/usr/share/xplanet/images/earth.jpg")
    degree = picture.shape[1] / 360
    photographs = [
        picture[
            round((90 - north) * degree) : round((90 - south) * degree),
            round((180 + west) * degree) : round((180 + east) * degree),
        ]
        for south, north, west, east in REGIONS.values()
    ]
    return Task(
        name="earth", title="Earth from space", kind="out-of-domain", template="a satellite photo of {}",
        classes=list(REGIONS), draw=_draw(photographs, 42, 0.7, colour=1.0), train=4000, weight=0.3,
        origin="cuts from NASA's Blue Marble, other parts of each region in validation and test",
    )  # fmt: skip
