"""Background jobs: one worker thread, append-only event logs, a cancel flag. No streamlit.

A job is a generator of events. Between two events the worker looks whether the job was cancelled,
and whether something that comes before it waits: that is why cancelling takes no longer than one
event, and why measuring references in the background never delays a click.
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
GIVES_WAY = object()  # not an event: from here on the job lets all that was asked for go first


@dataclass
class Job:
    """One piece of work and its log. Only the worker writes to it, except for `cancel`.

    Args:
        kind: "merge", "score" or "references".
        title: what people see.
        spec: what was asked for, as the page that asked wants to find it again.
        idle: whether it gives way to what was asked for; also from GIVES_WAY on.
        shown: whether every page tells of it.
        owner: the visitor who asked for it, where one did.
    """

    id: str
    kind: str
    title: str
    spec: Any
    idle: bool = False
    shown: bool = True
    owner: str = ""
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


@dataclass(eq=False)
class _Work:
    """A job and what it takes to do it.

    Args:
        place: of its queue: what was asked for, what gave way, idle work.
        log: its generator, once it has begun.
    """

    job: Job
    events: Callable[[], Generator[Any, None, None]]
    finish: Callable[[list[Any]], Any]
    place: int
    log: Generator[Any, None, None] | None = None


ASKED, GAVE_WAY, IDLE = range(3)


class JobBoard:
    """All jobs of this server, and the one daemon thread that works on them.

    Args:
        keep: ended jobs of a kind that stay.
        admit: called with every job before it is queued; raises MlossError where it may not be.
    """

    def __init__(self, keep: int = 50, admit: Callable[[Job], None] = lambda job: None):
        self._jobs: dict[str, Job] = {}
        self._queues: tuple[deque[_Work], ...] = (deque(), deque(), deque())
        self._works: dict[str, _Work] = {}
        self._wanted: dict[tuple[str, str], Job] = {}
        self._wake = threading.Condition()
        self._numbers = itertools.count(1)
        self._keep, self._admit = keep, admit
        self._stamp = f"{int(time.time()):x}"
        threading.Thread(target=self._forever, daemon=True, name="jobs").start()

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
            self._admit(job)
            self._jobs[job.id] = job
            # Of each kind: a hundred settings tried on a slider don't push out what was launched.
            ended = [j for j in self._jobs.values() if not j.active and j.kind == kind]
            for old in ended[: -(keep or self._keep)]:
                del self._jobs[old.id]
            place = IDLE if idle else ASKED
            work = self._works[job.id] = _Work(job, events, finish, place)
            self._queues[place].append(work)
            self._wake.notify()
        return job

    def move(self, job: Job, place: int) -> None:
        """Lets a job go before or after others from now on.

        Args:
            place: ASKED; GAVE_WAY, for what nobody asked for but somebody looks at; or IDLE.
        """
        with self._wake:
            work = self._works.get(job.id)
            if work is None or not job.active or work.place == place:
                return
            if work in self._queues[work.place]:
                self._queues[work.place].remove(work)
                self._queues[place].append(work)
            work.place, job.idle = place, place == IDLE

    def ask(
        self, visitor: str, kind: str, title: str, events: Callable, *, spec: Any, **options: Any
    ) -> Job:
        """The job of that spec, submitted unless anybody has; in place of what this visitor asked
        for before, which is cancelled unless another visitor wants it, too. So no more than the
        newest of each visitor is ever to be done, and equal wishes are done once.
        """
        with self._wake:
            job = self.find(kind, spec) or self.submit(kind, title, events, spec=spec, **options)
            former = self._wanted.pop((visitor, kind), job)
            self._wanted = {key: j for key, j in self._wanted.items() if j.active}
            if former is not job and former not in self._wanted.values():
                former.cancel()
            self._wanted[visitor, kind] = job
            return job

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

    def finished(self, kind: str) -> list[Job]:
        """Finished jobs of that kind, oldest first."""
        return [j for j in list(self._jobs.values()) if j.kind == kind and j.state == "finished"]

    def active(self) -> list[Job]:
        """Jobs that wait or work and that all pages tell of, oldest first, idle work left out."""
        return [j for j in list(self._jobs.values()) if j.active and j.shown and not j.idle]

    def _forever(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: any(self._queues))
                work = next(queue for queue in self._queues if queue).popleft()
            self._do(work)

    def _do(self, work: _Work) -> None:
        """Works on a job to its end, or until something that comes before it waits."""
        job = work.job
        try:
            if not job.cancelled.is_set():
                if work.log is None:
                    job.state, job.started = "running", time.monotonic()
                    work.log = work.events()
                for event in work.log:
                    _note(work, event)
                    self._close_cancelled()
                    if job.cancelled.is_set():
                        break
                    if self._stands_back(work, begins=event is GIVES_WAY):
                        return
                else:
                    job.result = work.finish(job.events)
                    job.state = "finished"
            if job.state != "finished":
                _close(work)
        except MlossError as error:
            job.state, job.error = "failed", error_text(error)
        except Exception as error:  # a bug of ours: the server's log gets it whole
            traceback.print_exc()
            job.state, job.error = "failed", f"unexpected {type(error).__name__}: {error}"
        _end(job)
        self._works.pop(job.id, None)

    def _stands_back(self, work: _Work, begins: bool) -> bool:
        """Whether other work goes first; then this one waits at the head of its queue.

        Args:
            begins: to give way: then it waits behind those that did so before.
        """
        with self._wake:
            if not any(self._queues[: work.place + begins]):
                return False
            queue = self._queues[work.place]
            (queue.append if begins else queue.appendleft)(work)
            return True

    def _close_cancelled(self) -> None:
        """Ends what was cancelled while it stood back: its turn may be far."""
        with self._wake:
            gone = [w for queue in self._queues for w in queue if w.job.cancelled.is_set()]
            for work in gone:
                self._queues[work.place].remove(work)
        for work in gone:
            _close(work)
            _end(work.job)
            self._works.pop(work.job.id, None)


def _note(work: _Work, event: Any) -> None:
    """Puts an event into the job's log; some are not for the log."""
    if event is GIVES_WAY:
        work.place, work.job.idle = GAVE_WAY, True
    elif isinstance(event, Planned):
        work.job.planned = event
    elif event is not None:  # None is a place to stop, and nothing else
        work.job.events.append(event)


def _close(work: _Work) -> None:
    """Closes the log of a cancelled job."""
    with contextlib.suppress(Exception):  # it is not wanted: what closing it breaks is nobody's
        if work.log is not None:
            work.log.close()
    work.job.state = "cancelled"


def _end(job: Job) -> None:
    """Whoever waits for the job is told that it has ended."""
    job.ended = time.monotonic() if job.started else 0.0
    job.over.set()
