"""Makes the picture that a family ships (picture.json): what a first visit of Explore sees at once.

    python scripts/first_picture.py assets/zoo/demo

The page's own jobs measure it: the map and the merge of the family's recommended setting, accuracy
after each block, what is left, base, own sources and ensemble, and the coarse grid of k and e. A
test holds that it is what `run` gives.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mloss_core import load
from mloss_core.runs.layout import put
from views.explore import picture, stream
from views.explore.page import frame
from views.explore.shipped import FILE, identity
from views.jobs import kinds, live
from views.state import session


def main() -> None:
    """Reads the argument, measures, writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("family", type=Path, help="a family's folder, found by its name")
    family = load(parser.parse_args().family.name)
    recipe = session.recipe_of(session.usual(family), family)
    jobs = [kinds.references(family), live.ask("build", family, recipe)]
    jobs += [live.details("build", family, recipe), live.grid(family, recipe)]
    known: picture.Picture = {}
    for job in jobs:
        job.over.wait()
        assert job.state == "finished", f"{job.title}: {job.state} {job.error}"
    for job in jobs[1:3]:
        known |= stream.so_far(job, family)
    del known["merged"]["seconds"], known["readouts"]["job"]  # of this machine, and nobody else's
    shipped = {
        "frame": frame(family, session.usual(family)),
        "of": identity(family, recipe),
        "picture": known,
        "grid_of": identity(family, live.grid_of(recipe)),
        "grid": stream.grid_of(jobs[3]),
    }
    put(family.folder / FILE, json.dumps(shipped, separators=(",", ":")) + "\n")
    print(f"{family.folder / FILE}: {(family.folder / FILE).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
