"""M-Loss: where fine-tuned models disagree, and merging that looks there first.

The five-minute path: types -> mloss -> trim -> methods -> sweep -> run.
"""

import os

# Before torch is imported: threads that spin long at barriers starve each other when something else
# (a browser beside the app) wants a core, and threads that never spin are slow on an idle machine.
# A short spin is best in both cases (docs/architecture.md).
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

from .activations import ACTIVATIONS
from .analysis.expectation import Setting, expected, simulated
from .analysis.second_order import SecondOrder, second_order
from .analysis.task_vectors import Geometry, geometry
from .analysis.theory import BlockTheory, theory
from .architecture import ViTConfig
from .checkpoints.image_tower import Checkpoint, save
from .data.calibration import draw_batch, load_batch
from .errors import InputError, MlossError
from .evaluation.evaluator import Evaluator, mean_accuracy
from .evaluation.paired_test import Comparison, compare, verdict
from .families.family import Family, families, load
from .methods import METHODS, Method
from .mloss import keep_rates, layer_mloss, node_mloss, node_sums, score_block, token_gap
from .run import Evaluate, Merge, cell, launch, live, run
from .runs.store import RunRecord, list_runs, load_run, recorded
from .types import (
    Accuracy,
    BlockMerged,
    BlockScored,
    CalibrationBatch,
    Embedded,
    Event,
    Finished,
    MergeRecipe,
    NodeScores,
    Planned,
    TaskEvaluated,
    progress,
)
from .version import __version__
from .vit import Tower

__all__ = [
    "ACTIVATIONS",
    "METHODS",
    "Accuracy",
    "BlockMerged",
    "BlockScored",
    "BlockTheory",
    "CalibrationBatch",
    "Checkpoint",
    "Comparison",
    "Embedded",
    "Evaluate",
    "Evaluator",
    "Event",
    "Family",
    "Finished",
    "Geometry",
    "InputError",
    "Merge",
    "MergeRecipe",
    "Method",
    "MlossError",
    "NodeScores",
    "Planned",
    "RunRecord",
    "SecondOrder",
    "Setting",
    "TaskEvaluated",
    "Tower",
    "ViTConfig",
    "__version__",
    "cell",
    "compare",
    "draw_batch",
    "expected",
    "families",
    "geometry",
    "keep_rates",
    "launch",
    "layer_mloss",
    "list_runs",
    "live",
    "load",
    "load_batch",
    "load_run",
    "mean_accuracy",
    "node_mloss",
    "node_sums",
    "progress",
    "recorded",
    "run",
    "save",
    "score_block",
    "second_order",
    "simulated",
    "theory",
    "token_gap",
    "verdict",
]
