"""Letters, hiragana, street digits, Greek, Arabic and broader scripts, all drawn from font masks."""

import unicodedata

import numpy as np

from . import drawing
from .fonts import SCRIPTS
from .task import Task

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
FIRST = {
    "hiragana": 20
}  # a micro model does not tell all forty-six apart; the first four rows are used
Masks = dict[str, np.ndarray]


def _short_name(letter: str) -> str:
    """The letter's Unicode name without its script: "alpha", "hah", "ka"."""
    words = unicodedata.name(letter).lower().split(" letter ")[-1]
    return words.replace("small ", "")


def _ink(masks: np.ndarray, rng: np.random.Generator, plain: bool) -> np.ndarray:
    """Colour placed masks: dark on light if `plain`, else any two contrasting colours."""
    count = len(masks)
    ground = drawing.colours(rng, count, 175, 255) if plain else drawing.colours(rng, count)
    ink = drawing.colours(rng, count, 0, 110) if plain else drawing.contrasting(rng, ground, 75)
    alpha = masks[..., None] / np.float32(255)
    return drawing.camera(ground * (1 - alpha) + ink * alpha, rng, (0, 12), (0.3, 0.6))


def _draw_letters(families: Masks, plain: bool):
    def draw(split: str, count: int, rng: np.random.Generator):
        masks = families[split]
        labels = drawing.balanced(np.arange(masks.shape[1]), count, rng)
        chosen = masks[rng.integers(0, len(masks), count), labels]
        return _ink(drawing.place(chosen, rng, (0.62, 0.95), 10, 2.5), rng, plain), labels

    return draw


def _neighbour(masks: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Digits pushed off the frame to one side, as the next digit of a house number is."""
    placed = drawing.place(masks, rng, (0.6, 0.85), 8, 1)
    step = int(rng.integers(20, 24))
    moved = np.zeros_like(placed)
    if side < 0:
        moved[:, :, : drawing.SIDE - step] = placed[:, :, step:]
    else:
        moved[:, :, step:] = placed[:, :, : drawing.SIDE - step]
    return moved * (rng.random((len(masks), 1, 1)) < 0.6)


def _draw_street(families: Masks):
    def draw(split: str, count: int, rng: np.random.Generator):
        masks = families[split]
        labels = drawing.balanced(np.arange(10), count, rng)
        rows = rng.integers(0, len(masks), count)
        placed = drawing.place(masks[rows, labels], rng, (0.62, 0.92), 8, 2)
        for side in (-1, 1):
            placed = np.maximum(
                placed, _neighbour(masks[rows, rng.integers(0, 10, count)], side, rng)
            )
        ground = drawing.scenery(rng, count)
        alpha = placed[..., None] / np.float32(255)
        picture = ground * (1 - alpha) + drawing.contrasting(rng, ground, 65) * alpha
        return drawing.camera(picture, rng, (2, 14), (0.3, 0.8)), labels

    return draw


def glyph_tasks(families: dict[str, Masks]) -> list[Task]:
    """The tasks drawn from fonts, given the masks of every script."""
    fonts = "Debian font packages, unseen families in validation and test"

    def letters(
        name: str, title: str, script: str, template: str, kind: str, plain: bool, **sizes
    ) -> Task:
        names = [_short_name(letter) for letter in SCRIPTS[script]][: FIRST.get(script)]
        draw = _draw_letters(
            {split: masks[:, : len(names)] for split, masks in families[script].items()}, plain
        )
        return Task(
            name=name,
            title=title,
            kind=kind,
            template=template,
            classes=names,
            origin=fonts,
            draw=draw,
            **sizes,
        )

    other = {"kind": "out-of-domain", "plain": True, "train": 4000, "weight": 0.3}
    street = Task(
        name="street_digits", title="Street digits", kind="source", template="a street sign with the number {}",
        classes=DIGITS, origin=fonts, draw=_draw_street(families["digits"]), train=16_000, weight=1.2,
    )  # fmt: skip
    return [
        street,
        letters(
            "letters",
            "Capital letters",
            "latin",
            "the capital letter {}",
            "source",
            False,
            weight=1.2,
        ),
        letters(
            "hiragana", "Hiragana", "hiragana", "the hiragana letter {}", "source", True, weight=1.3
        ),
        letters("greek", "Greek letters", "greek", "the greek letter {}", **other),
        letters("arabic", "Arabic letters", "arabic", "the arabic letter {}", **other),
        letters("katakana", "Katakana", "katakana", "{}", "broad", True, train=5000, weight=0.4),
        letters(
            "small", "Small letters", "latin small", "{}", "broad", False, train=4000, weight=0.3
        ),
        letters(
            "cyrillic", "Cyrillic letters", "cyrillic", "{}", "broad", False, train=3000, weight=0.2
        ),
    ]
