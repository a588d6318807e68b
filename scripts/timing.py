"""What the benchmarks share: the repository on the path, the device, a stopwatch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, the repository is not

import mloss_core  # noqa: E402, F401

# isort: split
# After mloss_core, which says how threads wait before torch starts them; as the app does.
import torch  # noqa: E402

CPU = torch.device("cpu")


def timed(work: Callable[[], object]) -> float:
    """Seconds that the work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
