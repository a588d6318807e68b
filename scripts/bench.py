"""Times the library and the app against floors that are timed in the same run.

    python scripts/bench.py [--family demo] [--repeat 5] [--json] [--app]
    python scripts/bench.py --family synthetic-b32|synthetic-l14   (bench_full.py says what that is)

Each repeat times the floor and then the work, so that a noisy machine hits both; the table shows
median and least of the repeats. On the CPU, after one untimed warm-up. --app also times the app in
Debian's chromium, with a fresh server each repeat. docs/performance.md says what each line means.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from timing import CPU, ROOT, timed  # first: it finds mloss_core, which must come before torch

# isort: split
import bench_app
import bench_full
import numpy as np
import torch
import torch.nn.functional as F

import mloss_core as core
from mloss_core.architecture import c_fc
from mloss_core.data.calibration import preprocess
from mloss_core.data.tasks import read_npz
from mloss_core.recipe import calibration_of
from mloss_core.run import references

RATIO, QUICK = 2.0, 1.5  # limits: times the floor, and seconds
WHOLE = {"cold": 30.0, "warm": 8.0}  # seconds
ENDS = (".weight", ".bias")


@dataclass
class Line:
    """One line of the table.

    Args:
        limit: on the ratio to the floor where there is one, else on the seconds.
        floor: seconds of the floor in the same repeats; empty where there is none.
    """

    what: str
    limit: float | None = None
    seconds: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float | None:
        """Median of the repeats' ratios, each to the floor of the same repeat."""
        pairs = zip(self.seconds, self.floor, strict=True)
        return statistics.median(s / f for s, f in pairs) if self.floor else None

    @property
    def verdict(self) -> str:
        """Whether the median is within the limit; nothing where there is none."""
        if self.limit is None:
            return ""
        value = statistics.median(self.seconds) if self.ratio is None else self.ratio
        return "within" if value <= self.limit else "MISSED"

    def row(self) -> dict[str, Any]:
        """The line as --json prints it."""
        middle, least = statistics.median(self.seconds), min(self.seconds)
        floor = statistics.median(self.floor) if self.floor else None
        summary = {"median": middle, "min": least, "floor_median": floor, "ratio": self.ratio}
        return asdict(self) | summary | {"verdict": self.verdict}


def main() -> None:
    """Measures, then prints one table or one JSON object."""
    args = arguments()
    if args.family.startswith("synthetic-"):
        bench_full.report(args.family, args.plot)
        return
    try:
        family = core.load(args.family)
        lines = library(family, args.repeat)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        lines += app(family, args.repeat) if args.app else []
    except core.MlossError as error:
        raise SystemExit(f"error: {error}") from error
    peak = peak * (1 if sys.platform == "darwin" else 1024) / 2**20  # bytes there, else KiB
    about = {
        "family": family.name,
        "repeats": args.repeat,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "peak_rss_mib": round(peak),
    }
    if args.json:
        print(json.dumps({**about, "lines": [line.row() for line in lines]}))
    else:
        print("  ".join(f"{key} {value}" for key, value in about.items()), end="\n\n")
        show(lines)


def arguments() -> argparse.Namespace:
    """The command line's arguments."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--family", default="demo", help="name of the family (demo)")
    parser.add_argument("--repeat", type=int, default=5, help="repeats of every figure (5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--app", action="store_true", help="time the app in chromium too")
    plot = "write RssAnon against the sources as a chart (synthetic families)"
    parser.add_argument("--plot", type=Path, metavar="FILE.html", help=plot)
    args = parser.parse_args()
    if args.repeat < 1:
        parser.error("--repeat is below 1")
    if args.app and not Path(bench_app.BROWSER).is_file():
        parser.error(f"--app needs {bench_app.BROWSER}: apt-get install chromium")
    return args


def library(family: core.Family, repeat: int) -> list[Line]:
    """Floor, M-Loss, merges and readouts, interleaved."""
    recipe = recipe_of(family)
    ties = replace(recipe, method="ties")
    floor, warm = floor_of(family, recipe), warmed(family)
    note = f"{recipe.samples} images, {len(recipe.sources)} sources"
    scored = Line(f"M-Loss of all blocks ({note})", RATIO)
    merged = Line(f"M-TIES merge ({note})", RATIO)
    plain = Line("TIES merge")
    readouts = [
        Line(f"merge's end to the {end}, {start} start", seconds)
        for start in WHOLE
        for end, seconds in (
            ("readouts on 100 images per task", QUICK),
            ("full table", WHOLE[start]),
        )
    ]
    list(core.run(recipe, family, device="cpu"))  # files into the page cache, hashes known
    floor()
    for _ in range(repeat):
        base = timed(floor)
        scored.floor.append(base)
        merged.floor.append(base)
        scored.seconds.append(timed(lambda: scores(recipe, family)))
        merged.seconds.append(timed(lambda: list(core.run(recipe, family, device="cpu"))))
        plain.seconds.append(timed(lambda: list(core.run(ties, family, device="cpu"))))
        # Each run gets its own copy: what one evaluated must not be cached for the next.
        cold, cached = core.Evaluator(family, CPU), copy.deepcopy(warm)
        durations = waits(recipe, family, cold) + waits(recipe, family, cached)
        for line, seconds in zip(readouts, durations, strict=True):
            line.seconds.append(seconds)
    return [scored, merged, plain, *readouts]


def recipe_of(family: core.Family) -> core.MergeRecipe:
    """M-TIES of all sources as the family recommends it, with 128 images or all that there are."""
    pool = read_npz(family.calibration_pool, "calibration pool", ("tasks",))["tasks"]
    return core.MergeRecipe(
        family=family.name,
        method="m-ties",
        sources=family.sources,
        samples=min(128, int(np.isin(pool, family.sources).sum())),
        **family.recommended("m-ties"),
    )


def scores(recipe: core.MergeRecipe, family: core.Family) -> list[core.BlockScored]:
    """M-Loss of every block, as `score` and the heatmap compute it."""
    events = core.run(recipe, family, device="cpu")
    return [event for event in events if isinstance(event, core.BlockScored)]


def floor_of(family: core.Family, recipe: core.MergeRecipe) -> Callable[[], None]:
    """One forward of the calibration images, and each source's bare c_fc product a block."""
    batch = calibration_of(recipe, family)
    assert batch is not None, "M-TIES reads images"
    images = preprocess(batch.images, family.model, CPU)
    tower = core.Tower(family.model, family.base().load(CPU))
    inputs = torch.randn(len(images) * family.model.tokens, family.model.width)
    layers = []
    for source in map(family.source, recipe.sources):
        names = [c_fc(block) + end for block in range(family.model.blocks) for end in ENDS]
        tensors = [tensor.float() for tensor in source.read(names).values()]
        layers += zip(tensors[::2], tensors[1::2], strict=True)

    def floor() -> None:
        tower.features(images)
        for weight, bias in layers:
            F.linear(inputs, weight, bias)

    return floor


def warmed(family: core.Family) -> core.Evaluator:
    """An evaluator that knows base, own sources, TIES as recommended and ensemble, as the app's
    has a minute after its start."""
    evaluator = core.Evaluator(family, CPU)
    options = {"evaluator": evaluator, "tasks": family.sources}
    list(core.run(recipe_of(family), family, stages=references(), **options))
    return evaluator


def waits(
    recipe: core.MergeRecipe, family: core.Family, evaluator: core.Evaluator
) -> tuple[float, float]:
    """Seconds from the last merged block to the last quick readout, and to the full table."""
    end, quick = 0.0, []
    tasks = family.sources
    for event in core.run(recipe, family, device="cpu", evaluator=evaluator, tasks=tasks):
        if isinstance(event, core.BlockMerged):
            end = time.perf_counter()
        elif isinstance(event, core.TaskEvaluated) and event.block is None:
            quick += [time.perf_counter()] * (event.model == "merged")
    # The first evaluations of the whole merged model are those on few images, one a task.
    return quick[len(tasks) - 1] - end, time.perf_counter() - end


def app(family: core.Family, repeat: int) -> list[Line]:
    """Waits of somebody who starts the app, opens the heatmap, and asks for another."""
    narrow = family.model.width <= 256  # the page of a wider family waits for a click
    waits = bench_app.measure(ROOT, family.name, narrow, repeat)
    return [Line(*bench_app.WAITS[key], seconds) for key, seconds in waits.items()]


def show(lines: Sequence[Line]) -> None:
    """Prints the table: seconds, and ratios where there is a floor."""
    rows = [("what", "median", "min", "floor", "ratio", "limit", "verdict")]
    for line in lines:
        row = line.row()
        seconds = (f"{row['median']:.3f} s", f"{row['min']:.3f} s")
        limit = "" if line.limit is None else f"{line.limit:g} {'x' if line.floor else 's'}"
        ratio = "" if line.ratio is None else f"{line.ratio:.2f} x"
        floor = "" if not line.floor else f"{row['floor_median']:.3f} s"
        rows.append((line.what, *seconds, floor, ratio, limit, line.verdict))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)]
        print("  ".join((*cells, row[-1])).rstrip())


if __name__ == "__main__":
    main()
