"""Pictures of everything but a source's own task: on these its embeddings are pulled towards the base's.

Without it a source forgets what the base knew of the other tasks, and their ensemble with it.
"""

import json
from pathlib import Path

import numpy as np

SEED = 3
EACH = 1200  # pictures of a task
BATCH = 64  # pictures a step, beside the task's own
WEIGHT = 2.0  # of the mean squared distance between unit embeddings, beside the cross-entropy


def pictures(work: Path, task: str) -> np.ndarray:
    """Training pictures of the other source tasks and of the broad scripts; none of an out-of-domain task."""
    tasks = json.loads((work / "tasks.json").read_text())
    names = [t["name"] for t in tasks if t["kind"] != "out-of-domain" and t["name"] != task]
    parts = []
    for name in sorted(names):
        with np.load(work / "data" / f"{name}.npz") as data:
            images = data["train_images"]
        parts.append(images[np.random.default_rng(SEED).permutation(len(images))[:EACH]])
    return np.concatenate(parts)
