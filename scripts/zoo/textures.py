"""Generated textures, named as in the describable textures tradition; parameters are drawn at random."""

import numpy as np

from . import drawing
from .task import Task

CLASSES = [
    "banded",
    "chequered",
    "dotted",
    "gridded",
    "honeycombed",
    "marbled",
    "spiralled",
    "woven",
    "zigzagged",
    "cracked",
    "bubbly",
    "scaly",
]
SIDE = 64
ROWS, COLUMNS = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
BATCH = 100


class Field:
    """Rotated coordinates in periods of the pattern, and an edge sharpness, one a picture."""

    def __init__(self, rng: np.random.Generator, count: int):
        self.rng, self.count = rng, count
        angle = self.between(0, 2 * np.pi)
        along = (COLUMNS - SIDE / 2) * np.cos(angle) + (ROWS - SIDE / 2) * np.sin(angle)
        across = (ROWS - SIDE / 2) * np.cos(angle) - (COLUMNS - SIDE / 2) * np.sin(angle)
        warp = drawing.smooth_noise(rng, count, 3, SIDE) * self.between(0, 0.8)
        self.period, self.sharpness = self.between(11, 19), self.between(3, 9)
        self.along = (along + warp + self.between(0, 20)) / self.period
        self.across = (across + np.roll(warp, 7, 1) + self.between(0, 20)) / self.period

    def between(self, low: float, high: float) -> np.ndarray:
        return drawing.uniform(self.rng, self.count, low, high)

    def edge(self, distance: np.ndarray, gain: float) -> np.ndarray:
        """A soft step: 1 where `distance` is positive."""
        return 1 / (1 + np.exp(-np.clip(gain * self.sharpness * distance, -30, 30)))


def _from_cell(value: np.ndarray) -> np.ndarray:
    return np.abs(value - np.round(value))


def _banded(f: Field) -> np.ndarray:
    return f.edge(np.sin(2 * np.pi * f.along), 1)


def _chequered(f: Field) -> np.ndarray:
    return f.edge(np.sin(2 * np.pi * f.along / 1.3) * np.sin(2 * np.pi * f.across / 1.3), 2)


def _dotted(f: Field) -> np.ndarray:
    return f.edge(f.between(0.2, 0.32) - np.hypot(_from_cell(f.along), _from_cell(f.across)), 4)


def _gridded(f: Field) -> np.ndarray:
    return f.edge(f.between(0.09, 0.14) - np.minimum(_from_cell(f.along), _from_cell(f.across)), 6)


def _honeycombed(f: Field) -> np.ndarray:
    tall = np.sqrt(3)
    centred = np.stack(
        [f.along - np.round(f.along), f.across - np.round(f.across / tall) * tall], -1
    )
    between = np.stack(
        [f.along - np.floor(f.along) - 0.5, f.across - (np.floor(f.across / tall) + 0.5) * tall], -1
    )
    nearer = (centred**2).sum(-1, keepdims=True) < (between**2).sum(-1, keepdims=True)
    offset = np.abs(np.where(nearer, centred, between))
    wall = 0.5 - np.maximum(offset[..., 0], offset[..., 0] / 2 + offset[..., 1] * tall / 2)
    return f.edge(f.between(0.07, 0.11) - wall, 6)


def _marbled(f: Field) -> np.ndarray:
    veins = f.between(2.0, 3.2) * drawing.smooth_noise(f.rng, f.count, 3.4, SIDE)
    return f.edge(np.sin(2 * np.pi * f.along / 2.2 + veins), 0.6)


def _spiralled(f: Field) -> np.ndarray:
    x, y = COLUMNS - SIDE / 2 - f.between(-6, 6), ROWS - SIDE / 2 - f.between(-6, 6)
    arms = f.rng.choice([-2, -1, 1, 2], (f.count, 1, 1))
    return f.edge(
        np.sin(2 * np.pi * np.hypot(x, y) / f.period + arms * np.arctan2(y, x) + f.between(0, 6)), 1
    )


def _woven(f: Field) -> np.ndarray:
    along, across = f.along * 1.1, f.across * 1.1
    over = (np.floor(along) + np.floor(across)) % 2 == 0
    strand, other = np.abs(np.sin(np.pi * along)), np.abs(np.sin(np.pi * across))
    return np.where(over, strand * (0.7 + 0.3 * other), 0.5 * other)


def _zigzagged(f: Field) -> np.ndarray:
    return f.edge(
        np.sin(2 * np.pi * (f.along + f.between(0.7, 1.0) * np.abs((f.across * 0.8) % 2 - 1))), 1
    )


def _points(f: Field, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Column and row of random points, each (pictures, points, 1, 1)."""
    return tuple(
        f.rng.uniform(-4, SIDE + 4, (f.count, number, 1, 1)).astype(np.float32) for _ in range(2)
    )


def _cracked(f: Field) -> np.ndarray:
    columns, rows = _points(f, 16)
    warp = 1.5 * drawing.smooth_noise(f.rng, f.count, 3, SIDE)[:, None]
    distance = np.sort(np.hypot(COLUMNS + warp - columns, ROWS - rows), 1)
    return f.edge(f.between(1.4, 2.4) - (distance[:, 1] - distance[:, 0]), 0.5)


def _bubbly(f: Field) -> np.ndarray:
    columns, rows = _points(f, 18)
    radius = f.rng.uniform(4, 10, (f.count, 18, 1, 1)).astype(np.float32)
    ring = np.exp(-(((np.hypot(COLUMNS - columns, ROWS - rows) - radius) / 1.5) ** 2))
    return ring.max(1)


def _scaly(f: Field) -> np.ndarray:
    row = np.floor(f.across * 1.1)
    height = f.across * 1.1 - row
    place = f.along * 1.1 + 0.5 * (row % 2)
    sideways = place - np.floor(place) - 0.5
    arc = 0.85 * (1 - np.sqrt(np.clip(1 - (2 * sideways) ** 2, 0, 1)))
    return f.edge(0.17 - np.abs(height - arc), 2.5)


PATTERNS = [_banded, _chequered, _dotted, _gridded, _honeycombed, _marbled]
PATTERNS += [_spiralled, _woven, _zigzagged, _cracked, _bubbly, _scaly]


def _textures(label: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Pictures of one class: the pattern mixes two colours; light varies and the sensor is noisy."""
    pattern = PATTERNS[label](Field(rng, count))[..., None]
    first = drawing.colours(rng, count)
    second = drawing.contrasting(rng, first, 80)
    picture = first * pattern + second * (1 - pattern)
    shade = drawing.smooth_noise(rng, count, 2.5, SIDE) * drawing.uniform(rng, count, 0, 0.08)
    picture = picture * (1 + shade[..., None])
    small = picture.reshape(count, drawing.SIDE, 2, drawing.SIDE, 2, 3).mean((2, 4))
    return drawing.camera(small, rng, (2, 10), (0.2, 0.5))


def draw_by_class(
    painter, classes: int, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Paint a balanced set class by class in batches, then shuffle it."""
    labels = np.sort(drawing.balanced(np.arange(classes), count, rng))
    parts = []
    for label in range(classes):
        wanted = int((labels == label).sum())
        parts += [
            painter(label, min(BATCH, wanted - start), rng) for start in range(0, wanted, BATCH)
        ]
    order = rng.permutation(count)
    return np.concatenate(parts)[order], labels[order]


def textures_task() -> Task:
    """The textures task: every split draws its own parameters."""
    return Task(
        name="textures", title="Textures", kind="source", template="a {} texture", classes=CLASSES,
        origin="generated, new random parameters in every split", weight=1.1,
        draw=lambda split, count, rng: draw_by_class(_textures, len(CLASSES), count, rng),
    )  # fmt: skip
