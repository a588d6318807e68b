"""Pieces of work: all done, in order, by threads that do not get into each other's way."""

from __future__ import annotations

import threading

import pytest
import torch

from mloss_core.parallel import thread_map

CPU = torch.device("cpu")


def test_results_come_in_the_order_of_the_pieces_whoever_is_done_first():
    later = threading.Event()

    def step(piece: int) -> int:
        if piece == 0 and torch.get_num_threads() < threads:  # not where one thread does it all
            later.wait(10)
        later.set()
        return piece * piece

    threads = torch.get_num_threads()
    assert list(thread_map(step, range(20), CPU)) == [n * n for n in range(20)]


def test_inside_torch_uses_one_thread_and_outside_as_many_as_before():
    before = torch.get_num_threads()
    assert set(thread_map(lambda _: torch.get_num_threads(), range(8), CPU)) == {1}
    counts = []
    newcomer = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    newcomer.start()
    newcomer.join()
    assert (torch.get_num_threads(), counts) == (before, [before])


def test_what_a_piece_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(thread_map(lambda n: 1 // n, range(3), CPU))
