"""Emoji by Unicode subgroup. Pictures of one vendor (Fluent) are never trained on: they are validation and test."""

import hashlib
import json
from pathlib import Path

import numpy as np

from . import drawing
from .cutouts import read_cutouts
from .task import Task

TRAINED_VENDORS = ["noto", "twemoji", "emojione"]
UNSEEN_VENDOR = "fluent-emoji-flat"
CLASSES = {
    "face": ["face-smiling", "face-neutral-skeptical", "face-concerned"],
    "heart": ["heart"],
    "hand": [
        "hand-fingers-open",
        "hand-fingers-partial",
        "hand-fingers-closed",
        "hand-single-finger",
        "hands",
    ],
    "bird": ["animal-bird"],
    "fruit": ["food-fruit"],
    "flower": ["plant-flower"],
    "drink": ["drink"],
    "clock": ["time"],
    "vehicle": ["transport-ground"],
    "building": ["place-building"],
    "arrow": ["arrow"],
    "zodiac sign": ["zodiac"],
}


def _code(unified: str) -> str:
    return unified.lower().replace("-fe0f", "")


def _labels(packages: Path) -> dict[str, int]:
    """Class index by code point for the emoji of the chosen subgroups, without skin-tone variants."""
    index = {group: label for label, groups in enumerate(CLASSES.values()) for group in groups}
    entries = json.loads((packages / "emoji-datasource/package/emoji.json").read_text())
    return {
        _code(entry["unified"]): index[entry["subcategory"]]
        for entry in entries
        if entry["subcategory"] in index
    }


def _vendor_pictures(
    packages: Path, vendor: str, labels: dict[str, int]
) -> tuple[list[str], list[np.ndarray]]:
    """Code points and cut-outs of one vendor's emoji of the chosen classes."""
    folder = packages / f"iconify-json-{vendor}/package"
    icons = json.loads((folder / "icons.json").read_text())
    drawn: dict[str, str] = {}
    for unified, name in json.loads((folder / "chars.json").read_text()).items():
        icon, code = icons["icons"].get(name), _code(unified)
        if icon is None or code not in labels or code in drawn:
            continue
        width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
        drawn[code] = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        )
    pictures = read_cutouts(list(drawn.values()))
    kept = [
        (code, picture)
        for code, picture in zip(drawn, pictures, strict=True)
        if picture is not None
    ]
    return [code for code, _ in kept], [picture for _, picture in kept]


def emoji_task(packages: Path) -> Task:
    """The emoji task: three vendors to train on, a fourth one's emoji halved into validation and test."""
    labels = _labels(packages)
    pools: dict[str, list[tuple[np.ndarray, int]]] = {"train": [], "val": [], "test": []}
    for vendor in [*TRAINED_VENDORS, UNSEEN_VENDOR]:
        for code, picture in zip(*_vendor_pictures(packages, vendor, labels), strict=True):
            unseen = (
                "val" if int(hashlib.sha256(code.encode()).hexdigest(), 16) % 3 == 0 else "test"
            )
            pools[unseen if vendor == UNSEEN_VENDOR else "train"].append((picture, labels[code]))

    def draw(split: str, count: int, rng: np.random.Generator):
        targets = np.array([label for _, label in pools[split]])
        chosen = drawing.balanced(targets, count, rng)
        cutouts = drawing.place(
            np.stack([pools[split][index][0] for index in chosen]), rng, (0.85, 1.05), 10, 1.5, 1.1
        )
        picture = drawing.paste(cutouts, drawing.colours(rng, count, 140, 255))
        picture = picture * rng.normal(1, 0.06, (count, 1, 1, 3))
        return drawing.camera(picture, rng, (0, 6), (0.2, 0.5)), targets[chosen]

    return Task(
        name="emoji", title="Emoji", kind="source", template="an emoji of a {}", classes=list(CLASSES),
        origin="Noto, Twemoji and EmojiOne to train on; Fluent, never trained on, for validation and test",
        draw=draw, weight=1.5,
    )  # fmt: skip
