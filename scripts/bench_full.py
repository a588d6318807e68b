"""Times and weighs merges of full-size towers against floors of the same run.

    python scripts/bench.py --family synthetic-b32|synthetic-l14 [--plot FILE.html]

Makes the family first, in $MLOSS_MODELS (default ./models), where it is not there: sixteen sources,
5.6 GB (fp32) for b32 and 10 GB (fp16) for l14. Naive TIES: a tensor at a time from mapped files,
torch.kthvalue, whole-size election. Floor of M-TIES: one forward, each source's c_fc product and
one activation pass of it in every block, and TIES. Memory: peak anonymous memory (RssAnon) of a
fresh process a number of sources; Linux only.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from pathlib import Path

from timing import CPU, timed  # first: it finds mloss_core, which must come before torch

# isort: split
import naive
import numpy as np
import plotly.graph_objects as go
import synthetic
import torch
import torch.nn.functional as F

import mloss_core as core
from mloss_core.architecture import c_fc
from mloss_core.data.calibration import batch_of, preprocess
from mloss_core.families.folders import roots
from mloss_core.hardware.peak import anonymous, watched

SOURCES = 16
TIMED, WEIGHED = 8, (4, 8, 16)  # sources
# Images that are timed, and the dtype of the files: L/14 on two cores would take half an hour.
SIZES = {"b32": (128, torch.float32), "l14": (16, torch.float16)}
PICTURES = 128  # while memory is measured
NODE_WISE = (0, 1)  # blocks then: the others would hold as much, one after the other


def report(name: str, plot: Path | None = None) -> None:
    """Makes the family if need be, then prints seconds, ratios and memory."""
    tower = name.removeprefix("synthetic-")
    if tower not in SIZES:
        raise SystemExit(f"error: {name} is not known; choose synthetic-b32 or synthetic-l14")
    images, dtype = SIZES[tower]
    if name not in core.families():
        folder = roots()[-1] / name
        print(f"making {folder}", flush=True)
        synthetic.write(tower, folder, SOURCES, dtype)
    family = core.load(name)
    print(f"{name}: {TIMED} sources, {images} images, {torch.get_num_threads()} threads")
    times(family, images)
    figure = go.Figure()
    for method in ("ties", "m-ties"):
        peaks = [weighed(name, method, sources) for sources in WEIGHED]
        figure.add_scatter(x=WEIGHED, y=peaks, name=method)
        slope = np.polyfit(WEIGHED, peaks, 1)[0]
        shown = ", ".join(f"{mib} MiB at q = {q}" for q, mib in zip(WEIGHED, peaks, strict=True))
        growth = 100 * (peaks[-1] / peaks[0] - 1)
        print(
            f"RssAnon of {method}: {shown}; {slope:+.1f} MiB a source, {growth:+.0f} %", flush=True
        )
    if plot is not None:
        figure.update_xaxes(title="sources", range=[0, SOURCES + 1])
        figure.update_yaxes(title="peak anonymous memory (RssAnon), MiB", rangemode="tozero")
        figure.write_html(plot)


def recipe_of(family: core.Family, method: str, sources: int) -> core.MergeRecipe:
    """That method on the first sources."""
    return core.MergeRecipe(family=family.name, method=method, sources=family.sources[:sources])


def merge(family: core.Family, recipe: core.MergeRecipe, images: int) -> list[np.ndarray]:
    """One whole merge on the first images of the pool; node scores where it has them."""
    pool = core.load_batch(family.calibration_pool, family.model)
    events = core.run(recipe, family, device="cpu", calibration=batch_of(pool.images[:images]))
    return [event.scores.node for event in events if isinstance(event, core.BlockScored)]


def times(family: core.Family, images: int) -> None:
    """Naive TIES, TIES, the floor, M-TIES and its cheaper scores, in turn."""
    for source in family.sources[:TIMED]:
        _ = family.source(source).sha256  # files in the page cache, hashes known
    first = timed(lambda: naive_ties(family))
    ties = timed(lambda: merge(family, recipe_of(family, "ties", TIMED), images))
    print(
        f"naive TIES {first:.1f} s, TIES {ties:.1f} s: {first / ties:.1f} times faster", flush=True
    )
    floor = timed(lambda: products(family, images)) + ties
    recipe = recipe_of(family, "m-ties", TIMED)
    exact: list[np.ndarray] = []
    whole = timed(lambda: exact.extend(merge(family, recipe, images)))
    print(f"floor {floor:.1f} s, M-TIES {whole:.1f} s: {whole / floor:.2f} times", flush=True)
    few = family.model.tokens // 4
    for words, change in (("bf16", {"precision": "bf16"}), (f"{few} tokens", {"tokens": few})):
        cheap: list[np.ndarray] = []
        other = dataclasses.replace(recipe, **change)
        seconds = timed(lambda r=other, into=cheap: into.extend(merge(family, r, images)))
        lowest = min(map(rank_correlation, exact, cheap))
        print(
            f"M-TIES with scores in {words}: {seconds:.1f} s, {whole / seconds:.2f} times faster, "
            f"lowest rank correlation of a block's nodes {lowest:.4f}",
            flush=True,
        )


def rank_correlation(ours: np.ndarray, reference: np.ndarray) -> float:
    """Spearman's, of scores without ties."""
    return float(np.corrcoef(ours.argsort().argsort(), reference.argsort().argsort())[0, 1])


def naive_ties(family: core.Family) -> dict[str, torch.Tensor]:
    """TIES as one would write it first."""
    sources = [family.source(name) for name in family.sources[:TIMED]]
    readers = [lambda name, of=source: of.read([name])[name] for source in sources]
    return naive.ties(family.base().load(CPU), readers)


def products(family: core.Family, images: int) -> None:
    """One forward, and q products and activations a block, on as many tokens."""
    pool = core.load_batch(family.calibration_pool, family.model)
    pixels = preprocess(pool.images[:images], family.model, CPU)
    core.Tower(family.model, family.base().load(CPU)).features(pixels)
    inputs = torch.randn(images * family.model.tokens, family.model.width)
    for block in range(family.model.blocks):
        names = [c_fc(block) + end for end in (".weight", ".bias")]
        for source in family.sources[:TIMED]:
            weight, bias = family.source(source).read(names).values()
            F.silu(F.linear(inputs, weight.float(), bias.float()), inplace=True)


def weighed(family: str, method: str, sources: int) -> int:
    """Peak RssAnon of that merge in a process of its own, in MiB."""
    command = [sys.executable, __file__, family, method, str(sources)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def weigh(family: core.Family, recipe: core.MergeRecipe) -> int:
    """Peak anonymous memory of this process while merging, in MiB."""
    held = anonymous()
    with watched(CPU) as peak:
        merge(family, recipe, PICTURES)
    assert held is not None and peak, "RssAnon is Linux's"
    return round((held + peak[0]) / 2**20)


def main() -> None:
    """Prints one process's peak."""
    parser = argparse.ArgumentParser(description="peak RssAnon of one merge, in MiB")
    parser.add_argument("family")
    parser.add_argument("method", choices=("ties", "m-ties"))
    parser.add_argument("sources", type=int)
    args = parser.parse_args()
    family = core.load(args.family)
    recipe = recipe_of(family, args.method, args.sources)
    print(weigh(family, dataclasses.replace(recipe, blocks=NODE_WISE)))


if __name__ == "__main__":
    main()
