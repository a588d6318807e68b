"""Times and weighs merges of full-size towers against floors of the same run.

    python scripts/synthetic.py b32 models/synthetic-b32 --sources 16
    python scripts/bench_full.py --family synthetic-b32 [--images 128] [--sources 8]

Naive TIES: a tensor at a time from mapped files, torch.kthvalue, whole-size election. Floor of
M-TIES: one forward, each source's c_fc product and one activation pass of it in every block, and
TIES. Memory: peak anonymous memory (RssAnon) of a fresh process a number of sources; Linux only.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import threading
from pathlib import Path

from bench import CPU, timed  # first: it finds mloss_core, which must come before torch

# isort: split
import torch
import torch.nn.functional as F

import mloss_core as core
from mloss_core.calibration import batch_of, preprocess
from mloss_core.family import c_fc


def main() -> None:
    """Prints the table, or with --weigh one process's peak."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", required=True)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--sources", type=int, default=8)
    parser.add_argument("--weigh", metavar="METHOD", help="print the peak RssAnon of one merge")
    args = parser.parse_args()
    family = core.load(args.family)
    if args.weigh:
        print(weigh(family, args.weigh, args.sources, args.images))
        return
    times(family, args.sources, args.images)
    for method in ("ties", "m-ties"):
        for sources in (4, 8, 16):
            if sources <= len(family.sources):
                print(f"RssAnon {method} q={sources}: {weighed(args, method, sources)} MiB")


def batch(family: core.Family, images: int) -> core.CalibrationBatch:
    """The first images of the family's pool."""
    pool = core.load_batch(family.calibration_pool, family.model)
    return batch_of(pool.images[:images])


def merge(family: core.Family, method: str, sources: int, images: int) -> None:
    """One whole merge."""
    recipe = core.MergeRecipe(family=family.name, method=method, sources=family.sources[:sources])
    calibration = batch(family, images)
    for _ in core.run(recipe, family, device="cpu", calibration=calibration):
        pass


def times(family: core.Family, sources: int, images: int) -> None:
    """Naive TIES, TIES, the floor and M-TIES, in turn."""
    for source in family.sources[:sources]:
        _ = family.source(source).sha256  # files in the page cache, hashes known
    naive = timed(lambda: naive_ties(family, sources))
    ties = timed(lambda: merge(family, "ties", sources, images))
    print(
        f"naive TIES {naive:.1f} s, TIES {ties:.1f} s: {naive / ties:.1f} times faster", flush=True
    )
    floor = timed(lambda: products(family, sources, images)) + ties
    whole = timed(lambda: merge(family, "m-ties", sources, images))
    print(
        f"floor {floor:.1f} s, M-TIES {whole:.1f} s: {whole / floor:.2f} times the floor",
        flush=True,
    )


def naive_ties(family: core.Family, sources: int, keep: float = 0.2) -> dict[str, torch.Tensor]:
    """TIES as one would write it first."""
    base = family.base().load(CPU)
    merged = {}
    for name, ours in base.items():
        vectors = []
        for source in family.sources[:sources]:
            t = family.source(source).read([name])[name].float() - ours
            flat = t.abs().flatten()
            limit = flat.kthvalue(flat.numel() - max(1, int(keep * flat.numel())) + 1).values
            vectors.append(torch.where(t.abs() >= limit, t, 0.0))
        stacked = torch.stack(vectors)
        sign = torch.where(stacked.sum(0) >= 0, 1.0, -1.0)
        agree = stacked * sign > 0
        merged[name] = ours + (stacked * agree).sum(0) / agree.sum(0).clamp(min=1)
    return merged


def products(family: core.Family, sources: int, images: int) -> None:
    """One forward, and q products and activations a block, on as many tokens."""
    pixels = preprocess(batch(family, images).images, family.model, CPU)
    core.Tower(family.model, family.base().load(CPU)).features(pixels)
    inputs = torch.randn(images * family.model.tokens, family.model.width)
    for block in range(family.model.blocks):
        names = [c_fc(block) + end for end in (".weight", ".bias")]
        for source in family.sources[:sources]:
            weight, bias = family.source(source).read(names).values()
            F.silu(F.linear(inputs, weight.float(), bias.float()), inplace=True)


def weighed(args: argparse.Namespace, method: str, sources: int) -> str:
    """Peak RssAnon of that merge in a process of its own, in MiB."""
    command = [sys.executable, __file__, f"--family={args.family}", f"--images={args.images}"]
    command += [f"--sources={sources}", f"--weigh={method}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def weigh(family: core.Family, method: str, sources: int, images: int) -> int:
    """Peak anonymous memory while merging, looked at every 10 ms, in MiB."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            status = Path("/proc/self/status").read_text()
            found = re.search(r"RssAnon:\s+(\d+)", status)
            peak[0] = max(peak[0], int(found.group(1)) if found else 0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        merge(family, method, sources, images)
    finally:
        done.set()
        watcher.join()
    return round(peak[0] / 1024)


if __name__ == "__main__":
    main()
