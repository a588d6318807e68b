"""Free memory of the machine, of its control groups and of a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

GROUPS, MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# Files of a control group's limit and use, and how its memory.stat calls files in memory.
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
VERSION_2 = ("memory.max", "memory.current", "")


def free(device: torch.device) -> int:
    """Bytes still free on the device; mps shares the machine's own memory."""
    if device.type == "cuda":
        unused, _ = torch.cuda.mem_get_info(device)
        # What torch holds without using it is taken before anything new is asked for.
        return unused + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(psutil.virtual_memory().available, *control_groups())


def control_groups(groups: Path = GROUPS, mount: Path = MOUNT) -> Iterator[int]:
    """Bytes left in each control group that limits this process.

    Args:
        groups: the kernel's list of them.
        mount: where they are mounted.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            root, words = mount / "memory", VERSION_1
        elif not controllers:
            root, words = mount, VERSION_2
        else:
            continue
        inner = root / path.lstrip("/")
        # A container may see its path from outside, which is not there: its own group is the root.
        for folder in (inner, *(p for p in inner.parents if p.is_relative_to(root))):
            yield from _left(folder, *words)


def _left(folder: Path, limit: str, used: str, prefix: str) -> Iterator[int]:
    """Bytes left in one group, counting its file cache as free."""
    try:
        most, now = (int((folder / name).read_text()) for name in (limit, used))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        files = sum(int(stat[f"{prefix}{kind}_file"]) for kind in ("active", "inactive"))
        yield max(0, most - now + files)
    except (OSError, ValueError, KeyError):  # no such file, or the word "max": no limit
        return
