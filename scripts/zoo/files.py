"""The files of a family in its folder: pictures, calibration, towers, and the folder's move into place."""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from .model import EMBED_DIM, LOGIT_SCALE, MEAN, STD, VISION
from .tunings import Tuning

SEED = 13
CALIBRATION = 64
# What open_clip and the app need to know of every family of this build.
ARCHITECTURE = {
    "embed_dim": EMBED_DIM,
    "vision_cfg": VISION,
    "quick_gelu": True,
    "logit_scale": LOGIT_SCALE,
    "mean": MEAN,
    "std": STD,
}


def write_tasks(work: Path, folder: Path, tasks: list[dict], test: int, val: int) -> None:
    """`tasks/<name>.npz`: the first `test` and `val` pictures of those splits, which are in random order."""
    (folder / "tasks").mkdir()
    for task in tasks:
        with np.load(work / "data" / f"{task['name']}.npz") as data:
            np.savez_compressed(
                folder / "tasks" / f"{task['name']}.npz",
                images=data["test_images"][:test],
                labels=data["test_labels"][:test],
                val_images=data["val_images"][:val],
                val_labels=data["val_labels"][:val],
                classes=np.array(task["classes"]),
            )


def write_description(
    folder: Path, name: str, title: str, description: str, **more: object
) -> None:
    """`family.json`: what it is, the towers' architecture, and whatever else this family says of itself."""
    whole = {"name": name, "title": title, "description": description, **ARCHITECTURE, **more}
    (folder / "family.json").write_text(json.dumps(whole, indent=1) + "\n")


def described(tasks: list[dict]) -> list[dict]:
    """What the app needs to know of each task."""
    kept = ("name", "title", "kind", "template", "sources")
    return [{key: task[key] for key in kept if key in task} for task in tasks]


def write_calibration(work: Path, folder: Path, names: list[str]) -> None:
    """`calibration.npz`: as many training pictures of every one of these tasks."""
    images = []
    for name in names:
        with np.load(work / "data" / f"{name}.npz") as data:
            pool = data["train_images"]
        chosen = np.random.default_rng(SEED).choice(len(pool), CALIBRATION, replace=False)
        images.append(pool[chosen])
    np.savez_compressed(
        folder / "calibration.npz",
        images=np.concatenate(images),
        tasks=np.array([name for name in names for _ in range(CALIBRATION)]),
    )


def write_towers(work: Path, folder: Path, sources: list[Tuning]) -> None:
    """`base.safetensors` and `sources/*.safetensors`, in fp16."""
    (folder / "sources").mkdir()
    pairs = {work / "pretrained.safetensors": folder / "base.safetensors"}
    for source in sources:
        file = f"sources/{source.name}.safetensors"
        pairs[work / file] = folder / file
    for stored, written in pairs.items():
        tensors = load_file(stored)
        save_file(
            {f"visual.{key}": value.half().contiguous() for key, value in tensors.items()}, written
        )


def tower(file: Path) -> dict:
    """A written tower without its prefix."""
    return {name.removeprefix("visual."): tensor for name, tensor in load_file(file).items()}


def fresh_folder(out: Path) -> Path:
    """An empty folder beside `out`, to be filled and then moved there."""
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    return fresh


def move_into_place(fresh: Path, out: Path) -> None:
    """Put the fresh folder in place of the old one and say how large it is."""
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    for file in fresh.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes them for the owner alone
    if out.exists():
        out.rename(old)
    fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)
    print(f"{out}: {size(out) / 1e6:.1f} MB", flush=True)


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
