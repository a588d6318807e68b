"""Drops that were measured before, a small file each under $MLOSS_RUNS/drops.

A file is named by a hash of all that decides its numbers: recipe, models, images they were scored
on, labels, heads and version. Another of these is another file; nothing is ever looked up wrongly.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from uuid import uuid4

from .errors import BadFile
from .evaluate import Evaluator
from .recipe import calibration_of, content_key, describe
from .store import root
from .types import MergeRecipe

FOLDER = "drops"
Drop = tuple[float, float, float]


def known_drop(recipe: MergeRecipe, evaluator: Evaluator) -> Drop | None:
    """Mean, low and high as they were measured before; None where they were not, or where the
    file is damaged: then they are measured again."""
    try:
        found = json.loads(_path(recipe, evaluator).read_text(encoding="utf-8"))
        mean, low, high = (float(found[key]) for key in ("mean", "low", "high"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (mean, low, high) if all(map(math.isfinite, (mean, low, high))) else None


def remember_drop(recipe: MergeRecipe, evaluator: Evaluator, drop: Drop) -> None:
    """Keeps a drop; written aside, then renamed. Raises BadFile where it cannot be written."""
    path = _path(recipe, evaluator)
    aside = path.with_name(f".{uuid4().hex}.part")
    mean, low, high = drop
    row = {"sources": recipe.sources, "method": recipe.method, "mean": mean, "low": low}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(row | {"high": high}), encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        remedy = "free space, or set MLOSS_RUNS to another folder"
        raise BadFile("runs", root(), f"cannot be written ({error})", remedy) from error
    finally:
        aside.unlink(missing_ok=True)


def _path(recipe: MergeRecipe, evaluator: Evaluator) -> Path:
    calibration = calibration_of(recipe, evaluator.family)
    described = describe(recipe, evaluator.family, calibration)
    digest = hashlib.sha256(content_key(described).encode())
    for name in recipe.sources:
        task = evaluator.task(name)
        # A task's pictures may be larger than memory: its labels stand for them.
        digest.update(f"{name} {len(task.images)} ".encode())
        digest.update(task.labels.tobytes() + evaluator.heads[name].cpu().numpy().tobytes())
    return root() / FOLDER / f"{digest.hexdigest()[:32]}.json"
