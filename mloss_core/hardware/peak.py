"""Peak memory while code runs: measured, and kept low."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

# Pages of this process, those resident, and the shared of these. To look at the longer file that
# names RssAnon, and more often, cost small merges a tenth of their time.
STATM = Path("/proc/self/statm")
EVERY = 0.02  # seconds


def anonymous() -> int | None:
    """Bytes of this process's anonymous memory (RssAnon); None where unknown."""
    try:
        _, resident, shared, *_ = map(int, STATM.read_text().split())
    except OSError:  # not Linux
        return None
    return (resident - shared) * mmap.PAGESIZE


@contextmanager
def watched(device: torch.device) -> Iterator[list[int]]:
    """Measures peak memory while the block runs, as the one entry of the list it yields.

    In bytes beyond those held before, of the GPU or of anonymous memory; the list stays empty where
    they are unknown.
    """
    peak: list[int] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.append(torch.cuda.max_memory_allocated(device) - before)
        return
    give_back()
    before, highest, done = anonymous(), [0], threading.Event()

    def look() -> None:
        while not done.wait(EVERY):
            highest[0] = max(highest[0], anonymous() or 0)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
    if before is not None and highest[0]:
        peak.append(max(0, highest[0] - before))


def give_back() -> None:
    """Returns freed memory to the system (glibc only): else what fits nothing that comes later is
    kept, and using it again would not show."""
    if STATM.exists() and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
