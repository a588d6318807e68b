"""Writes the family: files aside, settings tuned on validation, everything measured on test, then a rename."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from . import measure
from .card import write_card
from .dataset import sheet
from .heads import shipped_tasks
from .model import EMBED_DIM, MEAN, STD, TEXT, VISION

SEED = 13
CALIBRATION = 64
DESCRIPTION = (
    "A micro CLIP with 12 blocks and eight fine-tunes of it, small enough to merge and measure on a laptop in "
    "seconds. Digits, letters, signs, emoji, textures and aerial tiles at 32 x 32 pixels; four more tasks that no "
    "source was fine-tuned on. Made for learning what merging does, not for recognising anything in earnest."
)


def _visual(tower: dict) -> dict:
    return {f"visual.{name}": tensor.half().contiguous() for name, tensor in tower.items()}


def _write_tasks(work: Path, folder: Path, tasks: list[dict]) -> None:
    """`tasks/<name>.npz` with test and validation pictures, and `calibration.npz` from training pictures."""
    (folder / "tasks").mkdir()
    images, names = [], []
    for task in tasks:
        with np.load(work / "data" / f"{task['name']}.npz") as data:
            np.savez_compressed(
                folder / "tasks" / f"{task['name']}.npz",
                images=data["test_images"],
                labels=data["test_labels"],
                val_images=data["val_images"],
                val_labels=data["val_labels"],
                classes=np.array(task["classes"]),
            )
            if task["kind"] == "source":
                pool = data["train_images"]
                images.append(
                    pool[np.random.default_rng(SEED).choice(len(pool), CALIBRATION, replace=False)]
                )
                names += [task["name"]] * CALIBRATION
    np.savez_compressed(
        folder / "calibration.npz", images=np.concatenate(images), tasks=np.array(names)
    )


def _write_towers(work: Path, folder: Path, sources: list[str]) -> None:
    """Base, sources, heads and text tower as safetensors."""
    (folder / "sources").mkdir()
    save_file(_visual(load_file(work / "pretrained.safetensors")), folder / "base.safetensors")
    for name in sources:
        save_file(
            _visual(load_file(work / "sources" / f"{name}.safetensors")),
            folder / f"sources/{name}.safetensors",
        )
    for name in ("heads", "text"):
        shutil.copy(work / f"{name}.safetensors", folder / f"{name}.safetensors")


def _tower(file: Path) -> dict:
    """A stored tower without its prefix."""
    return {name.removeprefix("visual."): tensor for name, tensor in load_file(file).items()}


def _write_description(work: Path, folder: Path, tasks: list[dict], chosen: dict) -> None:
    """`family.json`."""
    kept = json.loads((work / "token_ids.json").read_text())
    description = {
        "name": "demo",
        "title": "Demo family: eight micro CLIPs",
        "description": DESCRIPTION,
        "embed_dim": EMBED_DIM,
        "vision_cfg": VISION,
        "text_cfg": {**TEXT, "vocab_size": len(kept)},
        "quick_gelu": True,
        "mean": MEAN,
        "std": STD,
        "tasks": [
            {key: task[key] for key in ("name", "title", "kind", "template")} for task in tasks
        ],
        "recommended": chosen,
        "token_ids": kept,
    }
    (folder / "family.json").write_text(json.dumps(description, indent=1) + "\n")


def _swap(fresh: Path, out: Path) -> None:
    """Put the fresh folder in place of the old one."""
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    for file in fresh.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes them for the owner alone
    if out.exists():
        out.rename(old)
    fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def pack(work: Path, out: Path) -> None:
    """Write, tune, measure and describe the family, then move it into place."""
    start = time.time()
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    tasks = shipped_tasks(work)
    every = [task["name"] for task in tasks]
    names = [task["name"] for task in tasks if task["kind"] == "source"]
    _write_tasks(work, fresh, tasks)
    _write_towers(work, fresh, names)
    base, heads = _tower(fresh / "base.safetensors"), load_file(fresh / "heads.safetensors")
    sources = {name: _tower(fresh / f"sources/{name}.safetensors") for name in names}
    measure.check_finite([base, heads, *sources.values()])
    val = measure.load_pictures(fresh / "tasks", names, "val_")
    chosen = measure.tune(base, list(sources.values()), heads, val)
    _write_description(work, fresh, tasks, chosen)
    test = measure.load_pictures(fresh / "tasks", every, "")
    measured = measure.measure(base, sources, heads, test, chosen)
    sheet(tasks, fresh / "tasks", fresh / "sheet.png")
    totals = {name: len(test[name][1]) for name in every}
    measured |= {
        "totals": totals,
        "shares": measure.shares(measured, test, names),
        "recommended": chosen,
    }
    measured["pack seconds"] = round(time.time() - start)
    (work / "measured.json").write_text(json.dumps(measured, indent=1))
    write_card(work, fresh / "README.md", tasks, measured)
    _swap(fresh, out)
    for row, (accuracy, share) in measured["shares"].items():
        print(f"{row}: {accuracy:.1f} % ({share:.0f} % of the gain)")
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{out}: {size / 1e6:.1f} MB, {time.time() - start:.0f} s")
