"""Fine-tunes the image tower on every source task, with the text tower's heads frozen.

Every tensor is trained at one rate. Made so that the sources merge as CLIP's do: each stays as the base was on pictures
of other tasks. The settings were chosen on validation pictures.
"""

import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy, normalize

from . import pull
from .heads import build_heads
from .model import LOGIT_SCALE, augment, embed, hits
from .pretrain import load_tower
from .tunings import BATCH, SEED, WARM_UP, Tuning, tunings

worker: dict = {}  # what a worker process keeps between sources


def _train(
    fast, tower: torch.nn.Module, head: torch.Tensor, data: dict, tuning: Tuning, others: np.ndarray
) -> None:
    """Fine-tune `tower` in place; `fast` is its compiled form, `others` the pictures to stay the same on."""
    trained = list(tower.parameters())
    rng = np.random.default_rng(SEED)
    optimiser = torch.optim.AdamW(
        trained, lr=tuning.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    before = embed(tower, others) if len(others) else None
    tower.train()
    queue: list[int] = []
    for step in range(tuning.steps):
        share = min(1, (step + 1) / WARM_UP) * (0.5 + 0.5 * np.cos(np.pi * step / tuning.steps))
        for group in optimiser.param_groups:
            group["lr"] = tuning.rate * share
        if len(queue) < BATCH:
            queue = list(rng.permutation(len(data["train_labels"])))
        chosen, queue = queue[:BATCH], queue[BATCH:]
        images = augment(data["train_images"][chosen], rng, 1)
        if before is not None:
            kept = rng.integers(0, len(others), pull.BATCH)
            images = torch.cat([images, augment(others[kept], rng, 0)])
        features = normalize(fast(images), dim=-1)
        logits = LOGIT_SCALE * features[:BATCH] @ head.T
        loss = cross_entropy(logits, torch.from_numpy(data["train_labels"][chosen]))
        if before is not None:
            loss = loss + pull.WEIGHT * ((features[BATCH:] - before[kept]) ** 2).sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()


def _start_worker(work: Path) -> None:
    """Compile the tower once a process; one thread each, since two sources run side by side."""
    torch.set_num_threads(1)
    worker["tower"] = load_tower(work)
    worker["fast"] = torch.compile(worker["tower"], dynamic=False)


def _finetune_one(work: Path, tuning: Tuning) -> str:
    """Fine-tune a stored base on one task, write the fp16 tower and provenance the outcome on validation."""
    start = time.time()
    tower, head = worker["tower"], load_file(work / "heads.safetensors")[tuning.task]
    with np.load(work / "data" / f"{tuning.task}.npz") as file:
        data = {key: file[key] for key in file.files}
    tower.load_state_dict(load_tower(work, tuning.base).state_dict())
    before = hits(embed(tower, data["val_images"]), head, data["val_labels"])
    others = pull.pictures(work, tuning.task) if tuning.pulled else np.empty(0)
    _train(worker["fast"], tower, head, data, tuning, others)
    rounded = {key: tensor.half() for key, tensor in tower.state_dict().items()}
    tower.load_state_dict({key: tensor.float() for key, tensor in rounded.items()})
    after = hits(embed(tower, data["val_images"]), head, data["val_labels"])
    save_file(rounded, work / "sources" / f"{tuning.name}.safetensors")
    total = len(data["val_labels"]) / 100
    return f"{tuning.name}: validation {before / total:.1f} -> {after / total:.1f}, {time.time() - start:.0f} s"


def finetune(work: Path) -> None:
    """Make the heads, then the sources of both families, two at a time, the longest first."""
    start = time.time()
    build_heads(work)
    (work / "sources").mkdir(exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn, initializer=_start_worker, initargs=(work,)) as pool:
        longest_first = sorted(tunings(), key=lambda tuning: -tuning.steps)
        jobs = [pool.submit(_finetune_one, work, tuning) for tuning in longest_first]
        for job in as_completed(jobs):
            print(job.result(), flush=True)
    (work / "finetune.json").write_text(json.dumps({"seconds": round(time.time() - start)}))
