"""What is fuzzed: a row per kind of input, with how one case of it is made and read.

A subject is built once in a folder of its own, and returns `case(number, draw)`. A case may raise
MlossError in one line, which is how the project refuses; anything else is a traceback.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from urllib.parse import parse_qsl, urlencode

import numpy as np
import torch
from PIL import Image

import pickle_tricks
from dialect_files import OLD, WRITERS
from mloss_core import Checkpoint, MergeRecipe, load, recorded, run
from mloss_core.checkpoints import image_tower
from mloss_core.checkpoints.read import read_head
from mloss_core.data.calibration import load_batch
from mloss_core.data.images import decoded, picture_files
from mloss_core.data.tasks import load_task
from mloss_core.families.family import at as family_at
from mloss_core.families.scaffold import scaffold
from mloss_core.runs import store
from mloss_core.runs.bundle import zipped
from mloss_core.runs.card import model_card
from mloss_core.training.archives import unpacked
from scripts.torture.mutate import RUN, VALUES, altered, misplaced, mutated
from tiny import open_clip_model, write_family

CPU = torch.device("cpu")
Case = Callable[[int, Random], None]
ODD = 0.03  # share of cases in which something that is no file stands in a file's place
HOSTILE = 0.15  # share of checkpoints that are pickles which want to run code


@dataclass(frozen=True)
class Subject:
    """A kind of input.

    Args:
        share: of all cases.
        build: writes the originals into a folder, and returns the function of one case.
    """

    share: float
    build: Callable[[Path], Case]


def clear(path: Path) -> None:
    """Removes whatever stands there, a link and not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# --- checkpoints ----------------------------------------------------------------------------------


def checkpoints(folder: Path) -> Case:
    """Every dialect that is read, damaged; and pickles that run code where they are trusted."""
    originals: dict[str, bytes] = {}
    for name, (_, write) in WRITERS.items():
        write(open_clip_model(), folder / name)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        originals[str(path.relative_to(folder))] = path.read_bytes()
    hostile = list(tricks(folder / "trusted", Path("ran")).values())
    names = sorted(originals)

    def case(number: int, draw: Random) -> None:
        content = originals[draw.choice(names)]
        if draw.random() < HOSTILE:
            content = draw.choice(hostile)
        path = folder / f"case-{number}"
        try:
            if draw.random() < ODD:
                misplaced(path, draw)
            else:
                other = originals[draw.choice(names)]
                path.write_bytes(content if draw.random() < 0.02 else mutated(content, draw, other))
            if draw.random() < 0.1:
                read_head(path)
            elif draw.random() < 0.1:
                image_tower.convert(path, "model")
            else:
                Checkpoint.open(path, "--model").load(CPU)
        finally:
            clear(path)

    return case


def tricks(folder: Path, mark: Path) -> dict[str, bytes]:
    """Files by name that create `mark` where whoever opens them trusts them."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, bytes] = {}
    for name, old in itertools.product(pickle_tricks.TRICKS, ({}, OLD)):
        trick = pickle_tricks.trick(name, mark)
        held = {"visual.proj": torch.ones(2, 3), "visual.extra": [trick]}
        for kind, value in (("beside", held), ("state_dict", {"state_dict": trick})):
            torch.save(value, folder / "file", **old)
            mark.unlink(missing_ok=True)  # making such a pickle may run it
            files[f"{name} {kind} {'legacy' if old else 'zip'}"] = (folder / "file").read_bytes()
    for name, pickled in pickle_tricks.RAW.items():
        files[f"{name} zip"] = pickle_tricks.archive(folder / "file", pickled).read_bytes()
        files[f"{name} legacy"] = pickle_tricks.legacy(folder / "file", pickled).read_bytes()
    return files


# --- pictures -------------------------------------------------------------------------------------

KINDS = ("png", "jpg", "gif", "webp", "tiff", "bmp", "ppm", "ico", "tga", "pcx", "jp2", "qoi")


def pictures(folder: Path) -> Case:
    """Picture files, arrays of pictures and archives of them."""
    originals = _picture_files() | _arrays() | _archives(folder)
    family = load(write_family(folder / "models" / "tiny").name)
    names = sorted(originals)

    def case(number: int, draw: Random) -> None:
        name = draw.choice(names)
        place = folder / f"case-{number}"
        place.mkdir()
        path = place / f"a{Path(name).suffix}"
        try:
            if draw.random() < ODD:
                misplaced(path, draw)
            else:
                path.write_bytes(mutated(originals[name], draw, originals[draw.choice(names)]))
            if path.suffix == ".npz":
                load_batch(path, family.model)
                load_task(path, "t", "T", "source", 16, draw.choice(("test", "val")))
            elif path.suffix == ".zip":
                with unpacked(path) as inside:
                    decoded(picture_files(inside)[:4], 16)
            else:
                decoded(picture_files(place), 16)
        finally:
            clear(place)

    return case


def _picture_files() -> dict[str, bytes]:
    """A small picture in each kind and mode that Pillow writes."""
    rng, files = np.random.default_rng(0), {}
    whole = Image.fromarray(rng.integers(0, 256, (21, 30, 3), dtype=np.uint8))
    for kind, mode in itertools.product(KINDS, ("RGB", "L", "P", "RGBA", "I;16", "CMYK")):
        buffer = io.BytesIO()
        try:
            Image.init()
            whole.convert(mode).save(buffer, Image.EXTENSION[f".{kind}"])
        except (OSError, ValueError, KeyError):  # a mode that the kind does not have
            continue
        files[f"{mode}.{kind}"] = buffer.getvalue()
    return files


def _arrays() -> dict[str, bytes]:
    """Arrays of pictures with labels, plain, packed, and with objects that would run code."""
    rng, files = np.random.default_rng(0), {}
    images = rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    arrays = {"images": images, "labels": np.arange(6) % 2, "classes": np.array(["one", "two"])}
    arrays |= {"val_images": images[:2], "val_labels": np.arange(2)}
    trick = np.array([pickle_tricks.trick("os.system", Path("ran"))], dtype=object)
    for name, held in (("arrays", arrays), ("objects", arrays | {"classes": trick})):
        for write in (np.savez, np.savez_compressed):
            buffer = io.BytesIO()
            write(buffer, **held)
            files[f"{name}-{write.__name__}.npz"] = buffer.getvalue()
    return files


def _archives(folder: Path) -> dict[str, bytes]:
    """Archives of pictures: a plain one, and ones whose members lead out of their folder."""
    picture = _picture_files()["RGB.png"]
    ways = {
        "plain": ["one/a.png", "two/b.png"], "above": ["../../ran", "one/a.png"],
        "absolute": [str(folder.parent / "ran")], "backslash": ["..\\..\\ran"],
        "twice": ["one/a.png", "one/a.png"], "hidden": [".ran/a.png", "one/a.png"],
    }  # fmt: skip
    files = {}
    for name, members in ways.items():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, quiet():
            for member in members:
                archive.writestr(member, picture)
        files[f"{name}.zip"] = buffer.getvalue()
    buffer, link = io.BytesIO(), zipfile.ZipInfo("one/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(link, "/etc")
        archive.writestr("one/link/ran", picture)
    return files | {"link.zip": buffer.getvalue()}


def quiet() -> warnings.catch_warnings:
    """Without warnings, of what is meant to be odd."""
    return warnings.catch_warnings(action="ignore")


# --- descriptions of families ---------------------------------------------------------------------


def descriptions(folder: Path) -> Case:
    """family.json and family.toml: values of any kind, and bytes that are damaged."""
    place = write_family(folder / "models" / "described")
    about = json.loads((place / "family.json").read_text())
    own = {**about, "license": "mit", "base_model": "me/it", "skip": ["x.png"]}
    named = {
        "title": "Mine", "calibration": "calibration.npz", "base": "base.safetensors",
        "sources": {task["name"]: f"sources/{task['name']}.safetensors" for task in own["tasks"]},
        "part": {"base": "model"}, "skip": ["a.png"], "recommended": about["recommended"],
        "tasks": [task | {"classes": ["one", "two", "three", "four"]} for task in own["tasks"]],
    }  # fmt: skip
    (place / "family.json").unlink()

    def case(number: int, draw: Random) -> None:
        kind = draw.choice(("family.json", "family.toml"))
        path, value = place / kind, own if kind == "family.json" else named
        for _ in range(draw.randint(0, 3)):
            value = altered(value, draw)
        text = json.dumps(value) if kind == "family.json" else toml(value)
        content = text.encode("utf-8", "surrogatepass")
        try:
            if draw.random() < ODD:
                misplaced(path, draw)
            else:
                path.write_bytes(mutated(content, draw) if draw.random() < 0.4 else content)
            family = family_at(place)
            for name in family.tasks[:2]:
                family.task(name)
            if draw.random() < 0.1:
                scaffold(place)
        finally:
            clear(path)

    return case


def toml(value: object) -> str:
    """A table of values as TOML; what has no TOML becomes something that is none."""
    if not isinstance(value, dict):
        return _inline(value)
    return "".join(f"{json.dumps(str(key))} = {_inline(inner)}\n" for key, inner in value.items())


def _inline(value: object) -> str:
    if isinstance(value, dict):
        pairs = (f"{json.dumps(str(key))} = {_inline(inner)}" for key, inner in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_inline, value))}]"
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


# --- links ----------------------------------------------------------------------------------------


def links(folder: Path) -> Case:
    """The queries of links, and the hosts that requests name."""
    from views.explore.stream import VISITOR
    from views.state import session
    from views.state.link import FIELDS
    from views.state.serving import parsed

    write_family(folder / "models" / "tiny")
    names = [*FIELDS, "visitor", "former", "follow"]
    usual = session.usual(load("tiny"))
    words = [str(value)[:3000] for value in VALUES] + list(usual.values())

    def text(draw: Random) -> str:
        kind = draw.random()
        if kind < 0.4:
            return draw.choice(words)
        if kind < 0.7:
            made = mutated(draw.choice(words).encode("utf-8", "surrogatepass"), draw)
            return made[:3000].decode("utf-8", "replace")
        letters = "0123456789-+.,:eE_ /\\'\"<>{}()[]%\0\n\ud800é²٣" + "abcdemlnruty"
        return "".join(draw.choice(letters) for _ in range(draw.randint(0, 30)))

    def case(number: int, draw: Random) -> None:
        query = {"family": "tiny"} if draw.random() < 0.9 else {}
        query |= {draw.choice(names): text(draw) for _ in range(draw.randint(1, 4))}
        link = urlencode(query, errors="surrogatepass")
        if draw.random() < 0.2:
            link = mutated(link.encode(), draw).decode("latin-1")
        query = dict(parse_qsl(link, errors="replace"))  # as a server reads it
        chosen, wrong = session.of_link(query)
        for words in wrong:
            assert "\n" not in words and len(words) < 2500, words[:200]
        session.recipe_of(chosen, load(chosen["family"]))
        VISITOR.fullmatch(query.get("visitor", ""))
        parsed(text(draw))

    return case


# --- folders of runs ------------------------------------------------------------------------------


def run_folders(folder: Path) -> Case:
    """A run's folder with a file or two of it damaged, replaced or gone."""
    os.environ["MLOSS_RUNS"] = str(folder / "runs")
    write_family(folder / "models" / "tiny")
    family = load("tiny")
    recipe = MergeRecipe(family="tiny", method="m-ties", sources=family.sources, samples=6)
    list(recorded(run(recipe, family, device="cpu"), recipe, kind="merge", id="whole"))
    whole = folder / "whole"
    store.rename("whole", "A title")
    (folder / "runs" / "whole").rename(whole)
    originals = {path.name: path.read_bytes() for path in sorted(whole.iterdir())}
    names = sorted(originals)

    def case(number: int, draw: Random) -> None:
        name = f"run-{number}" if draw.random() < 0.95 else f".run-{number}.0123abcd.part"
        place = folder / "runs" / name
        place.mkdir()
        try:
            _damaged_run(place, originals, draw.sample(names, draw.randint(1, 2)), draw)
            _read_run(f"run-{number}", draw)
        finally:
            clear(place)

    return case


def _damaged_run(
    place: Path, originals: dict[str, bytes], damaged: list[str], draw: Random
) -> None:
    """Writes a run's folder of which some files are not as they were."""
    for file, content in originals.items():
        path = place / file
        if file not in damaged:
            path.write_bytes(content)
        elif draw.random() < 3 * ODD:
            misplaced(path, draw)
        elif draw.random() < 0.5 and file.endswith(".json"):
            value = altered(json.loads(content), draw)
            path.write_bytes(json.dumps(value).encode("utf-8", "surrogatepass"))
        elif draw.random() < 0.9:
            path.write_bytes(mutated(content, draw, originals[draw.choice(sorted(originals))]))


def _read_run(name: str, draw: Random) -> None:
    """Everything that pages and commands read of a run."""
    listed = store.list_runs(store.KINDS)
    assert len(listed) <= 1, "a folder is listed twice"
    for record in listed:
        record.kept()
        _ = record.model, record.scored
    record = store.load_run(name)
    for read in draw.sample(
        [
            lambda: record.accuracies, record.scores, record.recipe, lambda: model_card(record),
            lambda: list(islice(zipped(record), 50)), lambda: store.rename(name, "Another"),
        ],
        3,
    ):  # fmt: skip
        read()


SUBJECTS = {
    "checkpoints": Subject(0.4, checkpoints),
    "pictures": Subject(0.25, pictures),
    "descriptions": Subject(0.15, descriptions),
    "links": Subject(0.1, links),
    "run folders": Subject(0.1, run_folders),
}
assert RUN.endswith(" ran"), "what fuzz.py looks for"
