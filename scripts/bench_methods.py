"""Times and weighs a merge by every method, each in a process of its own.

    python scripts/bench_methods.py FAMILY [--methods tsv-m,fit] [--images 16] [--steps 2]

Seconds are of the merge alone, with the sources in the page cache; memory is the process's peak of
RssAnon beyond what it held before. TSV-M stands beside the bare SVDs that it cannot do without,
timed in the same process. Training takes --steps steps: its line tells the seconds of one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator

from timing import CPU, timed  # first: it finds mloss_core, which must come before torch

# isort: split
import torch

import mloss_core as core
from mloss_core.hardware.peak import anonymous, watched
from mloss_core.run import Merge
from mloss_core.types import Trained


def main() -> None:
    """Prints a line for each method as it is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family")
    parser.add_argument("--methods", default=",".join(n for n in core.METHODS if n != "ensembling"))
    parser.add_argument("--images", type=int, default=16, help="per source's task")
    parser.add_argument("--steps", type=int, default=2, help="of methods that train")
    parser.add_argument("--alone", action="store_true", help="measure the one method here")
    args = parser.parse_args()
    if args.alone:
        print(json.dumps(alone(args.family, args.methods, args.images, args.steps)))
        return
    print(f"{'method':20} {'seconds':>8} {'RssAnon, MiB':>13}", flush=True)
    for method in args.methods.split(","):
        options = ["--images", str(args.images), "--steps", str(args.steps), "--alone"]
        command = [sys.executable, __file__, args.family, "--methods", method, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            print(f"{method:20} failed: {said[-1]}", flush=True)
            continue
        row = json.loads(done.stdout)
        beside = "".join(f"  {k} {v}" for k, v in row["beside"].items())
        print(f"{method:20} {row['seconds']:8.1f} {row['mib']:13d}{beside}", flush=True)


def alone(name: str, method: str, images: int, steps: int) -> dict:
    """One method's seconds, MiB and what stands beside them."""
    family = core.load(name)
    for source in family.sources:
        _ = family.source(source).sha256  # files in the page cache, hashes known
    row = core.METHODS[method]
    settings = dict(row.defaults) | {"samples": images * len(family.sources)}
    if row.trains:
        settings["steps"] = steps
    recipe = core.MergeRecipe(
        family=name, method=method, sources=family.sources, **{"variation": 0.0, **settings}
    )
    trained: list[float] = []

    def merge() -> None:
        for event in core.run(recipe, family, stages=(Merge(),), device="cpu"):
            if isinstance(event, Trained):
                trained.append(event.seconds)

    held = anonymous()
    with watched(CPU) as peak:
        seconds = timed(merge)
    assert held is not None and peak, "RssAnon is Linux's"
    beside = {}
    if row.trains:
        beside["s a step"] = f"{min(trained):.1f}"
    if method == "tsv-m":
        floor = timed(lambda: bare(family))
        beside |= {"bare SVDs, s": f"{floor:.1f}", "times": f"{seconds / floor:.2f}"}
    return {"seconds": seconds, "mib": round((held + peak[0]) / 2**20), "beside": beside}


def bare(family: core.Family) -> None:
    """An SVD of each source's matrix, and of both stacks of singular vectors."""
    base, q = family.base().load(CPU), len(family.sources)
    for name, matrix in ((n, t) for n, t in base.items() if t.ndim == 2):
        rank = min(matrix.shape) // q
        stacks: list[tuple[torch.Tensor, torch.Tensor]] = []
        for delta in deltas(family, name, matrix):
            u, _, v = torch.linalg.svd(delta, full_matrices=False)
            stacks.append((u[:, :rank], v[:rank]))
        for stack in (torch.cat([u for u, _ in stacks], 1), torch.cat([v for _, v in stacks])):
            torch.linalg.svd(stack, full_matrices=False)


def deltas(family: core.Family, name: str, base: torch.Tensor) -> Iterator[torch.Tensor]:
    """Task vectors of a tensor, one at a time."""
    for source in family.sources:
        yield family.source(source).read([name])[name].float() - base


if __name__ == "__main__":
    main()
