"""What is killed and starved: each operation that writes, what it leaves, and its world on disk."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torchvision
from pytest import MonkeyPatch

from dataset_files import mnist
from mloss_core import MergeRecipe, load, recorded, run
from mloss_core.__main__ import main
from mloss_core.run import launch
from mloss_core.runs import store
from tiny import write_family

SHORT = ("--family=tiny", "--samples=6", "--device=cpu")
COSTS = ("merging, s", "memory, MB")  # columns of a table that a busy machine changes
HELD = ("whole", "doomed")  # finished runs that are there from the beginning


@dataclass(frozen=True)
class World:
    """Folders of families, runs, outputs and a mirror of a data set, all below one."""

    root: Path

    def __post_init__(self) -> None:
        for name in ("models", "runs", "out"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def enter(self) -> None:
        """Makes it the world of this process."""
        os.environ["MLOSS_RUNS"] = str(self.runs)
        os.environ["MLOSS_MODELS"] = str(self.root / "models")
        os.environ.pop("MLOSS_DATASETS", None)

    def copied(self, to: Path, link: bool = True) -> World:
        """The same in another place.

        Args:
            link: whether the families are the same files.
        """
        copy = os.link if link else shutil.copyfile
        for name in ("runs", "out", "mirror"):
            shutil.copytree(self.root / name, to / name)
        for name in ("tiny", "mine"):
            there = to / "models" / name
            shutil.copytree(self.root / "models" / name, there, copy_function=copy)
        return World(to)


def made(root: Path) -> World:
    """A world with two finished runs, a family, and one whose data set is still to be fetched."""
    world = World(root)
    world.enter()
    write_family(root / "models" / "tiny")
    mine = root / "models" / "mine"
    shutil.copytree(root / "models" / "tiny", mine)
    (mine / "family.json").unlink()
    tasks = '[[tasks]]\nname = "mnist"\ndataset = "MNIST"\n'
    sources = "".join(f'{n} = "sources/{n}.safetensors"\n' for n in ("apples", "bridges"))
    (mine / "family.toml").write_text(f'base = "base.safetensors"\n{tasks}[sources]\n{sources}')
    with MonkeyPatch.context() as patch:
        mnist(root / "plain", patch)
    (root / "mirror").mkdir()
    for path in sorted((root / "plain" / "MNIST" / "raw").iterdir()):
        packed = gzip.compress(path.read_bytes(), mtime=0)
        (root / "mirror" / f"{path.name}.gz").write_bytes(packed)
    for name in HELD:
        list(_merged(name))
    return world


def _merged(name: str, method: str = "m-ties") -> Iterator[object]:
    """A merge as the app launches it, recorded under that id."""
    family = load("tiny")
    recipe = MergeRecipe(family="tiny", method=method, sources=family.sources, samples=6)
    work = run(recipe, family, stages=launch(), tasks=family.tasks, device="cpu")
    return recorded(work, recipe, kind="merge", id=name)


class Refused(Exception):
    """A command that ended with another status than 0; its text is what the command said."""


def command(*arguments: object) -> None:
    """Runs a command in this process; raises Refused where it fails."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        status = main([str(argument) for argument in (*arguments, "--json")])
    if status:
        lines = [text for text in said.getvalue().splitlines() if text.startswith("error: ")]
        raise Refused(lines[0] if len(lines) == 1 else said.getvalue())


# --- operations -----------------------------------------------------------------------------------


def merge(world: World) -> None:
    if not (world.out / "m.safetensors").exists():
        command("merge", *SHORT, f"--out={world.out / 'm.safetensors'}")


def score(world: World) -> None:
    if not (world.out / "s.safetensors").exists():
        command("score", *SHORT, f"--out={world.out / 's.safetensors'}")


def launched(world: World) -> None:
    if "launched" not in finished(world):
        list(_merged("launched"))


def experiment(world: World) -> None:
    if not (world.out / "table.md").exists():
        command("experiment", "few-blocks", *SHORT, f"--out={world.out / 'table.md'}")


def fetch(world: World) -> None:
    sets = torchvision.datasets
    mirror = world.root / "mirror"
    packed = sorted(mirror.iterdir())
    resources = [(p.name, hashlib.md5(p.read_bytes()).hexdigest()) for p in packed]
    with MonkeyPatch.context() as patch:
        patch.setattr(sets.MNIST, "mirrors", [f"{mirror}/"])
        patch.setattr(sets.MNIST, "resources", resources)
        patch.setattr(sets.utils, "_get_redirect_url", lambda url, **_: url)
        patch.setattr(sets.utils, "_urlretrieve", shutil.copyfile)
        command("fetch", "mine")


def delete(world: World) -> None:
    if "doomed" in finished(world):
        store.delete("doomed")


def rename(world: World) -> None:
    store.rename("whole", "A new name")


def export(world: World) -> None:
    if not (world.out / "exported").exists():
        command("export", "whole", f"--out={world.out / 'exported'}")


OPERATIONS: dict[str, Callable[[World], None]] = {
    "merge": merge, "launched merge": launched, "score": score, "experiment": experiment,
    "fetch": fetch, "delete": delete, "rename": rename, "export": export,
}  # fmt: skip


# --- what they leave ------------------------------------------------------------------------------


def finished(world: World) -> dict[str, str]:
    """Finished runs by id, cells too, as a hash of what they measured and merged."""
    runs = (r for r in store.list_runs(store.KINDS) if r.state == "finished")
    return {record.id: _of_run(record.folder) for record in runs}


def _of_run(folder: Path) -> str:
    """Hash of a run's results; the time and the seconds of a run are its own."""
    digest = hashlib.sha256()
    for name in ("model.safetensors", "scores.safetensors", "hits.npz", "title.txt"):
        if (folder / name).exists():
            digest.update(name.encode() + (folder / name).read_bytes())
    record = json.loads((folder / "record.json").read_text())
    told = json.dumps({key: record[key] for key in ("metadata", "accuracies")}, sort_keys=True)
    return hashlib.sha256(digest.digest() + told.encode()).hexdigest()[:16]


def left(world: World) -> dict[str, str]:
    """Everything by its name, as a hash; hidden names are nobody's."""
    things = {f"run {name}": digest for name, digest in finished(world).items()}
    trash = world.runs / ".trash"
    if trash.is_dir():
        things |= {f"trash {p.name}": _of_run(p) for p in sorted(trash.iterdir())}
    for place in (world.out, world.root / "models" / "mine" / "datasets"):
        for path in sorted(place.rglob("*")) if place.is_dir() else ():
            name = path.relative_to(world.root)
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                things[str(name)] = hashlib.sha256(_bytes(path)).hexdigest()[:16]
    for path in sorted(world.runs.glob("*.npz")):
        things[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return things


def _bytes(path: Path) -> bytes:
    """A file's bytes, of tables without the columns of what a cell happened to cost."""
    if path.suffix != ".md":
        return path.read_bytes()
    rows: list[list[str]] = []
    width, kept = 0, list[int]()
    for text in path.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip(" -") for cell in text.split("|")]
        if len(cells) != width:  # the heads of a table
            width, kept = len(cells), [at for at, head in enumerate(cells) if head not in COSTS]
        rows.append([cells[at] for at in kept])
    return json.dumps(rows).encode()


def hidden(world: World) -> list[Path]:
    """What lies aside, but the trash and runs that were interrupted, which are listed as such."""
    listed = {record.folder for record in store.list_runs(store.KINDS)}
    asides = (p for p in world.root.rglob(".*") if p.name != ".trash" and p not in listed)
    return sorted(p for p in asides if not any(up in listed for up in p.parents))
