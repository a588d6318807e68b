"""Parallel execution of independent pieces of work, each on one thread.

torch spreads every operation over all threads and waits for the last of them, so that in a chain of
small operations one busy core holds up every link. Threads with whole pieces wait only at the end.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")
_here = threading.local()  # whether this thread does pieces


def thread_map(
    step: Callable[[Piece], Result], pieces: Iterable[Piece], device: torch.device
) -> Iterator[Result]:
    """Results of `step` on every piece, in order, in parallel on a CPU.

    What calls it within a piece goes on in that piece's thread.

    Args:
        device: where the pieces' tensors are.
    """
    todo = list(pieces)
    if device.type != "cpu" or len(todo) < 2 or getattr(_here, "is_piece", False):
        return map(step, todo)
    return _threads().map(step, todo)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """A pool of as many threads as torch uses, in each of which torch uses one."""
    count = torch.get_num_threads()
    all_here = threading.Barrier(count)

    def alone() -> None:
        torch.get_num_threads()  # a thread's first call sets its number, the next may change it
        torch.set_num_threads(1)
        _here.is_piece = True

    threads = ThreadPoolExecutor(count, "piece", alone)
    list(threads.map(lambda _: all_here.wait(), range(count)))
    torch.set_num_threads(count)  # it is also the number of threads still to come
    return threads
