"""Merged tensors of every method, bit by bit, as they were recorded: no refactoring moves a byte.

`python tests/test_merged_bytes.py` records them anew, where a byte is meant to change.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "20000")
if __name__ == "__main__":  # a bare script sees only its own folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytest
import torch

import mloss_core as ml
from mloss_core.methods.emr import TaskModels

RECORD = Path(__file__).with_suffix(".json")
WEIGHTS = (0.4, 0.3, 0.2, 0.1)
RECIPES: dict[str, dict] = {
    "simple-average": {"method": "simple-average", "weights": WEIGHTS},
    "task-arithmetic": {"method": "task-arithmetic", "scaling": 1.3},
    "ties": {"method": "ties"},
    "ties, global, weights": {"method": "ties", "scope": "global", "weights": WEIGHTS},
    "elect": {"method": "elect", "weights": WEIGHTS},
    "dare": {"method": "dare", "keep": 0.5, "seed": 7},
    "m-ties": {"method": "m-ties"},
    "m-ties, blocks, tokens, weights": {
        "method": "m-ties",
        **{"blocks": (2, 5), "tokens": 8, "weights": WEIGHTS, "samples": 64, "scaling": 0.9},
    },
    "m-ties, as released": {
        "method": "m-ties",
        **{"inputs_from": "pretrained", "scores": "squared", "samples": 32},
    },
    "m-ties, bf16, reversed": {
        "method": "m-ties",
        **{"precision": "bf16", "ranks": "reversed", "samples": 16, "blocks": (0, 11)},
    },
    "m-ties, equal": {"method": "m-ties", "ranks": "equal", "keep": 0.8, "variation": 0.3},
    "m-ties, random": {"method": "m-ties", "ranks": "random", "keep": 0.8, "variation": 0.3},
    "m-dare": {"method": "m-dare", "blocks": (0, 1, 2), "samples": 32, "keep": 0.4},
    "emr": {"method": "emr"},
}


def recipe_of(family: ml.Family, fields: dict) -> ml.MergeRecipe:
    """Of all sources, or of as many as there are weights."""
    names = family.sources[: len(WEIGHTS)] if "weights" in fields else family.sources
    return ml.MergeRecipe(family=family.name, sources=names, **fields)


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """sha256 over names, shapes and bytes, in the order of the names."""
    whole = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        whole.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        whole.update(tensor.numpy().tobytes())
    return whole.hexdigest()


def merged_digest(name: str) -> str:
    family = ml.load("demo")
    recipe = recipe_of(family, RECIPES[name])
    if recipe.method == "emr":  # leaves a model per task: the last one stands for all
        files = {source: family.source(source) for source in recipe.sources}
        models = TaskModels(family.model, family.base().load(torch.device("cpu")), files)
        list(models.prepare(recipe))
        return digest(models.weights(recipe.sources[-1]))
    *_, last = ml.run(recipe, family, device="cpu")
    assert isinstance(last, ml.Finished) and last.weights is not None
    return digest(last.weights)


def processor() -> str:
    """What decides the order of fp32 sums: the processor, and the instructions torch takes."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"


@pytest.fixture(scope="module")
def record() -> dict:
    """The recorded digests; skipped on other processors, which sum fp32 in another order."""
    record = json.loads(RECORD.read_text())
    if processor() != record["processor"]:
        pytest.skip(f"recorded on {record['processor']}; this is {processor()}")
    return record["sha256"]


@pytest.mark.parametrize("name", RECIPES)
def test_merged_tensors_are_those_recorded_bit_by_bit(name, record):
    assert merged_digest(name) == record[name]


if __name__ == "__main__":
    torch.set_num_threads(1)
    digests = {name: merged_digest(name) for name in RECIPES}
    about = {"processor": processor(), "sha256": digests}
    RECORD.write_text(json.dumps(about, indent=1) + "\n")
