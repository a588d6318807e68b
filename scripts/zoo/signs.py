"""Traffic signs of many countries from Mapillary's sprites, as a camera would catch them."""

from pathlib import Path

import numpy as np

from . import drawing
from .cutouts import read_cutouts
from .task import Task

CLASSES = [
    "pedestrians-crossing",
    "two-way-traffic",
    "keep-right",
    "weight-limit",
    "tunnel",
    "stop",
    "roundabout",
    "turn-left",
    "no-parking",
    "wild-animals",
    "tractors",
    "traffic-signals",
    "crossroads",
    "bicycles-crossing",
    "parking",
    "chevron-right",
]


def signs_task(packages: Path) -> Task:
    """The signs task: the same designs in every split, new simulated captures for validation and test."""
    folder = packages / "rapideditor-mapillary_sprite_source/package/package_signs"
    files = [
        (label, file)
        for label, name in enumerate(CLASSES)
        for file in sorted(folder.glob(f"*--{name}--g*.svg"))
    ]
    pictures = read_cutouts([file for _, file in files])
    kept = [
        (label, picture)
        for (label, _), picture in zip(files, pictures, strict=True)
        if picture is not None
    ]
    labels = np.array([label for label, _ in kept])

    def draw(split: str, count: int, rng: np.random.Generator):
        chosen = drawing.balanced(labels, count, rng)
        cutouts = drawing.place(
            np.stack([kept[index][1] for index in chosen]), rng, (0.75, 1.0), 10, 2, 1.2
        )
        light = drawing.uniform(rng, count, 0.5, 1.1)[..., None] * rng.normal(
            1, 0.06, (count, 1, 1, 3)
        )
        picture = drawing.paste(cutouts, drawing.scenery(rng, count)) * light
        return drawing.camera(picture, rng, (1, 10), (0.3, 0.8)), labels[chosen]

    return Task(
        name="signs", title="Traffic signs", kind="source", template="a traffic sign: {}",
        classes=[name.replace("-", " ") for name in CLASSES], draw=draw, weight=1.4,
        origin="Mapillary's sign sprites; new simulated captures in validation and test",
    )  # fmt: skip
