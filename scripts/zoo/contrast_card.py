"""Writes the contrast family's card: what it teaches, with what was measured of it."""

import json
from pathlib import Path

from . import pretrain, tunings
from .contrast_measure import SAMPLES, Contrast, Pair

OTHER = "letters_other"
SHOWN = ("letters_other", "letters_slow")  # the pair that the card is about


def _own_table(measured: Contrast) -> list[str]:
    lines = ["| model | task | correct of | % | 95 % interval |", "|---|---|---|---|---|"]
    owners = {name: name.split("_")[0] for name in measured.own}
    rows = [("base", task, accuracy) for task, accuracy in measured.base.items()]
    rows += [(name, owners[name], accuracy) for name, accuracy in measured.own.items()]
    for name, task, accuracy in rows:
        low, high = accuracy.interval()
        cells = f"{accuracy.correct} of {accuracy.total} | {accuracy.rate:.1%} | {low:.1%} to {high:.1%}"
        lines.append(f"| {name} | {task} | {cells} |")
    return lines


def _pair_table(pairs: list[Pair]) -> list[str]:
    """All pairs, the smallest M-Loss first."""
    lines = [
        "| pair | base | total M-Loss | 95 % interval | own, average | merged, average | 95 % interval |",
        "|---|---|---|---|---|---|---|",
    ]
    for pair in sorted(pairs, key=lambda pair: pair.loss[0]):
        base = "**two**" if OTHER in pair.members else "one"
        loss, low, high = pair.loss
        merged, least, most = pair.merged
        names = " + ".join(pair.members)
        cells = f"{base} | {loss:.3g} | {low:.3g} to {high:.3g} | {pair.own:.1%} | {merged:.1%}"
        lines.append(f"| {names} | {cells} | {least:.1%} to {most:.1%} |")
    return lines


def _lesson(measured: Contrast) -> str:
    """The incompatible pair in a few sentences."""
    pair = next(p for p in measured.pairs if set(p.members) == set(SHOWN))
    same = [p for p in measured.pairs if OTHER not in p.members]
    worst = max(same, key=lambda p: p.loss[0])
    first, second = (f"{measured.own[name].rate:.1%}" for name in SHOWN)
    return (
        f"{SHOWN[0]} reads {first} of the letters and {SHOWN[1]} {second}; their simple average reads "
        f"**{pair.merged[0]:.1%}**. Their total M-Loss, known before merging, is **{pair.loss[0]:.3g}**; the largest of "
        f"a pair from one base ({' + '.join(worst.members)}) is {worst.loss[0]:.3g}, the smallest "
        f"{min(p.loss[0] for p in same):.3g}."
    )


def _making(work: Path, seconds: int) -> str:
    rounds = json.loads((work / f"{tunings.OTHER}.json").read_text())
    steps, took = sum(r["steps"] for r in rounds), sum(r["seconds"] for r in rounds)
    return f"""
`python scripts/build_zoo.py all` makes it together with the demo family, whose base, heads, pictures and recipe it
shares; its test and validation pictures are the first ones of the demo family's.

- `*_slow` and `*_fast`: the demo family's fine-tuning at {tunings.SLOW:g} and {tunings.FAST:g} of its rate
  ({tunings.RATE:g}), everything else the same, seed {tunings.SEED} too.
- `letters_other`: from a base of its own, pretrained from seed {tunings.OTHER_SEED} for {steps} steps of
  {pretrain.BATCH} pictures ({took / 60:.0f} min, the last of them on letters for the family before this one), then
  {tunings.OTHER_STEPS} steps on letters at {tunings.RATE:g} without a pull. That base is not in the family.
- M-Loss: Eq. 3, sum over the blocks, of {SAMPLES} calibration pictures, all models on the base's activations
  (`mloss_core.analysis.compatibility.sets`). Merges: simple averages, on the test pictures of their members' tasks. Measuring took
  {seconds / 60:.0f} min on 2 CPU cores without a GPU.

Rates were set once and not tuned by what came out. As in the demo family, another processor or another version of
PyTorch gives slightly different weights."""


def write_contrast_card(work: Path, file: Path, measured: Contrast, seconds: int) -> None:
    """Write the card to `file`."""
    blocks = [
        "# Contrast family: what merges and what does not",
        "Five fine-tunes for teaching: two tasks at two rates from the demo family's base, and one of letters from "
        "another base, which has the same shapes but other features at the same places.",
        "![One picture a class](sheet.png)",
        "## The incompatible pair",
        _lesson(measured),
        "## Measured",
        "On 250 test pictures a task, with 95 % Wilson intervals:",
        "\n".join(_own_table(measured)),
        "Every pair, by total M-Loss (intervals over the calibration pictures; of averages, over test pictures with "
        "the tasks fixed):",
        "\n".join(_pair_table(measured.pairs)),
        "## How it was made",
        _making(work, seconds).strip(),
        "## Licences",
        "Letters are drawn with fonts of Debian's packages, textures are cut from photographs: see the demo family's card for "
        "both.",
    ]
    file.write_text("\n\n".join(blocks) + "\n")
