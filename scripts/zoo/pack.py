"""Writes the demo family: files aside, settings tuned on validation, everything measured on test, then a rename."""

import json
import shutil
import time
from pathlib import Path

from safetensors.torch import load_file

from . import files, measure
from .card import write_card
from .claims import claims
from .dataset import sheet
from .heads import shipped_tasks
from .model import TEXT
from .profile import profile
from .tunings import own_sources

DESCRIPTION = (
    "A micro CLIP with 12 blocks and eight fine-tunes of it, small enough to merge and measure on a laptop in "
    "seconds. Digits, letters, signs, emoji, photographed surfaces and clothes at 32 x 32 pixels; four more tasks that no "
    "source was fine-tuned on. Made so that its merges lose and gain as those of CLIP do, for learning what merging "
    "does, not for recognising anything in earnest."
)


def pack(work: Path, out: Path) -> None:
    """Write, tune, measure and provenance the family, then move it into place."""
    start = time.time()
    fresh = files.fresh_folder(out)
    tasks = shipped_tasks(work)
    every = [task["name"] for task in tasks]
    names = [task["name"] for task in tasks if task["kind"] == "source"]
    files.write_tasks(work, fresh, tasks, test=500, val=250)
    files.write_calibration(work, fresh, names)
    files.write_towers(work, fresh, own_sources())
    for part in ("heads", "text"):
        shutil.copy(work / f"{part}.safetensors", fresh / f"{part}.safetensors")
    base, heads = files.tower(fresh / "base.safetensors"), load_file(fresh / "heads.safetensors")
    sources = {name: files.tower(fresh / f"sources/{name}.safetensors") for name in names}
    measure.check_finite([base, heads, *sources.values()])
    val = measure.load_pictures(fresh / "tasks", names, "val_")
    chosen = measure.tune(base, list(sources.values()), heads, val)
    kept = json.loads((work / "token_ids.json").read_text())
    files.write_description(
        fresh,
        name="demo",
        title="Demo family: eight micro CLIPs",
        description=DESCRIPTION,
        text_cfg={**TEXT, "vocab_size": len(kept)},
        tasks=files.described(tasks),
        recommended=chosen,
        token_ids=kept,
    )
    test = measure.load_pictures(fresh / "tasks", every, "")
    measured = measure.measure(base, sources, heads, test, chosen)
    sheet(tasks, fresh / "tasks", fresh / "sheet.png")
    measured |= {"recommended": chosen, "profile": profile(fresh)}
    measured["claims"] = claims(measured, names)
    measured["bytes"] = files.size(fresh)
    measured["pack seconds"] = round(time.time() - start)
    (work / "measured.json").write_text(
        json.dumps(measured | {"profile": vars(measured["profile"])}, indent=1, default=_counted)
    )
    write_card(work, fresh / "README.md", tasks, measured)
    for wanted, reached, interval, holds in measured["claims"]:
        print(f"{'holds' if holds else 'FAILS'}: {wanted}: {reached} {interval}", flush=True)
    files.move_into_place(fresh, out)


def _counted(right) -> int:
    """Answers as the number of right ones, for JSON."""
    return int(right.sum())
