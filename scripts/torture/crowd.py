"""A class on one server: many sessions that choose, look on and launch at the same time.

Each visitor is a WebSocket session of its own, with settings that nobody else has, so that whatever
shows another's would be noticed.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil
from browser.driver import Server, running

from mloss_core.runs import store
from scripts.torture.report import MIB, Row
from scripts.torture.visitor import Visitor, live
from tiny import write_family

QUICK = 2.0  # seconds within which 95 of 100 answers must come
PAUSE = (2.0, 6.0)  # seconds that a visitor looks at an answer
LAUNCHES = 2  # of each visitor
AFTERWARDS = 180.0  # seconds in which the last launch must have been done
SETTLED = 60.0  # seconds after which memory must not grow
GROWTH = 0.10  # of memory, from then on


@dataclass
class Visit:
    """What one visitor did and met.

    Args:
        launched: settings that were launched: keep rate k and when.
        strange: what was shown and is not the visitor's own.
    """

    number: int
    answers: list[float] = field(default_factory=list)
    launched: dict[float, float] = field(default_factory=dict)
    name: str = ""
    strange: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def own(self) -> tuple[float, ...]:
        """Keep rates that this visitor alone chooses."""
        return tuple(round(0.1 + 0.02 * self.number + 0.002 * step, 3) for step in range(8))


@dataclass
class Memory:
    """Seconds since the start, and what the server's process holds then."""

    seconds: list[float] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)

    def after(self, seconds: float) -> tuple[list[float], list[int]]:
        kept = [(s, b) for s, b in zip(self.seconds, self.bytes, strict=True) if s >= seconds]
        return [s for s, _ in kept], [b for _, b in kept]


def visited(visit: Visit, url: str, end: float, draw: Random) -> None:
    """A visitor's whole visit; what breaks is noted."""
    try:
        visitor = Visitor(url, {"family": "tiny", "keep": str(visit.own[0]), "variation": "0.05"})
        try:
            _visited(visit, visitor, end, draw)
        finally:
            visit.answers, visit.broken = visitor.seconds, visit.broken + visitor.exceptions
            visitor.close()
    except Exception as error:
        visit.broken.append(f"{type(error).__name__}: {error}"[:200])


def _visited(visit: Visit, visitor: Visitor, end: float, draw: Random) -> None:
    visitor.run()
    visit.name = visitor.page.get("visitor", "")
    _check(visit, visitor, visit.own[0])
    begun = time.monotonic()
    due = [begun + (end - begun) * (step + draw.random()) / (LAUNCHES + 1) for step in range(2)]
    while (now := time.monotonic()) < end:
        keep = draw.choice(visit.own[LAUNCHES:])
        if len(visit.launched) < LAUNCHES and now >= due[len(visit.launched)]:
            keep = visit.own[len(visit.launched)]
            visit.launched[keep] = time.time()
            visitor.launch(keep=keep)
        else:
            visitor.choose(keep=keep)
            _look_on(visit, visitor, keep, draw.uniform(*PAUSE))
        _check(visit, visitor, keep)
        time.sleep(min(draw.uniform(*PAUSE), max(0.0, end - time.monotonic())))


def _look_on(visit: Visit, visitor: Visitor, keep: float, seconds: float) -> None:
    """Follows the live merge of a setting for some seconds, as the open view does."""
    end, base = time.monotonic() + seconds, {"family": "tiny", "visitor": visit.name}
    for line in live(visitor.url, **base, keep=keep, variation=0.05):
        if "error" in line:
            visit.broken.append(line["error"][:200])
        if "took" in line or time.monotonic() > end:
            return


def _check(visit: Visit, visitor: Visitor, keep: float) -> None:
    """Notes a page that shows what this visitor has not chosen."""
    shown, name = visitor.page.get("setting", {}).get("keep"), visitor.page.get("visitor")
    if shown != keep:
        visit.strange.append(f"visitor {visit.number} chose k = {keep} and sees {shown}")
    if name != visit.name:
        visit.strange.append(f"visitor {visit.number} is called {name}, not {visit.name}")


def watch(server: Server, memory: Memory, over: threading.Event) -> None:
    """Notes the server's memory each second until it is over."""
    process, start = psutil.Process(server.process.pid), time.monotonic()
    while not over.wait(1.0):
        with suppress(psutil.Error):
            memory.bytes.append(process.memory_info().rss)
            memory.seconds.append(time.monotonic() - start)


def rows(sessions: int, minutes: int, seed: int) -> Iterator[Row]:
    """The class's rows: answers, states, launches, memory."""
    visits, memory, over = [Visit(n) for n in range(sessions)], Memory(), threading.Event()
    with tempfile.TemporaryDirectory(prefix="torture-") as place:
        write_family(Path(place) / "models" / "tiny")
        with running(Path(place)) as server:
            Visitor(server.url, {"family": "tiny"}).run()  # the library is loaded
            threading.Thread(target=watch, args=(server, memory, over), daemon=True).start()
            end = time.monotonic() + 60 * minutes
            threads = [
                threading.Thread(target=visited, args=(v, server.url, end, Random(f"{seed} {v}")))
                for v in visits
            ]
            for thread in threads:
                thread.start()
                time.sleep(0.2)
            for thread in threads:
                thread.join()
            over.set()
            waited = _waits(visits, server.runs)
            log = server.log.read_text(errors="replace")
    yield from _rows(visits, memory, waited, log, minutes)


def _waits(visits: list[Visit], runs: Path) -> dict[float, float]:
    """Seconds from each launch to its finished run, by keep rate; those that came in time."""
    os.environ["MLOSS_RUNS"] = str(runs)
    launched = {keep: at for visit in visits for keep, at in visit.launched.items()}
    end, waits = time.monotonic() + AFTERWARDS, dict[float, float]()
    while waits.keys() != launched.keys() and time.monotonic() < end:
        for record in store.list_runs():
            keep = record.metadata["recipe"].get("keep")
            if record.state == "finished" and keep in launched:
                done = (record.folder / "record.json").stat().st_mtime
                waits[keep] = max(0.0, done - launched[keep])
        time.sleep(0.5)
    return waits


def _rows(
    visits: list[Visit], memory: Memory, waits: dict[float, float], log: str, minutes: int
) -> Iterator[Row]:
    answers = sorted(seconds for visit in visits for seconds in visit.answers)
    broken = [words for visit in visits for words in visit.broken]
    strange = [words for visit in visits for words in visit.strange]
    names = {visit.name for visit in visits}
    launches = sum(len(visit.launched) for visit in visits)
    for words in (*broken[:20], *strange[:20]):
        print(f"crowd: {words}", file=sys.stderr, flush=True)
    common = {"part": "crowd", "done": f"{len(visits)} sessions for {minutes} min"}
    late = answers[int(0.95 * len(answers))] if answers else float("inf")
    middle = statistics.median(answers) if answers else float("inf")
    load = os.getloadavg()[0]
    yield Row(
        **common, count=len(answers), must=f"95 of 100 answers within {QUICK:g} s, none breaks",
        measured=f"median {middle:.2f} s, 95th percentile {late:.2f} s; {len(broken)} broke, "
        f"{log.count('Traceback')} tracebacks in the log; {os.cpu_count()} cores, load {load:.1f}",
        holds=late < QUICK and not broken and "Traceback" not in log,
    )  # fmt: skip
    yield Row(
        **common, count=len(answers), must="nobody sees another's setting or name",
        measured=f"{len(strange)} did; {len(names)} names", holds=not strange
        and len(names) == len(visits),
    )  # fmt: skip
    longest = max(waits.values(), default=0.0)
    yield Row(
        **common, count=launches, must="each launch ends as a finished run",
        measured=f"{len(waits)} did, the slowest after {longest:.1f} s",
        holds=len(waits) == launches > 0,
    )  # fmt: skip
    seconds, held = memory.after(min(SETTLED, 60 * minutes / 2))
    slope = statistics.linear_regression(seconds, held).slope * 60 / MIB
    share = slope * MIB * (seconds[-1] - seconds[0]) / 60 / held[0]
    yield Row(
        **common, count=len(held), must=f"after the first minute memory grows by less than "
        f"{GROWTH:.0%}",
        measured=f"{held[0] / MIB:.0f} MiB, then {slope:+.1f} MiB a minute ({share:+.1%})",
        holds=share < GROWTH,
    )  # fmt: skip
