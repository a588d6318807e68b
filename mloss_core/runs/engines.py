"""Engines that measure cells in other processes: local workers here, Ray's tasks in `on_ray`.

A worker gets paths and specs, never tensors, and leaves what it measures in the folder of runs, as
any process does. So what is done is what is on disk: a batch whose worker died is given out again
and measures only what is missing, and so does an experiment that is started again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch

from ..errors import BadFile, MlossError, WorkerLost
from ..families.family import at
from ..hardware.device import choose
from .cells import Cell, Lab
from .layout import root

T = TypeVar("T")  # what was measured of a cell
Measure = Callable[[Lab, Sequence[Cell]], list[float]]
TRIES = 3  # of a batch whose worker dies each time
MOST = 4  # workers unless more are wanted: each holds a family's test images and torch


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Cells that one worker measures in turn.

    Args:
        folder: of the family.
        runs: the folder of runs, the same for all workers.
        device: kind of device.
        measure: a function of a module, which measures them and returns the seconds of each.
    """

    folder: Path
    runs: Path
    device: str
    cells: tuple[Cell, ...]
    measure: Measure

    @property
    def sources(self) -> set[str]:
        """The sources that its cells read."""
        return {source for cell in self.cells for source in cell.recipe.sources}


class Died(Exception):
    """What a worker leaves in place of an outcome when its process ends."""


Outcome = list[float] | Exception  # seconds of each cell, or why there are none


@runtime_checkable
class Engine(Protocol):
    """Where batches are measured: at most `workers` at a time."""

    workers: int

    def submit(self, worker: int, batch: Batch) -> None:
        """Gives an idle worker a batch."""

    def arrived(self, seconds: float) -> list[tuple[int, Outcome]]:
        """The workers that have ended their batch since, waited for at most that long."""
        ...

    def close(self) -> None:
        """Ends all workers at once, whatever they do; what they have measured stays on disk."""


def work(batch: Batch, threads: int) -> list[float]:
    """Measures a batch in this process, on that many threads; returns the seconds of each cell."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    os.environ["MLOSS_RUNS"] = str(batch.runs)
    return batch.measure(_lab(batch.folder, batch.device), batch.cells)


@functools.lru_cache(maxsize=1)
def _lab(folder: Path, device: str) -> Lab:
    """A worker's lab, which remembers what it has opened and embedded."""
    return Lab(at(folder), choose(device))


class Elsewhere(Generic[T]):
    """Cells that an engine measures: those that are not on disk, and each once, however often
    tables name it."""

    def __init__(
        self,
        engine: Engine,
        lab: Lab,
        cells: Sequence[Cell],
        measure: Measure,
        on_disk: Callable[[Cell], T | None],
    ):
        """Args:
        measure: what workers call.
        on_disk: what was measured of a cell; None where any of it is missing.
        """
        self._on_disk = on_disk
        missing = {_unnamed(cell): cell for cell in cells if on_disk(cell) is None}
        self._awaited = set(missing)
        self._arriving = _ahead(engine, batches(lab, list(missing.values()), measure))
        self._took: dict[Cell, float] = {}

    def outcome(self, cell: Cell) -> tuple[T, float | None]:
        """Waits for a cell; returns what was measured, and the seconds that it took, or None where
        it was on disk.

        Raises:
            WorkerLost: a batch's worker died TRIES times.
            BadFile: a worker has measured it, but not into this folder of runs.
            MlossError: of the first batch that raised one.
        """
        wanted = _unnamed(cell)
        while wanted in self._awaited:
            arrived, seconds = next(self._arriving)
            self._awaited.remove(_unnamed(arrived))
            self._took[_unnamed(arrived)] = seconds
        outcome = self._on_disk(cell)
        if outcome is None:
            problem, remedy = "lacks what a worker measured", "give all workers one shared folder"
            raise BadFile("runs", root(), problem, remedy)
        return outcome, self._took.pop(wanted, None)


def _unnamed(cell: Cell) -> Cell:
    """What is measured, whatever tables call it."""
    return dataclasses.replace(cell, label="")


def _ahead(engine: Engine, todo: list[Batch]) -> Iterator[tuple[Cell, float]]:
    """Measures batches elsewhere; gives each cell that has got on disk, with its seconds.

    A worker is given the batch that shares most sources with its last one, which it has opened.
    """
    running: dict[int, Batch] = {}
    last: dict[int, Batch] = {}
    deaths: Counter[Batch] = Counter()
    while todo or running:
        for worker in range(engine.workers):
            if todo and worker not in running:
                batch = nearest(todo, last.get(worker))
                todo.remove(batch)
                engine.submit(worker, batch)
                running[worker] = last[worker] = batch
        for worker, outcome in engine.arrived(1.0):
            batch = running.pop(worker)
            if isinstance(outcome, Died):
                del last[worker]
                deaths[batch] += 1
                if deaths[batch] == TRIES:
                    raise WorkerLost(batch.cells[0].label, TRIES) from outcome
                todo.insert(0, batch)
            elif isinstance(outcome, Exception):
                raise outcome
            else:
                yield from zip(batch.cells, outcome, strict=True)


def batches(lab: Lab, cells: Sequence[Cell], measure: Measure) -> list[Batch]:
    """The cells in batches: those that go `together`, and each other one alone."""
    grouped: dict[Any, list[Cell]] = {}
    for place, cell in enumerate(cells):
        grouped.setdefault(place if cell.together is None else cell.together, []).append(cell)
    about: dict[str, Any] = {"folder": lab.family.folder.absolute(), "runs": root().absolute()}
    about |= {"device": lab.device.type, "measure": measure}
    return [Batch(cells=tuple(group), **about) for group in grouped.values()]


def nearest(todo: Sequence[Batch], last: Batch | None) -> Batch:
    """The batch that shares most sources with the last one; of equals the first."""
    if last is None:
        return todo[0]
    return max(todo, key=lambda batch: len(batch.sources & last.sources))


@dataclass(frozen=True, kw_only=True)
class Share:
    """How a machine is shared out among workers.

    Args:
        workers: how many.
        threads: of each.
        cards: CUDA_VISIBLE_DEVICES of each; none where they compute on the CPU.
    """

    workers: int
    threads: int
    cards: tuple[str, ...] = ()

    @classmethod
    def of(cls, device: torch.device, workers: int | None = None) -> Share:
        """The share of each, where nobody says how many: a card, or a core."""
        cores, cards = torch.get_num_threads(), ()
        if device.type == "cuda":
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            every = visible.split(",") if visible else map(str, range(torch.cuda.device_count()))
            cards = tuple(every)
        usual = len(cards) if cards else min(MOST, cores) if device.type == "cpu" else 1
        workers = workers or usual
        return cls(workers=workers, threads=max(1, cores // workers), cards=cards)


class Pool:
    """Worker processes of this machine, each with its share of it.

    A worker starts with its first batch. It ends when this process does: its pipe breaks.
    """

    def __init__(self, share: Share):
        self.workers, self._share = share.workers, share
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[int, tuple[Any, Connection]] = {}
        self._busy: dict[Connection, int] = {}

    def submit(self, worker: int, batch: Batch) -> None:
        """Gives an idle worker a batch, and starts it where it has none to run on."""
        if worker not in self._processes:
            ours, its = self._context.Pipe()
            threads, cards = self._share.threads, self._share.cards
            card = cards[worker % len(cards)] if cards else None
            process = self._context.Process(target=_serve, args=(its, threads, card), daemon=True)
            with _no_main_script():
                process.start()
            its.close()
            self._processes[worker] = process, ours
        _, pipe = self._processes[worker]
        self._busy[pipe] = worker
        with contextlib.suppress(BrokenPipeError):  # it died idle: `arrived` reads that
            pipe.send(batch)

    def arrived(self, seconds: float) -> list[tuple[int, Outcome]]:
        """The workers that have ended their batch, or their life."""
        return [self._received(pipe) for pipe in wait(list(self._busy), seconds)]

    def _received(self, pipe: Any) -> tuple[int, Outcome]:
        worker = self._busy.pop(pipe)
        try:
            return worker, pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            process, _ = self._processes.pop(worker)
            process.join()
            pipe.close()
            died = Died(f"exit code {process.exitcode}")
            died.__cause__ = error
            return worker, died

    def close(self) -> None:
        """Kills all workers: what they write is written aside and renamed."""
        for process, pipe in self._processes.values():
            process.kill()
            process.join()
            pipe.close()
        self._processes.clear()
        self._busy.clear()


@contextlib.contextmanager
def _no_main_script() -> Iterator[None]:
    """Keeps a new process from running this one's main script once more: a worker needs nothing of
    it, and within Streamlit it is whatever page was drawn last."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(pipe: Connection, threads: int, card: str | None) -> None:
    """A worker's life: batch after batch, until the pipe breaks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that will end it
    if card is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = card  # read when torch first uses CUDA
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            pipe.send(outcome_of(pipe.recv(), threads))


def outcome_of(batch: Batch, threads: int) -> Outcome:
    """A batch's seconds, or the error that it ended with, which can travel."""
    try:
        return work(batch, threads)
    except MlossError as error:
        return error
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        return RuntimeError(f"a worker failed\n{text}")
