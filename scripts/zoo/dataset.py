"""The data stage: draws every task's splits, checks that no picture crosses them, and draws a picture sheet."""

import json
import time
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .emoji import emoji_task
from .fonts import SCRIPTS, index_fonts, render_script, split_families
from .glyph_tasks import glyph_tasks
from .photographs import earth_task, textures_task
from .pictures import clipart_task, fashion_task, mnist_task
from .signs import signs_task
from .sources import fetch
from .task import Task

SEED = 7
ORDER = [
    "mnist",
    "street_digits",
    "letters",
    "hiragana",
    "signs",
    "emoji",
    "textures",
    "fashion",
    "earth",
    "greek",
    "arabic",
    "clipart",
]


def _masks(work: Path) -> dict[str, dict[str, np.ndarray]]:
    """Letter masks of every script by split, from the accepted font packages."""
    used = json.loads((work / "packages.json").read_text())
    index = index_fonts(
        [work / "packages" / package["name"] for package in used if package["fonts"]]
    )
    splits = split_families(index, SEED)
    masks = {script: render_script(script, index[script], splits) for script in SCRIPTS}
    for script, families in masks.items():
        print(
            f"{script}: "
            + ", ".join(f"{len(drawn)} {split} families" for split, drawn in families.items())
        )
    return masks


def all_tasks(work: Path) -> list[Task]:
    """Every task, the shipped ones first and in their fixed order, then the broad ones."""
    packages = work / "packages"
    tasks = glyph_tasks(_masks(work))
    tasks += [
        mnist_task(packages),
        signs_task(packages),
        emoji_task(packages),
        textures_task(packages),
        earth_task(packages),
    ]
    tasks += [fashion_task(packages), clipart_task(packages)]
    return sorted(
        tasks, key=lambda task: ORDER.index(task.name) if task.name in ORDER else len(ORDER)
    )


def _without(
    images: np.ndarray, labels: np.ndarray, taken: set[bytes]
) -> tuple[np.ndarray, np.ndarray]:
    """Drop pictures already in `taken`, and repeats; add the rest to it."""
    fresh = []
    for index, image in enumerate(images):
        key = image.tobytes()
        if key not in taken:
            taken.add(key)
            fresh.append(index)
    return images[fresh], labels[fresh].astype(np.int64)


def _draw_task(task: Task) -> dict[str, np.ndarray]:
    """All splits of one task, disjoint picture by picture; test is drawn first and keeps its pictures."""
    rng = np.random.default_rng([SEED, zlib.crc32(task.name.encode())])
    taken: set[bytes] = set()
    arrays = {}
    wanted = {"test": task.test, "val": task.val, "train": task.train}
    for split, count in wanted.items():
        if task.kind == "broad" and split != "train":
            continue
        images, labels = _without(*task.draw(split, count, rng), taken)
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images, labels
    return arrays


def _sheet_row(
    images: np.ndarray, labels: np.ndarray, title: str, classes: list[str], columns: int
) -> Image.Image:
    """One strip of a sheet: a picture a class with its name below, classes spread over the label range."""
    shown = np.unique(np.linspace(0, len(classes) - 1, columns).round().astype(int))
    strip = Image.new("RGB", (110 + 72 * columns, 80), "white")
    pen = ImageDraw.Draw(strip)
    pen.text((4, 30), title, fill="black")
    for column, label in enumerate(shown):
        picture = Image.fromarray(images[np.flatnonzero(labels == label)[0]]).resize(
            (62, 62), Image.Resampling.NEAREST
        )
        strip.paste(picture, (110 + 72 * column, 2))
        pen.text((110 + 72 * column, 65), classes[label][:12], fill="black")
    return strip


def sheet(tasks: list[dict], folder: Path, file: Path, columns: int = 12) -> None:
    """A picture sheet with one strip a task, read from the shipped `tasks/<name>.npz`."""
    strips = []
    for task in tasks:
        with np.load(folder / f"{task['name']}.npz") as data:
            images, labels, classes = (
                data["images"],
                data["labels"],
                [str(name) for name in data["classes"]],
            )
        strips.append(
            _sheet_row(images, labels, task["title"], classes, min(columns, len(classes)))
        )
    page = Image.new(
        "RGB",
        (max(strip.width for strip in strips), sum(strip.height for strip in strips)),
        "white",
    )
    for row, strip in enumerate(strips):
        page.paste(strip, (0, row * strip.height))
    page.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


def build_data(work: Path) -> None:
    """Fetch the packages, draw all tasks and write `data/<task>.npz` and `tasks.json`."""
    start = time.time()
    fetch(work)
    (work / "data").mkdir(exist_ok=True)
    records = []
    for task in all_tasks(work):
        arrays = _draw_task(task)
        np.savez(work / "data" / f"{task.name}.npz", **arrays)
        fields = ("name", "title", "kind", "template", "classes", "origin", "weight")
        records.append(
            {field: getattr(task, field) for field in fields} | {"prompts": task.prompts()}
        )
        sizes = ", ".join(
            f"{len(arrays[key])} {key[:-7]}" for key in arrays if key.endswith("_images")
        )
        print(
            f"[{time.time() - start:5.0f} s] {task.name}: {len(task.classes)} classes; {sizes}",
            flush=True,
        )
    (work / "tasks.json").write_text(json.dumps(records, indent=1))
