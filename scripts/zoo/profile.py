"""How alive each block of the demo family is, through the library: task vectors' norms and M-Loss along a merge."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository is not on a script's path

from mloss_core import BlockScored, MergeRecipe
from mloss_core.analysis.task_vectors import geometry
from mloss_core.families import family as zoo
from mloss_core.run import Merge, run

SAMPLES = 128


@dataclass(frozen=True, kw_only=True)
class Profile:
    """By block: the task vectors' norm over the block's own, averaged over sources, and the mean node M-Loss (Eq. 4)."""

    norms: list[float]
    losses: list[float]


def profile(folder: Path) -> Profile:
    """Of a family's folder, at its recommended settings."""
    os.environ["MLOSS_MODELS"] = str(folder.parent)
    family = zoo.load(folder.name)
    base = family.base()
    names = [family.model.block_names(block) for block in range(family.model.blocks)]
    squares = [sum(float(t.double().square().sum()) for t in base.read(n).values()) for n in names]
    vectors = geometry(family, family.sources).block_norms.mean(1)
    recipe = MergeRecipe(
        family=family.name, method="m-ties", sources=family.sources, samples=SAMPLES,
        **family.recommended("m-ties"),
    )  # fmt: skip
    events = run(recipe, family, stages=(Merge(),), device="cpu")
    losses = {
        e.scores.block: float(e.scores.node.mean()) for e in events if isinstance(e, BlockScored)
    }
    return Profile(
        norms=(vectors / np.sqrt(squares)).tolist(),
        losses=[losses[block] for block in sorted(losses)],
    )
