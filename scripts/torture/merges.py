"""A day's work in one server: merges without end, live ones and launched ones that are recorded."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import psutil
from browser.driver import running

from mloss_core.runs import store
from scripts.torture.report import MIB, Row
from scripts.torture.visitor import Visitor, live
from tiny import write_family

LAUNCHED = 10  # each tenth merge is launched, and recorded
PROBES = 100  # looks at the server's memory and files
GROWTH = 0.10  # of memory, between the second tenth and the last
MORE_FILES = 8  # open ones: connections come and go
PATIENCE = 60.0  # seconds for a launch to end


def rows(merges: int, seed: int) -> Iterator[Row]:
    """The day's row."""
    memory, files, threads, broken = list[int](), list[int](), list[int](), list[str]()
    with tempfile.TemporaryDirectory(prefix="torture-") as place:
        write_family(Path(place) / "models" / "tiny")
        os.environ["MLOSS_RUNS"] = str(Path(place) / "runs")
        with running(Path(place)) as server:
            process, draw = psutil.Process(server.process.pid), Random(seed)
            visitor = Visitor(server.url, {"family": "tiny"})
            visitor.run()
            start = time.monotonic()
            for number in range(merges):
                broken += _merge(visitor, server.url, number, draw)
                if number % max(1, merges // PROBES) == 0:
                    memory.append(process.memory_info().rss)
                    files.append(process.num_fds())
                    threads.append(process.num_threads())
            seconds = time.monotonic() - start
            recorded = sum(record.state == "finished" for record in store.list_runs())
            log = server.log.read_text(errors="replace")
            visitor.close()
    for words in broken[:20]:
        print(f"merges: {words}", file=sys.stderr, flush=True)
    yield _row(merges, seconds, recorded, broken, log, (memory, files, threads))


def _merge(visitor: Visitor, url: str, number: int, draw: Random) -> list[str]:
    """One merge at a setting of its own, to its end; what broke."""
    keep = round(draw.uniform(0.1, 0.9), 4)
    if number % LAUNCHED == 0:
        before = len(store.list_runs())
        visitor.launch(keep=keep, variation=0.05)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            runs = store.list_runs()
            if len(runs) > before and runs[0].state == "finished":
                return visitor.exceptions
            time.sleep(0.05)
        return [f"launch {number} did not end within {PATIENCE:.0f} s"]
    for line in live(url, family="tiny", visitor="day", keep=keep, variation=0.05):
        if "error" in line:
            return [line["error"]]
        if "took" in line:
            return []
    return [f"merge {number} ended without a word"]


def _row(
    merges: int,
    seconds: float,
    recorded: int,
    broken: list[str],
    log: str,
    probes: tuple[list[int], list[int], list[int]],
) -> Row:
    memory, files, threads = probes
    tenth = max(1, len(memory) // 10)
    first, last = (statistics.median(part) for part in (memory[tenth : 2 * tenth], memory[-tenth:]))
    opened = statistics.median(files[-tenth:]) - statistics.median(files[tenth : 2 * tenth])
    launches = len(range(0, merges, LAUNCHED))
    return Row(
        part="merges",
        done=f"merges in one server, each {LAUNCHED}th launched and recorded",
        count=merges,
        must=f"each ends; memory of the last tenth less than {GROWTH:.0%} above the second's, at "
        f"most {MORE_FILES} open files more",
        measured=f"{len(broken)} broke, {log.count('Traceback')} tracebacks; {recorded} of "
        f"{launches} recorded; {first / MIB:.0f} MiB, at the end {last / MIB:.0f} MiB "
        f"({last / first - 1:+.1%}); {opened:+.0f} open files of {files[-1]}; {threads[-1]} "
        f"threads; {seconds / merges:.2f} s each",
        holds=not broken
        and "Traceback" not in log
        and recorded == launches
        and last < (1 + GROWTH) * first
        and opened <= MORE_FILES,
    )
