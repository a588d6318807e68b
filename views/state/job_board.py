"""Background jobs: one worker thread, append-only event logs, a cancel flag. No streamlit.

A job is a generator of events. Between two events the worker looks whether the job was cancelled,
and whether somebody waits while it does idle work: that is why cancelling takes no longer than
one event, and why measuring references in the background never delays a click.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from mloss_core import MlossError
from mloss_core.types import Planned, progress
from views.state.error_text import error_text

ACTIVE = ("queued", "running")
GIVES_WAY = object()  # not an event: from here on the job that yields it is idle work


@dataclass
class Job:
    """One piece of work and its log. Only the worker writes to it, except for `cancel`.

    Args:
        kind: "merge", "score" or "references".
        title: what people see.
        spec: what was asked for, as the page that asked wants to find it again.
        idle: whether it gives way to all other work; also from GIVES_WAY on.
        shown: whether every page tells of it.
    """

    id: str
    kind: str
    title: str
    spec: Any
    idle: bool = False
    shown: bool = True
    planned: Planned | None = None
    events: list[Any] = field(default_factory=list)
    state: str = "queued"
    error: str = ""
    result: Any = None
    started: float = 0.0
    ended: float = 0.0
    cancelled: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def active(self) -> bool:
        """Whether it waits or works."""
        return self.state in ACTIVE

    @property
    def seconds(self) -> float:
        """Seconds worked so far."""
        return (self.ended or time.monotonic()) - self.started if self.started else 0.0

    @property
    def share(self) -> float:
        """How much of what its first event planned is done, from 0 to 1."""
        return progress([self.planned, *self.events]) if self.planned else 0.0

    def cancel(self) -> None:
        """Asks the job to stop before its next event; one that waits never begins."""
        self.cancelled.set()
        if self.state == "queued":
            self.state = "cancelled"
            self.over.set()

    def wait(self, seconds: float) -> None:
        """Returns when the job has ended, or after so many seconds."""
        self.over.wait(seconds)


def elapsed(seconds: float) -> str:
    """A time as people say it: 1.2 s, 48 s, 3 min 26 s."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes:
        return f"{minutes} min {rest} s"
    return f"{seconds:.1f} s" if seconds < 10 else f"{rest} s"


class JobBoard:
    """All jobs of this server, and the one daemon thread that works on them."""

    def __init__(self, keep: int = 50):
        self._jobs: dict[str, Job] = {}
        self._urgent: deque[tuple[Job, Callable, Callable]] = deque()
        self._idle: deque[tuple[Job, Callable, Callable]] = deque()
        self._wake = threading.Condition()
        self._numbers = itertools.count(1)
        self._keep = keep
        self._stamp = f"{int(time.time()):x}"
        threading.Thread(target=self._work, daemon=True, name="jobs").start()

    def submit(
        self,
        kind: str,
        title: str,
        events: Callable[[], Generator[Any, None, None]],
        *,
        spec: Any = None,
        finish: Callable[[list[Any]], Any] = lambda events: None,
        idle: bool = False,
        shown: bool = True,
        keep: int | None = None,
    ) -> Job:
        """Queues a job and returns at once.

        Args:
            events: called in the worker; what it yields is the job's log.
            finish: called in the worker with the whole log; returns the job's result.
            idle: work that gives way to every other job.
            shown: whether every page tells of it.
            keep: ended jobs of this kind that the board keeps, fewer where their logs are large.
        """
        with self._wake:
            job = Job(f"{self._stamp}-{next(self._numbers)}", kind, title, spec, idle, shown)
            self._jobs[job.id] = job
            # Of each kind: a hundred settings tried on a slider don't push out what was launched.
            ended = [j for j in self._jobs.values() if not j.active and j.kind == kind]
            for old in ended[: -(keep or self._keep)]:
                del self._jobs[old.id]
            (self._idle if idle else self._urgent).append((job, events, finish))
            self._wake.notify()
        return job

    def replace(self, kind: str, title: str, events: Callable, **options: Any) -> Job:
        """Submits a job in place of all others of its kind: one that waits never begins, one that
        works stops before its next event. So no more than the newest is ever to be done."""
        with self._wake:
            for old in [j for j in self._jobs.values() if j.active and j.kind == kind]:
                old.cancel()
            for queue in (self._urgent, self._idle):
                kept = [item for item in queue if not item[0].cancelled.is_set()]
                queue.clear()
                queue.extend(kept)
            return self.submit(kind, title, events, **options)

    def get(self, job_id: str) -> Job | None:
        """The job of that id, if this server knows it."""
        return self._jobs.get(job_id)

    def find(self, kind: str, spec: Any, *, failed: bool = False) -> Job | None:
        """The newest job of that kind and spec that was not cancelled and, unless asked for, did
        not fail."""
        states = ("finished", *(["failed"] * failed))
        alive = (
            j for j in self._matching(kind, spec)
            if j.state in states or (j.active and not j.cancelled.is_set())
        )  # fmt: skip
        return next(alive, None)

    def last(self, kind: str, spec: Any) -> Job | None:
        """The newest job of that kind and spec, whatever became of it."""
        return next(iter(self._matching(kind, spec)), None)

    def _matching(self, kind: str, spec: Any) -> list[Job]:
        """All jobs of that kind and spec, newest first."""
        jobs = reversed(list(self._jobs.values()))
        return [j for j in jobs if j.kind == kind and j.spec == spec]

    def active(self) -> list[Job]:
        """Jobs that wait or work and that all pages tell of, oldest first, idle work left out."""
        return [j for j in list(self._jobs.values()) if j.active and j.shown and not j.idle]

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._urgent or self._idle)
                item = (self._urgent or self._idle).popleft()
            self._do(*item)

    def _urgent_one(self) -> tuple[Job, Callable, Callable] | None:
        """The next urgent job, taken off the queue."""
        with self._wake:
            return self._urgent.popleft() if self._urgent else None

    def _do(self, job: Job, events: Callable, finish: Callable) -> None:
        """Works on one job to its end; idle work lets urgent jobs in between its events."""
        if job.cancelled.is_set():
            job.state = "cancelled"
            return
        job.state, job.started = "running", time.monotonic()
        try:
            with contextlib.closing(events()) as log:
                for event in log:
                    if event is GIVES_WAY:
                        job.idle = True
                    elif isinstance(event, Planned):
                        job.planned = event
                    elif event is not None:  # None is a place to stop, and nothing else
                        job.events.append(event)
                    while job.idle and not job.cancelled.is_set() and (item := self._urgent_one()):
                        self._do(*item)
                    if job.cancelled.is_set():
                        job.state = "cancelled"
                        break
                else:
                    job.result = finish(job.events)
                    job.state = "finished"
        except MlossError as error:
            job.state, job.error = "failed", error_text(error)
        except Exception as error:  # a bug of ours: the server's log gets it whole
            traceback.print_exc()
            job.state, job.error = "failed", f"unexpected {type(error).__name__}: {error}"
        job.ended = time.monotonic()
        job.over.set()
