"""A tiny family in the demo's own file format: random weights and images, made in a moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    import open_clip

TASKS = ("apples", "bridges", "clouds")
CONFIG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 16, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16,
    },
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1},
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.25, 0.3],
}  # fmt: skip


def open_clip_model(config: dict = CONFIG, seed: int = 0) -> open_clip.CLIP:
    """The same architecture as open_clip builds it."""
    import open_clip  # seconds, which the process that only hands out tests need not take

    torch.manual_seed(seed)
    keys = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")
    return open_clip.CLIP(**{key: config[key] for key in keys}).eval()


def write_family(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float16) -> Path:
    """Writes base, three sources, heads, tasks and calibration images under `folder`."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    (folder / "sources").mkdir(parents=True)
    (folder / "tasks").mkdir()
    visual = open_clip_model(seed=seed).visual
    base = {
        f"visual.{k}": v.detach() + 0.05 * torch.randn(v.shape)
        for k, v in visual.state_dict().items()
    }
    save_file({k: v.to(dtype) for k, v in base.items()}, folder / "base.safetensors")
    heads = {}
    for task in TASKS:
        tuned = {k: (v + 0.05 * torch.randn(v.shape)).to(dtype) for k, v in base.items()}
        save_file(tuned, folder / "sources" / f"{task}.safetensors")
        heads[task] = torch.nn.functional.normalize(torch.randn(4, 16), dim=-1)
        np.savez(
            folder / "tasks" / f"{task}.npz",
            images=rng.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8),
            labels=rng.integers(0, 4, 12),
            val_images=rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8),
            val_labels=rng.integers(0, 4, 6),
            classes=np.array(["one", "two", "three", "four"]),
        )
    save_file(heads, folder / "heads.safetensors")
    pool = rng.integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
    np.savez(folder / "calibration.npz", images=pool, tasks=np.repeat(TASKS, 8))
    tasks = [{"name": t, "title": t.title(), "kind": "source", "template": "a {}"} for t in TASKS]
    recommended = {"keep": 0.5, "variation": 0.1, "scaling": 1.0}
    about = CONFIG | {"name": folder.name, "title": "Tiny", "description": "Random weights."}
    about |= {"tasks": tasks, "recommended": recommended}
    (folder / "family.json").write_text(json.dumps(about))
    return folder
