"""Finds font families that cover a script and renders their letters as masks; drops clones of a family."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

MASK = 32
SCRIPTS = {
    "digits": "0123456789",
    "latin": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "latin small": "abdefghijklmnpqrtuy",
    "hiragana": "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをん",
    "katakana": "アイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモヤユヨラリルレロワヲン",
    "greek": "αβγδεζηθικλμνξοπρστυφχψω",
    "arabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "cyrillic": "БГДЖЗИЛПФЦЧШЩЭЮЯ",
}
SUFFIXES = {".ttf", ".otf", ".ttc"}


def split_families(index: dict[str, list[tuple[str, str]]], seed: int) -> dict[str, str]:
    """Assign every family to one split for all scripts: a fifth to test, a tenth to val; rare scripts first."""
    rng = np.random.default_rng(seed)
    split: dict[str, str] = {}
    for script in sorted(index, key=lambda name: (len(index[name]), name)):
        families = sorted(family for family, _ in index[script])
        for name, share in (("test", 0.2), ("val", 0.1)):
            free = [family for family in families if family not in split]
            missing = round(share * len(families)) - sum(
                split.get(family) == name for family in families
            )
            for family in rng.permutation(free)[: max(0, missing)]:
                split[str(family)] = name
        split.update({family: "train" for family in families if family not in split})
    return split


def _describe(file: Path) -> tuple[str, str, list[str]] | None:
    """Family, style and covered scripts of a font file; None if it cannot be read."""
    try:
        font = TTFont(file, fontNumber=0, lazy=True)
        family, style = font["name"].getBestFamilyName(), font["name"].getBestSubFamilyName() or ""
        covered = set(font.getBestCmap() or ())
    except (
        Exception
    ):  # broken or bitmap-only fonts come in many kinds, and none of them is worth a stop
        return None
    scripts = [
        name
        for name, letters in SCRIPTS.items()
        if all(ord(letter) in covered for letter in letters)
    ]
    return (family, style, scripts) if family and scripts else None


def _plainness(style: str) -> tuple[int, str]:
    """Sort key that puts a family's regular style first."""
    order = ["regular", "book", "roman", "medium"]
    plain = [
        rank
        for rank, word in enumerate(order)
        if word in style.lower() and "italic" not in style.lower()
    ]
    return (plain[0] if plain else len(order), style)


def index_fonts(packages: list[Path]) -> dict[str, list[tuple[str, str]]]:
    """For every script, one (family, file) a family, its plainest style."""
    files = sorted(
        file
        for package in packages
        for file in package.rglob("*")
        if file.suffix.lower() in SUFFIXES
    )
    files = [file for file in files if file.is_file() and not file.is_symlink()]
    with ProcessPoolExecutor(2) as pool:
        described = list(pool.map(_describe, files, chunksize=16))
    best: dict[str, dict[str, tuple]] = {script: {} for script in SCRIPTS}
    for file, description in zip(files, described, strict=True):
        if description is None:
            continue
        family, style, scripts = description
        for script in scripts:
            candidate = (_plainness(style), str(file))
            if family not in best[script] or candidate < best[script][family]:
                best[script][family] = candidate
    return {
        script: [(family, file) for family, (_, file) in sorted(families.items())]
        for script, families in best.items()
    }


def _mask(font: ImageFont.FreeTypeFont, letter: str) -> np.ndarray | None:
    """One letter, cropped to its ink and centred on a square."""
    canvas = Image.new("L", (160, 160), 0)
    ImageDraw.Draw(canvas).text((48, 40), letter, font=font, fill=255)
    box = canvas.getbbox()
    if not box:
        return None
    ink = canvas.crop(box)
    scale = MASK / max(ink.size)
    ink = ink.resize(
        [max(1, round(length * scale)) for length in ink.size], Image.Resampling.LANCZOS
    )
    square = Image.new("L", (MASK, MASK), 0)
    square.paste(ink, ((MASK - ink.width) // 2, (MASK - ink.height) // 2))
    return np.asarray(square)


def _render(letters: str, file: str) -> np.ndarray | None:
    """All letters of a script in one font; None if some are empty or alike, or the ink is too thin to see."""
    try:
        font = ImageFont.truetype(file, 56)
        drawn = [_mask(font, letter) for letter in letters]
    except (OSError, ValueError):
        return None
    if any(mask is None for mask in drawn) or len({mask.tobytes() for mask in drawn}) < 0.95 * len(
        letters
    ):
        return None
    masks = np.stack(drawn)
    return masks if (masks > 100).mean() > 0.05 else None


def render_script(
    script: str, fonts: list[tuple[str, str]], splits: dict[str, str]
) -> dict[str, np.ndarray]:
    """Masks (families, letters, side, side) of a script by split, near-identical families left out."""
    with ProcessPoolExecutor(2) as pool:
        drawn = list(
            pool.map(partial(_render, SCRIPTS[script]), [file for _, file in fonts], chunksize=8)
        )
    coarse: list[np.ndarray] = []
    kept: dict[str, list[np.ndarray]] = {"train": [], "val": [], "test": []}
    for (family, _), masks in zip(fonts, drawn, strict=True):
        if masks is None:
            continue
        outline = masks.reshape(len(masks), 8, MASK // 8, 8, MASK // 8).mean((2, 4))
        if any(np.abs(outline - other).mean() < 5 for other in coarse):
            continue
        coarse.append(outline)
        kept[splits[family]].append(masks)
    return {split: np.stack(renders) for split, renders in kept.items()}
