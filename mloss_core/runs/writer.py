"""The process that writes a run: what it says of itself, and whether it still lives."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

BOOT = Path("/proc/sys/kernel/random/boot_id")


def writer() -> dict[str, Any]:
    """This process by its number and its start: by the clock, and since the machine's boot."""
    process = psutil.Process()
    started = process.create_time()
    about: dict[str, Any] = {"pid": process.pid, "started": started}
    if boot := _boot():
        about |= {"boot": boot, "since_boot": started - psutil.boot_time()}
    return about


def lives(about: Mapping[str, Any]) -> bool:
    """Whether the process that said so still lives; another may have its number since."""
    try:
        started = psutil.Process(int(about["pid"])).create_time()
    except (psutil.Error, OverflowError, ValueError):
        return False
    # A clock that is set moves the start, but not that since the boot (told in whole seconds).
    if "boot" in about:
        since = started - psutil.boot_time()
        return about["boot"] == _boot() and abs(since - about["since_boot"]) < 1.5
    return abs(started - about["started"]) < 2  # clocks are set by up to a second


def _boot() -> str:
    """The name of the machine's boot; empty where the system has none."""
    with suppress(OSError):
        return BOOT.read_text(encoding="ascii").strip()
    return ""
