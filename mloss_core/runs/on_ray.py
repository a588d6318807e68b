"""The engine of many machines: batches as tasks of Ray Core (`pip install mloss[ray]`).

All nodes see one folder of families and one of runs. Ray places a task where cores or cards are
free, and says when its worker or its node has died.
"""

from __future__ import annotations

import contextlib
import importlib
import socket
from typing import Any

from ..errors import BadValue
from .engines import Batch, Died, Outcome, outcome_of

SECONDS = 5  # that a cluster's head has to answer


def _reach(address: str) -> None:
    """Raises OSError where nothing answers at HOST:PORT: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "/" not in host:
        socket.create_connection((host, int(port)), SECONDS).close()


class Ray:
    """Tasks on a Ray cluster: one batch each, no more at a time than the cluster has room for."""

    def __init__(self, address: str, workers: int | None, threads: int, cards: int):
        """Args:
        address: of the cluster's head; "local" starts one on this machine.
        workers: most tasks at a time; None for as many as there is room for.
        threads: cores of a task.
        cards: GPUs of a task: 0 or 1.

        Raises:
            BadValue: Ray is not installed, or nothing answers at the address, or has no room.
        """
        try:
            self._ray: Any = importlib.import_module("ray")
        except ModuleNotFoundError as error:
            remedy = "pip install 'mloss[ray]', or use --engine pool"
            raise BadValue("engine", "ray", "is not installed", remedy) from error
        try:
            _reach(address)
            self._ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError) as error:
            problem, remedy = f"cannot be joined ({error})", "start it with ray start --head"
            raise BadValue("address", address, problem, remedy) from error
        room = self._room(threads, cards)
        if room < 1:
            self._ray.shutdown()
            needs = f"{threads} cores" if not cards else f"{threads} cores and a GPU"
            problem = f"has no room for one task of {needs}"
            raise BadValue("address", address, problem, "add nodes")
        self.workers, self.threads = min(workers or room, room), threads
        # Without retries of Ray's own: whoever submits gives out again what a worker dropped.
        options = {"num_cpus": threads, "num_gpus": cards, "max_retries": 0}
        self._measured = self._ray.remote(**options)(outcome_of)
        self._running: dict[Any, int] = {}
        self._address = address

    def _room(self, threads: int, cards: int) -> int:
        """Tasks that fit on the cluster at a time."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        fits = (
            min(
                int(node.get("CPU", 0)) // threads,
                int(node.get("GPU", 0)) // cards if cards else int(node.get("CPU", 0)),
            )
            for node in nodes
        )
        return sum(fits)

    def submit(self, worker: int, batch: Batch) -> None:
        """Makes a batch a task."""
        self._running[self._measured.remote(batch, self.threads)] = worker

    def arrived(self, seconds: float) -> list[tuple[int, Outcome]]:
        """The tasks that have ended since."""
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        return [(self._running.pop(task), self._outcome(task)) for task in ready]

    def _outcome(self, task: Any) -> Outcome:
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:  # such as a node that lacks mloss
            return RuntimeError(f"a node of {self._address} failed\n{error}")
        except self._ray.exceptions.RayError as error:
            return Died(str(error))

    def close(self) -> None:
        """Cancels what is running, and leaves the cluster."""
        for task in self._running:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(task, force=True)
        self._running.clear()
        self._ray.shutdown()
