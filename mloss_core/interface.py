"""The public names, each from its module; `mloss_core` imports them when it is asked for one."""

from __future__ import annotations

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
from .families.family import Family, load
from .families.folders import families
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
from .vit import Tower
