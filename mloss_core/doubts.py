"""What is possible but nearly always a mistake: said aloud, never refused."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence

import torch

from . import dialects
from .errors import InputError
from .zoo import Family

Files = tuple[dialects.Stamp, ...]


def doubts(family: Family, sources: Sequence[str]) -> list[str]:
    """One line for each source that equals the base, or a source before it, tensor by tensor.

    What cannot be read is left to whoever reads it next.
    """
    said: list[str] = []
    seen: dict[str, Files] = {}
    for name in (name for name in sources if name in family.parts.sources):
        with contextlib.suppress(InputError), dialects.refused(name, family.folder):
            files = dialects.stamps(family.parts.sources[name])
            if family.parts.base and _equal(files, dialects.stamps(family.parts.base)):
                said.append(
                    f"source {name} equals the base in every tensor: it was not fine-tuned, and "
                    "only pulls the merge back to the base; is it the right file?"
                )
            elif twin := next((other for other in seen if _equal(files, seen[other])), None):
                said.append(
                    f"sources {twin} and {name} are equal in every tensor: one model counts "
                    "twice; leave one out, or check the files"
                )
            seen[name] = files
    return said


@functools.lru_cache(maxsize=256)
def _equal(first: Files, second: Files) -> bool:
    """Whether two checkpoints hold the same values; small tensors first, for most differ soon."""
    ours, theirs = dialects.contents(first).tensors, dialects.contents(second).tensors
    names = sorted(ours, key=lambda name: math.prod(ours[name].shape))
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name].fetch().float(), theirs[name].fetch().float()) for name in names
    )
