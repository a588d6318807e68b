"""Times whole processes of the command line, from start to exit, beside the naive merge.

    python scripts/bench_whole.py FAMILY_FOLDER [--repeat 3] [--beside CHECKOUT]

The folder is one that scripts/synthetic.py wrote. Processes take turns, so that other work on the
machine hits all alike. A line has the least seconds on the wall and of processor time (of all
threads). --beside times another checkout of the project, too.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from naive import SOURCES

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Runs every process in turn and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the family's folder")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--beside", type=Path, help="another checkout")
    args = parser.parse_args()
    folder = args.folder.resolve()  # processes have other working folders
    commands = {"naive": (ROOT, [ROOT / "scripts" / "naive.py", folder])}
    for root in filter(None, (args.beside, ROOT)):
        commands[f"{root.name}: --help"] = root, ["-m", "mloss_core", "--help"]
        commands[f"{root.name}: merge"] = root, ["-m", "mloss_core", *merge(folder)]
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(args.repeat):
        for name, (root, words) in commands.items():
            taken[name].append(seconds(root, words, folder))
    naive = min(wall for wall, _ in taken["naive"])
    for name, each in taken.items():
        wall, busy = (min(column) for column in zip(*each, strict=True))
        print(f"{name:24} {wall:6.2f} s  processor {busy:6.2f} s  naive / this {naive / wall:6.2f}")
    print(f"load over the last minute {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


def merge(folder: Path) -> list[str]:
    """The arguments of a merge by TIES of the family's first sources."""
    names = sorted(file.stem for file in (folder / "sources").glob("*.safetensors"))[:SOURCES]
    settings = ["--method", "ties", "--keep", "0.2", "--sources", ",".join(names)]
    return ["merge", "--family", folder.name, *settings, "--out"]


def seconds(root: Path, words: list, folder: Path) -> tuple[float, float]:
    """A process's seconds on the wall, and of the processor."""
    with tempfile.TemporaryDirectory() as place:
        out = [] if words[-1] == "--help" else [Path(place) / "merged.safetensors"]
        environment = os.environ | {"MLOSS_MODELS": str(folder.parent)}
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, *words, *out]
        subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
