"""Fine-tunes the image tower on every source task, with the text tower's heads frozen."""

import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy, normalize

from .heads import build_heads
from .model import LOGIT_SCALE, augment, embed, hits
from .pretrain import load_tower

SEED = 9
BATCH = 128
RATE = 9e-4
WARM_UP = 10
# Set beforehand from how hard a task is: long where accuracy rises slowly, short where the gain comes at once.
STEPS = {
    "mnist": 30,
    "street_digits": 75,
    "letters": 90,
    "hiragana": 70,
    "signs": 70,
    "emoji": 70,
    "textures": 50,
    "land_use": 20,
}
worker: dict = {}  # what a worker process keeps between tasks


def _train(fast, tower: torch.nn.Module, head: torch.Tensor, data: dict, steps: int) -> None:
    """Fine-tune `tower` in place; `fast` is its compiled form."""
    rng = np.random.default_rng(SEED)
    optimiser = torch.optim.AdamW(
        tower.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    queue: list[int] = []
    for step in range(steps):
        share = min(1, (step + 1) / WARM_UP) * (0.5 + 0.5 * np.cos(np.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = RATE * share
        if len(queue) < BATCH:
            queue = list(rng.permutation(len(data["train_labels"])))
        chosen, queue = queue[:BATCH], queue[BATCH:]
        features = normalize(fast(augment(data["train_images"][chosen], rng, 1)), dim=-1)
        loss = cross_entropy(
            LOGIT_SCALE * features @ head.T, torch.from_numpy(data["train_labels"][chosen])
        )
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimiser.step()


def _start_worker(work: Path) -> None:
    """Load and compile the base once a process; one thread each, since two tasks run side by side."""
    torch.set_num_threads(1)
    tower = load_tower(work)
    worker["base"] = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    worker["tower"], worker["fast"] = tower, torch.compile(tower, dynamic=False)


def _finetune_one(work: Path, name: str) -> str:
    """Fine-tune from the stored base on one task, write the fp16 tower and describe the outcome on validation."""
    start = time.time()
    tower, head = worker["tower"], load_file(work / "heads.safetensors")[name]
    with np.load(work / "data" / f"{name}.npz") as file:
        data = {key: file[key] for key in file.files}
    tower.load_state_dict(worker["base"])
    before = hits(embed(tower, data["val_images"]), head, data["val_labels"])
    tower.train()
    _train(worker["fast"], tower, head, data, STEPS[name])
    rounded = {key: tensor.half() for key, tensor in tower.state_dict().items()}
    tower.load_state_dict({key: tensor.float() for key, tensor in rounded.items()})
    after = hits(embed(tower, data["val_images"]), head, data["val_labels"])
    save_file(rounded, work / "sources" / f"{name}.safetensors")
    total = len(data["val_labels"]) / 100
    return f"{name}: validation {before / total:.1f} -> {after / total:.1f}, {time.time() - start:.0f} s"


def finetune(work: Path) -> None:
    """Make the heads, then all sources, two at a time, the longest first."""
    start = time.time()
    build_heads(work)
    (work / "sources").mkdir(exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn, initializer=_start_worker, initargs=(work,)) as pool:
        jobs = [
            pool.submit(_finetune_one, work, name)
            for name in sorted(STEPS, key=STEPS.get, reverse=True)
        ]
        for job in as_completed(jobs):
            print(job.result(), flush=True)
    (work / "finetune.json").write_text(json.dumps({"seconds": round(time.time() - start)}))
