"""Processes that are killed at any moment: nothing finished is lost, nothing is half, all resumes.

A process that holds the library forks a child for each kill. The child is killed after a random
time, or kills itself (SIGKILL) at a random one of the operation's changes to the file system, so
that the moments between two of them are met as well, however short.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from mloss_core.atomic_files import written
from scripts.torture import operations
from scripts.torture.operations import HELD, OPERATIONS, World
from scripts.torture.report import Row

CHANGES = frozenset(
    ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.utime", "os.chmod")
)
DIE_WITH_PARENT = 1  # of Linux's prctl
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
LATE = 7200  # seconds: what lies aside for so long has no writer any more
LONG = 120.0  # seconds that an operation may take


def forked(work: Callable[[], None], errors: Path | None = None) -> int:
    """The id of a child process that does the work, and ends with 0, or 1 where it raises."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        work()
        status = 0
    except BaseException:
        if errors is not None:
            errors.write_text(traceback.format_exc())
    finally:
        os._exit(status)


def ended(child: int, seconds: float = LONG) -> int | None:
    """The status of a child that has ended by then; None where it has not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.002)
    return None


def stop(child: int) -> None:
    """Kills a child, if it still runs."""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def count_changes(below: Path, limit: int = 0) -> list[int]:
    """From now on counts this process's changes of files below a folder, and kills it before the
    one of that number."""
    counted, start = [0], str(below)

    def look(event: str, arguments: tuple) -> None:
        if event not in CHANGES or not str(arguments[0]).startswith(start):
            return
        if event == "open" and not (arguments[2] or 0) & WRITES:
            return
        counted[0] += 1
        if counted[0] == limit:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)
    return counted


def measured(name: str, world: World) -> tuple[float, int, dict[str, str]]:
    """Seconds and changes of an operation that nobody kills, and what it leaves."""
    told = world.root / "changes"

    def work() -> None:
        world.enter()
        counted = count_changes(world.root)
        OPERATIONS[name](world)
        told.write_text(str(counted[0]))

    start = time.monotonic()
    errors = world.root / "errors"
    child = forked(work, errors)
    status = ended(child)
    if status != 0:
        words = errors.read_text() if errors.exists() else f"status {status}"
        raise SystemExit(f"error: {name} fails where nobody kills it: {words}")
    seconds = time.monotonic() - start
    world.enter()
    return seconds, int(told.read_text()), operations.left(world)


def killed(name: str, world: World, seconds: float, changes: int, draw: Random) -> bool:
    """An operation killed at a random moment; whether it was killed before it was through."""
    by_change = draw.random() < 0.5
    limit = draw.randint(1, max(1, changes)) if by_change else 0

    def work() -> None:
        world.enter()
        if by_change:
            count_changes(world.root, limit)
        OPERATIONS[name](world)

    child = forked(work)
    status = ended(child, LONG if by_change else draw.uniform(0, seconds))
    if status is None:
        stop(child)
        return True
    return os.WIFSIGNALED(status)


def age(world: World) -> None:
    """Makes what lies aside as old as what a killed process left long ago."""
    then = time.time() - LATE
    for path in world.root.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(world.root).parts):
            os.utime(path, (then, then), follow_symlinks=False)


def _again(name: str, world: World) -> None:
    """Does it once more, where it is not done yet, and then whatever else writes to the same place:
    what was left aside must go with that."""
    world.enter()
    OPERATIONS[name](world)
    with written(world.out / "next") as aside:
        aside.touch()
    (world.out / "next").unlink()


def faults(
    name: str, world: World, before: dict[str, str], whole: dict[str, str]
) -> Iterator[tuple[str, str]]:
    """What is wrong after a kill, and after the operation was done once more."""
    world.enter()
    now = operations.left(world)
    may = {key: {values.get(key) for values in (before, whole)} for key in before | whole}
    for key, digest in now.items():
        if digest not in may.get(key, ()):
            yield "half", f"{key} is neither as before nor as it should be"
    gone = {run: f"run {run}" not in now and f"trash {run}" not in now for run in HELD}
    yield from (("lost", f"run {run} is nowhere") for run, is_gone in gone.items() if is_gone)
    age(world)
    errors = world.root / "errors"
    if ended(forked(lambda: _again(name, world), errors)) != 0:
        yield "stuck", f"again: {errors.read_text()[-300:] if errors.exists() else 'did not end'}"
        return
    after = operations.left(world)
    for key in sorted(whole.keys() | after.keys()):
        if after.get(key) != whole.get(key):
            yield "differs", f"{key} is not what it is where nobody kills"
    yield from (("aside", str(p.relative_to(world.root))) for p in operations.hidden(world))


def rows(kills: int, seed: int) -> Iterator[Row]:
    """A row per operation."""
    with tempfile.TemporaryDirectory(prefix="torture-") as place:
        child = forked(lambda: (operations.made(Path(place) / "first"), None)[1])
        if ended(child) != 0:
            raise SystemExit("error: the first world could not be made")
        first = World(Path(place) / "first")
        each = -(-kills // len(OPERATIONS))
        for name in OPERATIONS:
            yield _row(name, first, each, seed)


def _row(name: str, first: World, kills: int, seed: int) -> Row:
    counted: Counter[str] = Counter()
    first.enter()
    before = operations.left(first)
    spare = first.root.parent / "spare"
    seconds, changes, whole = measured(name, first.copied(spare))
    shutil.rmtree(spare)
    for number in range(kills):
        draw = Random(f"{seed} {name} {number}")
        world = first.copied(spare)
        counted["killed"] += killed(name, world, seconds, changes, draw)
        for kind, words in faults(name, world, before, whole):
            counted[kind] += 1
            print(f"{name} {number}: {kind}: {words}", file=sys.stderr, flush=True)
        shutil.rmtree(spare)
    bad = sum(counted[kind] for kind in ("lost", "half", "stuck", "differs", "aside"))
    return Row(
        part="kill",
        done=f"{name}: kill -9, by time or before one of its {changes} changes of files",
        count=kills,
        must="no finished run is lost, no half file, the same bytes once it is done again, nothing "
        "left aside",
        measured=f"{counted['killed']} before the end; {counted['lost']} lost, {counted['half']} "
        f"half, {counted['stuck']} stuck, {counted['differs']} differ, {counted['aside']} left "
        f"aside; {seconds:.1f} s where nobody kills",
        holds=bad == 0 and counted["killed"] > 0,
    )
