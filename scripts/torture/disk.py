"""Disks that are full, read only, or unable to rename over a file, and clocks that go back.

An operation on such a disk ends in one line or succeeds. Either way no finished run is lost and
nothing is half; on a sound disk it then comes to the same bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import psutil

from scripts.torture import operations
from scripts.torture.kill import LONG, ended, faults, forked, measured, stop
from scripts.torture.operations import OPERATIONS, World
from scripts.torture.report import MIB, Row

CAPABILITIES = 0x20080522  # the version of Linux's capset
SIZE = 64 * MIB  # of a small disk
ROOM = 200_000  # bytes: a merged model of the tiny family fits into it just so
DAY = 24 * 3600.0
FILLER = "filler"


def full(world: World, draw: Random) -> None:
    """Fills the world's disk but for a random rest."""
    free = shutil.disk_usage(world.root).free - draw.randint(0, ROOM)
    with (world.root / FILLER).open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free))


def limited(world: World, draw: Random) -> None:
    """Lets no file grow beyond a random size, as quotas do."""
    limit = draw.randint(1, ROOM)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def read_only(world: World, draw: Random) -> None:
    """Takes this process's right to write into one of the folders, or into all."""
    places = (world.out, world.runs, world.root / "models" / "mine")
    for place in draw.sample(places, draw.randint(1, 3)):
        for path in (place, *(p for p in place.rglob("*") if p.is_dir())):
            path.chmod(0o555)
    # Root may write anywhere by its capabilities; without them it is an owner like others.
    header, none = (ctypes.c_uint32 * 2)(CAPABILITIES, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None).capset(header, none):
        raise OSError("the right to write anywhere cannot be given up")


def clock_back(world: World, draw: Random) -> None:
    """From now on the time is a day or more earlier; boots and processes began earlier, too."""
    from mloss_core.runs import write

    back, then = DAY * draw.uniform(1, 400), write._now
    write._now = lambda: then() - datetime.timedelta(seconds=back)
    real, started = time.time, psutil.Process.create_time
    time.time = lambda: real() - back
    psutil.Process.create_time = lambda process: started(process) - back


def no_rename_over(world: World, draw: Random) -> None:
    """Renames refuse a target that exists, and there are no hard links, as on some shares."""

    def refusing(rename: Callable[..., None]) -> Callable[..., None]:
        def renamed(source: Any, target: Any, **options: Any) -> None:
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, "File exists", str(target))
            rename(source, target, **options)

        return renamed

    def no_link(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    os.rename, os.replace, os.link = refusing(os.rename), refusing(os.replace), no_link


CONDITIONS: dict[str, Callable[[World, Random], None]] = {
    "a full disk": full, "files of limited size": limited, "read-only folders": read_only,
    "a clock that goes back": clock_back, "no renaming over a file, no hard links": no_rename_over,
}  # fmt: skip


def rows(tries: int, seed: int) -> Iterator[Row]:
    """A row per condition."""
    with tempfile.TemporaryDirectory(prefix="torture-") as place:
        first = World(Path(place) / "first")
        if ended(forked(lambda: (operations.made(first.root), None)[1])) != 0:
            raise SystemExit("error: the first world could not be made")
        first.enter()
        before = operations.left(first)
        whole: dict[str, dict[str, str]] = {}
        for name in OPERATIONS:
            whole[name] = measured(name, first.copied(Path(place) / "spare"))[2]
            shutil.rmtree(Path(place) / "spare")
        for condition in CONDITIONS:
            yield _row(condition, first, before, whole, -(-tries // len(CONDITIONS)), seed)


def _row(
    condition: str,
    first: World,
    before: dict[str, str],
    whole: dict[str, dict[str, str]],
    tries: int,
    seed: int,
) -> Row:
    must = "one line or success; no finished run is lost, no half file, the same bytes afterwards"
    common = {"part": "disk", "done": f"every operation on {condition}", "must": must}
    counted: Counter[str] = Counter()
    with _disk(first.root.parent, condition) as place:
        if place is None:
            return Row(**common, count=0, measured="no small disk may be mounted here", holds=None)
        for number in range(tries):
            name = list(OPERATIONS)[number % len(OPERATIONS)]
            draw = Random(f"{seed} {condition} {number}")
            world = first.copied(place / "world", link=condition != "a full disk")
            counted[_tried(name, world, condition, draw)] += 1
            for kind, words in faults(name, world, before, whole[name]):
                counted[kind] += 1
                print(f"{condition}: {name} {number}: {kind}: {words}", file=sys.stderr, flush=True)
            shutil.rmtree(place / "world")
    bad = sum(counted[kind] for kind in ("traceback", "lost", "half", "stuck", "differs", "aside"))
    return Row(
        **common, count=tries,
        measured=f"{counted['done']} done, {counted['refused']} refused in one line, "
        f"{counted['traceback']} tracebacks; {counted['lost']} lost, {counted['half']} half, "
        f"{counted['stuck']} stuck, {counted['differs']} differ, {counted['aside']} left aside",
        holds=bad == 0,
    )  # fmt: skip


@contextlib.contextmanager
def _disk(folder: Path, condition: str) -> Iterator[Path | None]:
    """Where worlds are put: for a full disk a small one of its own, if it may be mounted."""
    if condition != "a full disk":
        (folder / "disk").mkdir(exist_ok=True, mode=0o755)
        yield folder / "disk"
        return
    place = folder / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        yield None
        return
    try:
        yield place
    finally:
        # A child that was stopped may still hold a file there.
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _tried(name: str, world: World, condition: str, draw: Random) -> str:
    """An operation under a condition: "done", "refused" or "traceback"."""
    answer, told = os.pipe()

    def work() -> None:
        os.close(answer)
        world.enter()
        CONDITIONS[condition](world, draw)
        os.write(told, _outcome(name, world).encode()[:4000])

    child = forked(work)
    os.close(told)
    if ended(child, LONG) is None:
        stop(child)
    with open(answer, "rb") as pipe:
        outcome = pipe.read().decode()
    for path in (world.root, *(p for p in world.root.rglob("*") if p.is_dir())):
        path.chmod(0o755)
    (world.root / FILLER).unlink(missing_ok=True)
    kind, _, words = outcome.partition(" ")
    if kind not in ("done", "refused"):
        print(f"{condition}: {name}: {words or 'no answer'}", file=sys.stderr, flush=True)
        return "traceback"
    return kind


def _outcome(name: str, world: World) -> str:
    from mloss_core import MlossError

    try:
        OPERATIONS[name](world)
    except (MlossError, operations.Refused) as error:
        return f"refused {error}" if "\n" not in str(error) else f"traceback {error}"
    except BaseException:
        return f"traceback {traceback.format_exc()[-1500:]}"
    return "done"
