"""The picture that a family ships, so that the first visit sees it at once. No torch, no library.

scripts/first_picture.py makes it by the very jobs of the page.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

FILE = "picture.json"


@functools.lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def shipped(folder: Path) -> dict[str, Any] | None:
    """The picture in a family's folder, with the names and settings that it is of; None where
    there is none."""
    path = folder / FILE
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError):
        return None  # it would only be faster: the page measures all of it by itself
