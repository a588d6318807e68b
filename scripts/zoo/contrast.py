"""Writes the contrast family: fine-tunes of one base that merge more or less well, and one that cannot."""

import time
from pathlib import Path

from safetensors.torch import load_file, save_file

from . import files
from .contrast_card import write_contrast_card
from .contrast_measure import measure_contrast
from .dataset import sheet
from .heads import shipped_tasks
from .tunings import VARIED, contrast_sources

TEST, VALIDATION = 250, 100
DESCRIPTION = (
    "What training does to merging. Capital letters and textures, each fine-tuned from the demo family's base at a "
    "low rate (slow) and at a high one (fast); and letters_other, fine-tuned from **another base**. To try: on the "
    "Compatibility page, look at M-Loss of every pair before anything is merged. Then merge letters_slow with "
    "letters_other: both read letters well, their merge reads none, and M-Loss said so beforehand. Merge letters_slow "
    "with letters_fast, or letters_slow with textures_slow, and it works."
)


def _sources_of(task: dict) -> list[str]:
    """A task names its sources, for none of them is called like it."""
    return [source.name for source in contrast_sources() if source.task == task["name"]]


def pack_contrast(work: Path, out: Path) -> None:
    """Write, measure and provenance the family, then move it into place."""
    start = time.time()
    fresh = files.fresh_folder(out)
    tasks = [task for task in shipped_tasks(work) if task["name"] in VARIED]
    files.write_tasks(work, fresh, tasks, TEST, VALIDATION)
    files.write_calibration(work, fresh, VARIED)
    files.write_towers(work, fresh, contrast_sources())
    heads = load_file(work / "heads.safetensors")
    save_file({name: heads[name] for name in VARIED}, fresh / "heads.safetensors")
    files.write_description(
        fresh,
        name="contrast",
        title="Contrast family: what merges and what does not",
        description=DESCRIPTION,
        tasks=files.described([task | {"sources": _sources_of(task)} for task in tasks]),
    )
    sheet(tasks, fresh / "tasks", fresh / "sheet.png")
    measured = measure_contrast(fresh)
    write_contrast_card(work, fresh / "README.md", measured, round(time.time() - start))
    files.move_into_place(fresh, out)
