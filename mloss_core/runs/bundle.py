"""A run as a zip: everything in its folder and its model card, a piece at a time."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator

from .card import model_card
from .record import RunRecord

PIECE = 1 << 20  # bytes read at once: a model may be larger than memory


class _Pipe(io.RawIOBase):
    """A write-only stream that buffers what a zip writes until it is taken."""

    def __init__(self):
        self.held: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.held.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        data = b"".join(self.held)
        self.held.clear()
        return data


def zipped(run: RunRecord) -> Iterator[bytes]:
    """The bytes of the zip; tensors do not shrink, so nothing is compressed.

    Raises:
        BadFile: at once, where the run's card cannot be written.
    """
    return _pieces(run, model_card(run))


def _pieces(run: RunRecord, text: str) -> Iterator[bytes]:
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        archive.writestr(f"{run.id}/README.md", text)
        for path in sorted(run.folder.iterdir()):
            if path.name.startswith(".") or not path.is_file() or path.is_symlink():
                continue
            with (
                path.open("rb") as file,
                archive.open(f"{run.id}/{path.name}", "w", force_zip64=True) as entry,
            ):
                while piece := file.read(PIECE):
                    entry.write(piece)
                    yield pipe.taken()
    yield pipe.taken()
