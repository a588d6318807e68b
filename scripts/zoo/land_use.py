"""Generated aerial tiles in the classes of satellite land-use sets; parameters are drawn at random."""

import numpy as np

from . import drawing
from .task import Task
from .textures import SIDE, Field, draw_by_class

CLASSES = [
    "forest", "river", "highway", "residential area", "industrial area", "annual crop", "permanent crop", "pasture",
    "herbaceous vegetation", "lake",
]  # fmt: skip
FIELD_COLOURS = [
    (148, 128, 86),
    (120, 126, 70),
    (92, 116, 60),
    (172, 152, 108),
    (104, 92, 66),
    (140, 140, 90),
]
GROUND_COLOURS = [(58, 92, 52), (96, 112, 64), (120, 118, 76), (84, 104, 58)]


class Tile(Field):
    """Coordinates in pixels of the fine grid and ways to colour ground."""

    def __init__(self, rng: np.random.Generator, count: int):
        super().__init__(rng, count)
        self.u, self.v = self.along * self.period, self.across * self.period
        self.u, self.v = (
            self.u - self.u.mean((1, 2), keepdims=True),
            self.v - self.v.mean((1, 2), keepdims=True),
        )

    def noise(self, roughness: float) -> np.ndarray:
        return drawing.smooth_noise(self.rng, self.count, roughness, SIDE)[..., None]

    def colour(self, base: tuple[int, int, int], spread: float = 14) -> np.ndarray:
        return np.array(base, np.float32) + self.rng.normal(
            0, spread, (self.count, 1, 1, 3)
        ).astype(np.float32)

    def mask(self, distance: np.ndarray, gain: float) -> np.ndarray:
        return (1 / (1 + np.exp(-np.clip(gain * distance, -30, 30))))[..., None]

    def ground(self) -> np.ndarray:
        palette = np.array(GROUND_COLOURS, np.float32)[
            self.rng.integers(0, len(GROUND_COLOURS), self.count)
        ]
        return palette[:, None, None] + 9 * self.noise(2.6) + 5 * self.noise(1)

    def parcels(self, number: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
        """Fields around random points: colours, and which parcel each pixel belongs to."""
        points = self.rng.uniform(-SIDE / 2, SIDE / 2, (2, self.count, number, 1, 1)).astype(
            np.float32
        )
        far = np.maximum(np.abs(self.u[:, None] - points[0]), np.abs(self.v[:, None] - points[1]))
        owner = far.argmin(1)
        palette = np.array(FIELD_COLOURS, np.float32)[
            self.rng.integers(0, len(FIELD_COLOURS), (self.count, number))
        ]
        palette += self.rng.normal(0, spread, palette.shape)
        return palette[np.arange(self.count)[:, None, None], owner], owner

    def country(self) -> np.ndarray:
        """Open ground or fields, one or the other a picture."""
        fields = self.parcels(5, 10)[0] + 5 * self.noise(1.5)
        return np.where(self.rng.random((self.count, 1, 1, 1)) < 0.5, fields, self.ground())


def _forest(t: Tile) -> np.ndarray:
    return t.colour((46, 72, 44), 13) + 8 * t.noise(1.2) + 5 * t.noise(0.4) + 5 * t.noise(3)


def _lake(t: Tile) -> np.ndarray:
    return t.colour((40, 66, 84), 18) + 4 * t.noise(3) + 3 * t.noise(0.5)


def _pasture(t: Tile) -> np.ndarray:
    return t.colour((96, 122, 66), 16) + 7 * t.noise(3) + 4 * t.noise(0.6)


def _herbaceous(t: Tile) -> np.ndarray:
    return t.colour((116, 118, 78), 16) + 13 * t.noise(2.2) + 7 * t.noise(1)


def _annual(t: Tile) -> np.ndarray:
    return t.parcels(5, 13)[0] + 4 * t.noise(2) + 3 * t.noise(0.5)


def _permanent(t: Tile) -> np.ndarray:
    fields, owner = t.parcels(4, 8)
    rate = np.take_along_axis(t.rng.uniform(1.0, 1.7, (t.count, 4)), owner.reshape(t.count, -1), 1)
    turned = np.take_along_axis(t.rng.random((t.count, 4)) < 0.5, owner.reshape(t.count, -1), 1)
    rows = np.sin(np.where(turned.reshape(owner.shape), t.u, t.v) * rate.reshape(owner.shape))[
        ..., None
    ]
    stripes = rows * np.array([-20, 4, -14]) * t.between(0.5, 1.2)[..., None]
    return 0.85 * fields + stripes + 4 * t.noise(1)


def _river(t: Tile) -> np.ndarray:
    course = (
        t.u + t.between(3, 9) * np.sin(t.v / t.between(7, 14) + t.between(0, 6)) + t.between(-8, 8)
    )
    water = t.mask(t.between(3.0, 7.0) - np.abs(course), 1.5)
    return t.country() * (1 - water) + water * (t.colour((58, 84, 92), 18) + 3 * t.noise(2))


def _highway(t: Tile) -> np.ndarray:
    course = t.u + t.between(-0.006, 0.006) * t.v**2 + t.between(-9, 9)
    road = t.mask(t.between(1.6, 3.4) - np.abs(course), 3)
    picture = t.country() * (1 - road) + road * t.colour((160, 158, 152), 18)
    side = t.mask(1.3 - np.abs(t.v + t.between(-20, 20)), 3) * (
        t.rng.random((t.count, 1, 1, 1)) < 0.5
    )
    return picture * (1 - side) + side * t.colour((150, 148, 144), 16)


def _residential(t: Tile) -> np.ndarray:
    across, along = t.u / t.between(9, 13), t.v / t.between(7, 11)
    block = (np.round(across).astype(int) % SIDE, np.round(along).astype(int) % SIDE)
    shade = t.rng.uniform(0.6, 1.2, (t.count, SIDE, SIDE))[
        np.arange(t.count)[:, None, None], *block
    ][..., None]
    inside = 0.3 - np.maximum(np.abs(across - np.round(across)), np.abs(along - np.round(along)))
    house = t.mask(inside, 14)
    picture = (t.colour((98, 108, 78)) + 8 * t.noise(1.5)) * (1 - house) + house * t.colour(
        (176, 140, 122), 22
    ) * shade
    street = (np.abs(across / 2 - np.round(across / 2)) < 0.08)[..., None]
    return np.where(street, t.colour((150, 150, 148)), picture) + 6 * t.noise(0.6)


def _industrial(t: Tile) -> np.ndarray:
    picture = t.colour((138, 134, 126)) + 8 * t.noise(2)
    for _ in range(7):
        wide = t.between(4, 11) - np.abs(t.u - t.between(-28, 28))
        high = t.between(4, 9) - np.abs(t.v - t.between(-28, 28))
        hall = t.mask(wide, 4) * t.mask(high, 4)
        roof = t.rng.uniform(120, 245, (t.count, 1, 1, 1)) + t.rng.normal(0, 10, (t.count, 1, 1, 3))
        picture = picture * (1 - hall) + hall * roof
    return picture + 4 * t.noise(0.8)


PAINTERS = [
    _forest,
    _river,
    _highway,
    _residential,
    _industrial,
    _annual,
    _permanent,
    _pasture,
    _herbaceous,
    _lake,
]


def _tiles(label: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Pictures of one class under varying light and haze."""
    picture = PAINTERS[label](Tile(rng, count))
    picture = (
        picture
        * rng.normal(1, 0.07, (count, 1, 1, 3))
        * drawing.uniform(rng, count, 0.7, 1.25)[..., None]
    )
    small = picture.reshape(count, drawing.SIDE, 2, drawing.SIDE, 2, 3).mean((2, 4))
    return drawing.camera(small, rng, (1, 6), (0.2, 0.5))


def land_use_task() -> Task:
    """The land-use task: every split draws its own parameters."""
    return Task(
        name="land_use", title="Land use", kind="source", template="an aerial view of a {}", classes=CLASSES,
        origin="generated, new random parameters in every split", weight=0.7,
        draw=lambda split, count, rng: draw_by_class(_tiles, len(CLASSES), count, rng),
    )  # fmt: skip
