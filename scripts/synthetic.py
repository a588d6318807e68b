"""Writes a family of full-size CLIP image towers with made-up weights, to time and weigh the work.

    python scripts/synthetic.py b32|b16|l14 FOLDER [--sources 8] [--dtype float32|float16] [--tasks]

Base: normal weights of a trained tower's size. Task vectors: of low rank, with rows of different
strength, so that nodes differ. Pictures: coloured noise. Nothing here can be merged for accuracy.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import timing  # noqa: F401  # first: it finds mloss_core, which must come before torch

# isort: split
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from mloss_core.architecture import ViTConfig
from mloss_core.families.family import MEAN, STD

# As open_clip's ViT-B-32-quickgelu, ViT-B-16-quickgelu and ViT-L-14-quickgelu.
TOWERS = {
    "b32": {"embed_dim": 512, "layers": 12, "width": 768, "patch_size": 32},
    "b16": {"embed_dim": 512, "layers": 12, "width": 768, "patch_size": 16},
    "l14": {"embed_dim": 768, "layers": 24, "width": 1024, "patch_size": 14},
}
CLASSES = 10
RANK, STRENGTH = 4, 0.03  # of a task vector, the latter relative to the base


def main() -> None:
    """Writes the family; an existing folder is refused."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tower", choices=TOWERS)
    parser.add_argument("folder", type=Path, help="the family's folder, its name is the family's")
    parser.add_argument("--sources", type=int, default=8)
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--tasks", action="store_true", help="with a made-up task of each source")
    args = parser.parse_args()
    write(args.tower, args.folder, args.sources, getattr(torch, args.dtype))
    if args.tasks:
        give_tasks(args.folder, args.sources)


def write(tower: str, folder: Path, sources: int, dtype: torch.dtype) -> None:
    """A family in our own layout, without tasks; raises FileExistsError."""
    about = description(tower)
    shapes = ViTConfig.from_config(folder.name, about).shapes()
    (folder / "sources").mkdir(parents=True)
    base = {name: first(name, shape) for name, shape in shapes.items()}
    save_file({n: t.to(dtype) for n, t in base.items()}, folder / "base.safetensors")
    for i in range(sources):
        moved = {n: (t + change(i, n, t)).to(dtype) for n, t in base.items()}
        save_file(moved, folder / "sources" / f"source{i:02d}.safetensors")
        print(f"source {i + 1} of {sources}", flush=True)
    images = noise(128, 224)
    np.savez(folder / "calibration.npz", images=images, tasks=names(sources, len(images)))
    (folder / "family.json").write_text(json.dumps(about, indent=1) + "\n")


def description(tower: str) -> dict:
    """family.json."""
    vision = {"image_size": 224, **TOWERS[tower]}
    return {
        "title": f"Made-up weights of ViT-{tower.upper()} size",
        "embed_dim": vision.pop("embed_dim"),
        "vision_cfg": vision,
        "quick_gelu": True,
        "mean": MEAN,
        "std": STD,
        "tasks": [],
    }


def give_tasks(folder: Path, sources: int) -> None:
    """A task of CLASSES classes for each source, with a random head and a few pictures."""
    about = json.loads((folder / "family.json").read_text())
    about["tasks"] = [{"name": name} for name in names(sources, sources).tolist()]
    heads = {}
    (folder / "tasks").mkdir()
    for task in about["tasks"]:
        name = task["name"]
        heads[name] = torch.randn(CLASSES, about["embed_dim"], generator=generator("head", name))
        labels = np.arange(CLASSES)
        classes = np.array([f"class {label}" for label in labels])
        images = noise(CLASSES, about["vision_cfg"]["image_size"])
        pictures = {"images": images, "labels": labels, "val_images": images, "val_labels": labels}
        np.savez(folder / "tasks" / f"{name}.npz", classes=classes, **pictures)
    save_file(heads, folder / "heads.safetensors")
    (folder / "family.json").write_text(json.dumps(about, indent=1) + "\n")


def generator(*key: object) -> torch.Generator:
    """Seeded by what is drawn, so that order does not matter."""
    entropy = np.frombuffer(repr(key).encode(), np.uint8)
    return torch.Generator().manual_seed(int(np.random.default_rng(entropy).integers(2**62)))


def first(name: str, shape: tuple[int, ...]) -> Tensor:
    """A base tensor: norms near one, products that keep the size of what they are given."""
    draw = torch.randn(shape, generator=generator(name))
    if name.endswith(("ln_1.weight", "ln_2.weight", "ln_pre.weight", "ln_post.weight")):
        return 1 + 0.1 * draw
    fan = int(np.prod(shape[1:])) if len(shape) > 1 else 400
    return draw / fan**0.5


def change(source: int, name: str, base: Tensor) -> Tensor:
    """A task vector's tensor: low rank, rows of different strength."""
    draws = generator(source, name)
    rows = base.flatten(1) if base.ndim > 1 else base[:, None]
    left = torch.randn(rows.shape[0], RANK, generator=draws)
    left *= torch.randn(rows.shape[0], 1, generator=draws).exp()
    moved = left @ torch.randn(RANK, rows.shape[1], generator=draws)
    return (STRENGTH * base.norm() / moved.norm() * moved).view(base.shape)


def noise(count: int, side: int) -> np.ndarray:
    """Pictures of blurred colours."""
    coarse = torch.rand(count, 3, 14, 14, generator=generator("pictures"))
    fine = torch.nn.functional.interpolate(coarse, side, mode="bicubic").clamp(0, 1)
    return (255 * fine).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def names(sources: int, count: int) -> np.ndarray:
    """Which source each picture counts for, in turn."""
    return np.array([f"source{i % sources:02d}" for i in range(count)])


if __name__ == "__main__":
    main()
