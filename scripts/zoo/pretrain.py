"""Pretrains the image tower: one softmax over the classes of all tasks, with throw-away cosine prototypes."""

import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy, normalize

from .model import EMBED_DIM, augment, embed, hits, make_clip
from .muon import Muon

BASE = "pretrained"  # the name of the family's base among the work files
SEED = 1
BATCH = 192
SCALE = 16.0
MUON_RATE = 0.015
ADAM_RATE = 8e-4
WARM_UP = 60
RESUMED = 0.7  # a later round starts at this part of the first round's rates
REPORT_EVERY = 150


class Pool:
    """Training pictures of every task, drawn with the tasks' weights; labels count on from task to task."""

    def __init__(self, work: Path):
        self.tasks = json.loads((work / "tasks.json").read_text())
        images, labels, weights = [], [], []
        self.offset, self.val, classes = {}, {}, 0
        for task in self.tasks:
            with np.load(work / "data" / f"{task['name']}.npz") as data:
                images.append(data["train_images"])
                labels.append(data["train_labels"] + classes)
                if task["kind"] == "source":
                    self.val[task["name"]] = (data["val_images"], data["val_labels"])
            weights.append(np.full(len(labels[-1]), task["weight"] / len(labels[-1])))
            self.offset[task["name"]] = (classes, classes + len(task["classes"]))
            classes += len(task["classes"])
        self.images, self.labels, self.classes = (
            np.concatenate(images),
            np.concatenate(labels),
            classes,
        )
        self.cumulated = np.cumsum(np.concatenate(weights))
        self.cumulated /= self.cumulated[-1]

    def batch(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """One augmented batch and its labels."""
        chosen = np.minimum(
            np.searchsorted(self.cumulated, rng.random(BATCH)), len(self.labels) - 1
        )
        return augment(self.images[chosen], rng, 2), torch.from_numpy(self.labels[chosen])


def _optimisers(
    tower: torch.nn.Module, prototypes: torch.nn.Parameter
) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for all else."""
    matrices = [p for name, p in tower.named_parameters() if "resblocks" in name and p.ndim == 2]
    taken = {id(p) for p in matrices}
    rest = [p for p in tower.parameters() if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": 0.05},
        {"params": [p for p in rest if p.ndim < 2] + [prototypes], "weight_decay": 0.0},
    ]
    return [
        Muon(matrices, lr=MUON_RATE, momentum=0.95, weight_decay=0.02),
        torch.optim.AdamW(groups, lr=ADAM_RATE, betas=(0.9, 0.98), fused=True),
    ]


def _validation(tower: torch.nn.Module, prototypes: torch.Tensor, pool: Pool) -> str:
    """Accuracy of the throw-away prototypes on every source task's validation pictures."""
    heads = normalize(prototypes.detach(), dim=-1)
    scores = {}
    for name, (images, labels) in pool.val.items():
        first, last = pool.offset[name]
        scores[name] = 100 * hits(embed(tower, images), heads[first:last], labels) / len(labels)
    tower.train()
    listed = " ".join(f"{name} {score:.0f}" for name, score in scores.items())
    return f"average {np.mean(list(scores.values())):.1f}: {listed}"


def set_rates(
    optimisers: list[torch.optim.Optimizer], rates: list[list[float]], share: float
) -> None:
    """Set every group's learning rate to its base rate times `share`."""
    for optimiser, base in zip(optimisers, rates, strict=True):
        for group, rate in zip(optimiser.param_groups, base, strict=True):
            group["lr"] = rate * share


def _prototypes(tower: torch.nn.Module, pool: Pool) -> torch.Tensor:
    """Class means of a few training pictures a class, to go on from an earlier round."""
    first = [np.flatnonzero(pool.labels == label)[:12] for label in range(pool.classes)]
    features = embed(tower, pool.images[np.concatenate(first)])
    owners = np.repeat(np.arange(pool.classes), [len(indices) for indices in first])
    return torch.stack(
        [features[torch.from_numpy(owners == label)].mean(0) for label in range(pool.classes)]
    )


def pretrain(
    work: Path, steps: int, minutes: float, resume: bool = False, seed: int = SEED, name: str = BASE
) -> None:
    """Train for `steps` steps, or fewer if `minutes` end first; the schedule follows what ends first.

    From scratch, or with `resume` from where the last round ended, with a new cycle of the learning rate.
    Writes `<name>.safetensors`, and every round's steps and seconds to `<name>.json`.
    """
    rounds = json.loads((work / f"{name}.json").read_text()) if resume else []
    torch.manual_seed(seed + len(rounds))
    rng = np.random.default_rng(seed + len(rounds))
    pool = Pool(work)
    tower = load_tower(work, name) if resume else make_clip().visual
    initial = _prototypes(tower, pool) if resume else torch.randn(pool.classes, EMBED_DIM)
    prototypes = torch.nn.Parameter(normalize(initial, dim=-1))
    optimisers = _optimisers(tower, prototypes)
    rates = [
        [group["lr"] * (RESUMED if resume else 1) for group in o.param_groups] for o in optimisers
    ]
    tower.train()
    fast = torch.compile(tower, dynamic=False)
    print(f"{len(pool.labels)} pictures, {pool.classes} classes, {steps} steps", flush=True)
    start, losses, done = time.time(), [], 0.0
    while done < 1:
        step = len(losses)
        set_rates(
            optimisers, rates, min(1, (step + 1) / WARM_UP) * (0.51 + 0.49 * np.cos(np.pi * done))
        )
        images, labels = pool.batch(rng)
        features = normalize(fast(images), dim=-1)
        loss = cross_entropy(SCALE * features @ normalize(prototypes, dim=-1).T, labels)
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        losses.append(loss.item())
        elapsed = time.time() - start
        done = max(len(losses) / steps, elapsed / (60 * minutes))
        if len(losses) % REPORT_EVERY == 0 or done >= 1:
            rate = BATCH * len(losses) / elapsed
            print(
                f"step {len(losses)} {elapsed:.0f} s loss {np.mean(losses[-100:]):.3f} {rate:.0f}/s",
                end=" ",
            )
            print(_validation(tower, prototypes, pool), flush=True)
            save_file(
                {key: p.contiguous() for key, p in tower.state_dict().items()},
                work / f"{name}.safetensors",
            )
    rounds.append({"steps": len(losses), "seconds": round(time.time() - start)})
    (work / f"{name}.json").write_text(json.dumps(rounds))


def load_tower(work: Path, name: str = BASE) -> torch.nn.Module:
    """A pretrained tower, rounded to fp16 as it will be stored, in fp32."""
    tower = make_clip().visual
    tower.load_state_dict(
        {key: p.half().float() for key, p in load_file(work / f"{name}.safetensors").items()}
    )
    return tower
