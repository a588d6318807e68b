"""Warnings about files: copies of the base or of each other, several models, what is left out."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence

import torch

from ..checkpoints import read as formats
from ..errors import InputError
from .family import Family

Files = tuple[formats.FileId, ...]


def doubts(family: Family, sources: Sequence[str]) -> list[str]:
    """Warnings: what is to be said of each file, and sources that equal the base or an earlier one.

    What cannot be read is left to whoever reads it next.
    """
    said: list[str] = []
    earlier: dict[str, Files] = {}
    parts, base = family.parts, ()
    with contextlib.suppress(InputError), formats.as_bad_file("base", family.folder):
        base = formats.file_ids(parts.base, part=parts.part("base")) if parts.base else ()
        said += [f"the base {words}" for words in formats.contents(base).said] if base else []
    for name in (name for name in sources if name in parts.sources):
        with contextlib.suppress(InputError), formats.as_bad_file(name, family.folder):
            files = formats.file_ids(parts.sources[name], base, parts.part(name))
            said += [f"source {name} {words}" for words in formats.contents(files).said]
            if base and _equal(files, base):
                said.append(
                    f"source {name} equals the base in every tensor: it was not fine-tuned, and "
                    "only pulls the merge back to the base; is it the right file?"
                )
            elif twin := next((other for other in earlier if _equal(files, earlier[other])), None):
                said.append(
                    f"sources {twin} and {name} are equal in every tensor: one model counts "
                    "twice; leave one out, or check the files"
                )
            earlier[name] = files
    return said


@functools.lru_cache(maxsize=256)
def _equal(first: Files, second: Files) -> bool:
    """Whether two checkpoints hold the same values; small tensors are compared first."""
    ours, other = formats.contents(first).tensors, formats.contents(second).tensors
    names = sorted(ours, key=lambda name: math.prod(ours[name].shape))
    return ours.keys() == other.keys() and all(
        torch.equal(ours[name].fetch().float(), other[name].fetch().float()) for name in names
    )
