"""Hashing of a family's files while the rest of the command line is imported. Loads no torch.

Importing torch takes one core a second or two, and so does hashing the files of eight ViT-B/32.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence

from ..checkpoints import hashes
from ..checkpoints.files import FileId, file_id
from ..checkpoints.folders import weight_files
from ..families.folders import find
from ..families.layouts import layout
from ..fields import FIELDS
from ..places import snapshot
from ..text import normal


def hash_ahead(arguments: Sequence[str]) -> None:
    """Begins to hash the models that --family and --sources name among a command's arguments.

    What is wrong with them is left to the command.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--family", default=FIELDS["family"].default)
    parser.add_argument("--sources", default="all")
    with contextlib.suppress(Exception):  # of files and options of any kind
        options, _ = parser.parse_known_args(arguments)
        hashes.begin(list(_files(options.family, options.sources)))


def _files(family: str, sources: str) -> Iterator[FileId]:
    """The weight files of a family's base and of these sources, as they are now."""
    parts = layout(find(family))
    names = parts.sources if sources == "all" else normal(sources).split(",")
    paths = {"base": parts.base} | {name: parts.sources.get(name) for name in names}
    for name, path in paths.items():
        for file in weight_files(snapshot(path)) if path is not None else ():
            yield file_id(file, parts.part(name))
