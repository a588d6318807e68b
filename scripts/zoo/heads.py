"""Zero-shot heads: wanted class vectors, and a text tower fitted so that its prompt embeddings are those vectors.

CLIP's zero-shot accuracy is far below what its features allow, because text and pictures are loosely aligned. The
wanted vectors imitate that: h = unit(a * m + sqrt(1 - a^2) * r), where m is the class's own mean feature and r a
random direction outside the strongest principal components of the features. a is found by bisection, so that every
task starts from about the same zero-shot accuracy.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

from .model import CONTEXT, EMBED_DIM, LOGIT_SCALE, embed, hits, make_clip
from .muon import Muon
from .pretrain import load_tower, set_rates

SEED = 5
SKIPPED_COMPONENTS = 18
WANTED_ZERO_SHOT = 0.48
FITTED, HELD_OUT = 800, 600
SHARED_DIRECTIONS = {"mnist": "digits", "street_digits": "digits"}  # the same class names
TEXT_STEPS, TEXT_COSINE = 400, 0.9999
TEXT_MUON_RATE, TEXT_ADAM_RATE = 0.01, 2e-3


def _features(
    work: Path, tower: torch.nn.Module, tasks: list[dict]
) -> dict[str, tuple[torch.Tensor, np.ndarray]]:
    """Unit features and labels of some training pictures of every task."""
    features = {}
    for task in tasks:
        with np.load(work / "data" / f"{task['name']}.npz") as data:
            images, labels = data["train_images"], data["train_labels"]
        chosen = np.random.default_rng(SEED).permutation(len(images))[: FITTED + HELD_OUT]
        features[task["name"]] = (embed(tower, images[chosen]), labels[chosen])
    return features


def _weak_directions(features: torch.Tensor, skipped: int) -> torch.Tensor:
    """An orthonormal basis of the features' principal components after the first `skipped`."""
    _, _, components = torch.linalg.svd(features - features.mean(0), full_matrices=False)
    return components[skipped:]


def _class_means(features: torch.Tensor, labels: np.ndarray, classes: int) -> torch.Tensor:
    """Unit class means after taking off the task's mean."""
    means = torch.stack(
        [features[torch.from_numpy(labels == label)].mean(0) for label in range(classes)]
    )
    return normalize(means - means.mean(0), dim=-1)


def _head(
    task: dict, features: torch.Tensor, labels: np.ndarray, weak: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Wanted vectors of one task and the `a` that gives them the wanted zero-shot accuracy."""
    classes = len(task["classes"])
    cut = min(FITTED, len(labels) // 2)
    means = _class_means(features[:cut], labels[:cut], classes)
    key = SHARED_DIRECTIONS.get(task["name"], task["name"])
    generator = torch.Generator().manual_seed(SEED + zlib.crc32(key.encode()))
    directions = normalize(
        torch.randn(classes, EMBED_DIM, generator=generator) @ weak.T @ weak, dim=-1
    )
    low, high = 0.0, 1.0
    for _ in range(14):
        share = (low + high) / 2
        head = normalize(share * means + (1 - share**2) ** 0.5 * directions, dim=-1)
        reached = hits(features[cut:], head, labels[cut:]) / (len(labels) - cut)
        low, high = (share, high) if reached < WANTED_ZERO_SHOT else (low, share)
    return head, share


def wanted_heads(
    work: Path, tower: torch.nn.Module, tasks: list[dict], skipped: int
) -> dict[str, torch.Tensor]:
    """Wanted vectors of every shipped task."""
    features = _features(work, tower, tasks)
    strongest = [features[task["name"]][0][:1000] for task in tasks if task["kind"] == "source"]
    weak = _weak_directions(torch.cat(strongest), skipped)
    heads = {}
    for task in tasks:
        heads[task["name"]], share = _head(task, *features[task["name"]], weak)
        print(f"head {task['name']}: a = {share:.3f}", flush=True)
    return heads


def prompt_tokens(tasks: list[dict]) -> tuple[torch.Tensor, list[int]]:
    """Tokens of all prompts, task by task, renumbered; and the kept ids of open_clip's vocabulary, ascending.

    Ascending order leaves the end-of-text token the largest, where open_clip's pooling looks for it.
    """
    tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT)
    tokens = tokenizer([prompt for task in tasks for prompt in task["prompts"]])
    kept, renumbered = torch.unique(tokens, return_inverse=True)
    return renumbered.reshape(tokens.shape), kept.tolist()


def fit_text_tower(
    tasks: list[dict], wanted: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], list[int]]:
    """Train a text tower until every prompt's embedding is its wanted vector; returns fp16 tensors and kept ids."""
    tokens, kept = prompt_tokens(tasks)
    target = torch.cat([wanted[task["name"]] for task in tasks])
    torch.manual_seed(SEED)
    clip = make_clip(len(kept))
    clip.logit_scale.data.fill_(float(np.log(LOGIT_SCALE)))
    names = [name for name in clip.state_dict() if not name.startswith("visual.")]
    trained = {
        name: p for name, p in clip.named_parameters() if name in names and name != "logit_scale"
    }
    matrices = [p for name, p in trained.items() if "resblocks" in name and p.ndim == 2]
    rest = [p for name, p in trained.items() if not ("resblocks" in name and p.ndim == 2)]
    optimisers = [
        Muon(matrices, lr=TEXT_MUON_RATE, momentum=0.9, weight_decay=0.0),
        torch.optim.Adam(rest, lr=TEXT_ADAM_RATE, betas=(0.9, 0.99)),
    ]
    rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]
    for step in range(TEXT_STEPS):
        share = min(1, (step + 1) / 20) * (0.5 + 0.5 * np.cos(np.pi * step / TEXT_STEPS))
        set_rates(optimisers, rates, share)
        cosine = (normalize(clip.encode_text(tokens), dim=-1) * target).sum(-1)
        clip.zero_grad()
        (1 - cosine).mean().backward()
        for optimiser in optimisers:
            optimiser.step()
        lowest = cosine.min().item()
        if step % 50 == 0:
            print(f"text tower step {step}: lowest cosine {lowest:.5f}", flush=True)
        if lowest > TEXT_COSINE:
            break
    state = clip.state_dict()
    return {name: state[name].half().contiguous() for name in names}, kept


@torch.no_grad()
def embed_prompts(text: dict[str, torch.Tensor], tasks: list[dict]) -> dict[str, torch.Tensor]:
    """The heads: unit embeddings of the class prompts by the stored text tower, in fp32."""
    tokens, kept = prompt_tokens(tasks)
    clip = make_clip(len(kept))
    clip.load_state_dict({name: tensor.float() for name, tensor in text.items()}, strict=False)
    clip.eval()
    embeddings = normalize(clip.encode_text(tokens), dim=-1)
    parts = embeddings.split([len(task["classes"]) for task in tasks])
    return {task["name"]: part.clone() for task, part in zip(tasks, parts, strict=True)}


def shipped_tasks(work: Path) -> list[dict]:
    """The records of the tasks that are part of the family, in order."""
    return [
        task for task in json.loads((work / "tasks.json").read_text()) if task["kind"] != "broad"
    ]


def build_heads(work: Path) -> None:
    """Write `text.safetensors`, `heads.safetensors` and `token_ids.json`."""
    tasks = shipped_tasks(work)
    wanted = wanted_heads(work, load_tower(work), tasks, SKIPPED_COMPONENTS)
    text, kept = fit_text_tower(tasks, wanted)
    heads = embed_prompts(text, tasks)
    lowest = min(float((heads[name] * wanted[name]).sum(-1).min()) for name in heads)
    print(f"heads of the stored text tower: lowest cosine to the wanted vectors {lowest:.5f}")
    save_file(text, work / "text.safetensors")
    save_file(heads, work / "heads.safetensors")
    (work / "token_ids.json").write_text(json.dumps(kept))
