"""Tunes the plain merges on validation pictures, then measures everything once on the test pictures."""

import numpy as np
import torch

from mloss_core.intervals import of_share

from . import merges
from .merges import Pictures, State

# Grids are searched on validation pictures only. Scaling of task arithmetic multiplies the mean task vector.
ARITHMETIC_SCALES = [1.0, 1.5, 2.0, 2.5, 3.0, 4.0]
TIES_KEEPS = [0.1, 0.2, 0.4, 0.8]
DARE_KEEPS = [0.5, 0.8]
ELECTED_SCALES = [0.4, 0.6, 0.8, 1.0, 1.4]


def average(right: dict[str, np.ndarray], names: list[str]) -> float:
    """Mean accuracy in percent over tasks."""
    return 100 * float(np.mean([right[name].mean() for name in names]))


def wilson(correct: int, total: int) -> tuple[float, float]:
    """95 % Wilson interval of a share, in percent."""
    low, high = of_share(correct, total)
    return 100 * low, 100 * high


def _best(base: State, deltas: dict, scales: list[float], heads: State, val: Pictures) -> tuple:
    """The (key, scale) whose merge scores best on validation."""
    names = list(val)
    candidates = []
    for key, delta in deltas.items():
        for scale in scales:
            embedded = merges.embeddings(merges.add(base, delta, scale), val)
            reached = average(merges.answers(embedded, heads, val), names)
            candidates.append((reached, key, scale))
            print(f"  keep {key} scaling {scale}: validation {reached:.2f}", flush=True)
    return max(candidates, key=lambda entry: entry[0])[1:]


def tune(base: State, sources: list[State], heads: State, val: Pictures) -> dict:
    """Recommended settings, from validation pictures of the source tasks."""
    vectors = merges.differences(base, sources)
    _, arithmetic = _best(base, {None: merges.mean(vectors)}, ARITHMETIC_SCALES, heads, val)
    keep, scale = _best(
        base, {k: merges.ties(vectors, k) for k in TIES_KEEPS}, ELECTED_SCALES, heads, val
    )
    kept, scaling = _best(
        base, {k: merges.dare(vectors, k) for k in DARE_KEEPS}, ELECTED_SCALES, heads, val
    )
    return {
        "keep": keep,
        "variation": min(0.1, keep / 2),
        "scaling": scale,
        "task-arithmetic": {"scaling": arithmetic},
        "dare": {"keep": kept, "scaling": scaling},
    }


def measure(
    base: State, sources: dict[str, State], heads: State, test: Pictures, chosen: dict
) -> dict:
    """Right answers a task for every model, in the order of the card's table."""
    vectors = merges.differences(base, list(sources.values()))
    middle = merges.mean(vectors)
    elected = merges.ties(vectors, chosen["keep"])
    dropped = merges.dare(vectors, chosen["dare"]["keep"])
    models = {
        "base": base,
        "simple average": merges.add(base, middle, 1.0),
        "task arithmetic": merges.add(base, middle, chosen["task-arithmetic"]["scaling"]),
        "TIES": merges.add(base, elected, chosen["scaling"]),
        "DARE": merges.add(base, dropped, chosen["dare"]["scaling"]),
    }
    embedded = {name: merges.embeddings(state, test) for name, state in sources.items()}
    matrix = {
        name: merges.answers(embeddings, heads, test) for name, embeddings in embedded.items()
    }
    rows = {
        row: merges.answers(merges.embeddings(state, test), heads, test)
        for row, state in models.items()
    }
    rows["ensemble"] = merges.answers(merges.ensemble(list(embedded.values())), heads, test)
    rows = {
        "base": rows.pop("base"),
        "own task": {name: matrix[name][name] for name in sources},
    } | rows
    whole = merges.norm(base)
    ratios = {
        name: merges.norm(vector) / whole for name, vector in zip(sources, vectors, strict=True)
    }
    return {"rows": rows, "matrix": matrix, "norm ratios": ratios}


def check_finite(states: list[State]) -> None:
    """Stop if any stored weight is not a number."""
    for state in states:
        for name, tensor in state.items():
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{name} has entries that are not finite")


def load_pictures(folder, names: list[str], split: str) -> Pictures:
    """Images and labels of one split from packed task files; the test split has no prefix there."""
    pictures = {}
    for name in names:
        with np.load(folder / f"{name}.npz") as data:
            pictures[name] = (data[f"{split}images"], data[f"{split}labels"])
    return pictures
