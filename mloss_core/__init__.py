"""M-Loss: where fine-tuned models disagree, and merging that looks there first.

The five-minute path: types -> mloss -> trim -> methods -> sweep -> run.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

# Before torch is imported: threads that spin long at barriers starve each other when something else
# (a browser beside the app) wants a core, and threads that never spin are slow on an idle machine.
# A short spin is best in both cases (docs/architecture.md).
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

from .version import __version__

if TYPE_CHECKING:
    from .interface import *

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


class _Package(ModuleType):
    """Imports the public names when the first of them is asked for: they need torch, which takes
    seconds, and much of the command line does not."""

    def __getattr__(self, name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        interface = importlib.import_module(".interface", __name__)
        return vars(self).setdefault(name, getattr(interface, name))

    def __setattr__(self, name: str, value: object) -> None:
        # Import would put the modules `run` and `families` in the place of these functions.
        if name not in __all__ or not isinstance(value, ModuleType):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *__all__})


sys.modules[__name__].__class__ = _Package
