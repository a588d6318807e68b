"""Tortures the project on this machine, over loopback only, and prints what it withstood.

    python scripts/torture.py fuzz --cases 100000    # damaged and hostile input
    python scripts/torture.py all                    # every part, in less than an hour on two cores

Prints a Markdown table, as in docs/reliability.md, and exits with 1 if anything that has to hold
did not. The same --seed draws the same cases; times are the machine's.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # tiny tensors: a second thread only waits

from scripts.torture import crowd, disk, fuzz, kill, merges  # noqa: E402
from scripts.torture.report import HEADS, Row, line  # noqa: E402

# Each part: the function that yields its rows, and its counts with what they count.
PARTS: dict[str, tuple[Callable[..., Iterator[Row]], dict[str, tuple[int, str]]]] = {
    "fuzz": (fuzz.rows, {"cases": (100_000, "damaged and hostile inputs")}),
    "kill": (kill.rows, {"kills": (200, "processes killed")}),
    "disk": (disk.rows, {"tries": (200, "operations on disks that fail")}),
    "crowd": (
        crowd.rows,
        {"sessions": (20, "visitors of one server"), "minutes": (5, "that they stay")},
    ),
    "merges": (merges.rows, {"merges": (2000, "merges in one server")}),
}


def main() -> int:
    """Does the part that the command line names, prints its rows as they come, and says if all
    held."""
    arguments = parsed()
    # Whoever stops it stops what it has started, too: worlds, workers and servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    chosen = PARTS if arguments.part == "all" else [arguments.part]
    print(line(HEADS), line("---" for _ in HEADS), sep="\n", flush=True)
    held = True
    for name in chosen:
        rows, counts = PARTS[name]
        options = {count: getattr(arguments, count) for count in counts}
        for row in rows(seed=arguments.seed, **options):
            print(line(row.cells()), flush=True)
            held &= row.holds is not False
    return 0 if held else 1


def parsed() -> argparse.Namespace:
    """The command line: a part, or all, with counts and the seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parts = parser.add_subparsers(dest="part", required=True)
    for name in (*PARTS, "all"):
        of_part = parts.add_parser(name, allow_abbrev=False)
        of_part.add_argument("--seed", type=int, default=0, help="of every draw")
        for each in PARTS if name == "all" else [name]:
            for count, (usual, what) in PARTS[each][1].items():
                words = f"{what} (default {usual})"
                of_part.add_argument(f"--{count}", type=int, default=usual, help=words)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
