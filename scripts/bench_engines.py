"""Times and weighs one experiment by each engine, a whole process each, cells measured anew.

    python scripts/bench_engines.py [--engines process,one-thread,pool,ray] [--workers 2]

One process computes on all cores, too; `one-thread` is that process on one of them, as a worker of
the pool has on as many cores as workers.

Start-up is the time until the first cell is there, less the cell itself. Memory is the peak of the
unique memory (USS) of the command and its workers together, looked at four times a second; Ray's
own processes are counted with its workers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass

import psutil

COMMAND = (sys.executable, "-m", "mloss_core", "experiment", "keep-and-variation", "--json")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One command: seconds in all and until the first cell, and the peak of memory, in MiB."""

    seconds: float
    start: float
    mib: float
    cells: int


def main() -> None:
    """Prints a line an engine: medians of the repeats, which take turns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", default="process,one-thread,pool,ray")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=2)
    args = parser.parse_args()
    names = args.engines.split(",")
    timings: dict[str, list[Timing]] = {name: [] for name in names}
    for _ in range(args.repeat):
        for name in names:
            timings[name].append(measured(name, args.workers))
    print(f"| engine | seconds | of {names[0]} | start-up, s | memory, MiB | cells |")
    print("|---|---|---|---|---|---|")
    whole = [t.seconds for t in timings[names[0]]]
    for name, own in timings.items():
        ratio = statistics.median(a / t.seconds for a, t in zip(whole, own, strict=True))
        row = [statistics.median(getattr(t, f) for t in own) for f in ("seconds", "start", "mib")]
        print(
            f"| {name} | {row[0]:.1f} | {ratio:.2f} times | {row[1]:.1f} | {row[2]:.0f} | "
            f"{own[0].cells} |"
        )


def measured(engine: str, workers: int) -> Timing:
    """One command on an empty folder of runs; raises RuntimeError if it fails."""
    here = engine in ("process", "one-thread")
    options = [f"--engine={'process' if here else engine}", "--device=cpu"]
    options += [] if here else [f"--workers={workers}"]
    threads = {"OMP_NUM_THREADS": "1"} if engine == "one-thread" else {}
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        process = subprocess.Popen(
            [*COMMAND, *options],
            env=os.environ | threads | {"MLOSS_RUNS": folder},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        peak = [0.0]
        watch = threading.Thread(target=_watch, args=(process, peak))
        watch.start()
        arrived, events = [], []
        for line in process.stdout or ():
            arrived.append(time.perf_counter() - begun)
            events.append(json.loads(line))
        if process.wait():
            raise RuntimeError(process.stderr.read() if process.stderr else "")
        seconds = time.perf_counter() - begun
        watch.join()
    start = arrived[0] - events[0]["seconds"]
    return Timing(seconds=seconds, start=start, mib=peak[0], cells=len(events))


def _watch(process: subprocess.Popen[str], peak: list[float]) -> None:
    """Keeps the largest sum of unique memory over the process and its descendants."""
    while process.poll() is None:
        total = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            whole = psutil.Process(process.pid)
            for one in (whole, *whole.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    total += one.memory_full_info().uss
        peak[0] = max(peak[0], total / 2**20)
        time.sleep(0.25)


if __name__ == "__main__":
    main()
