"""Readers of torch.save's files: zip archives, with TorchScript's, and the older legacy format."""

from __future__ import annotations

import io
import mmap
import re
import struct
import zipfile
from dataclasses import dataclass
from typing import IO, Any

from .files import FileId, FormatError
from .foreign import foreign_zip
from .lazy_tensor import DTYPES, Stored, from_bytes, itemsize
from .pickle_reader import Storage, Strided, plain

ZIP_MAGIC = b"PK\x03\x04"
PICKLE = re.compile("[^/]+/data[.]pkl")
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
BOMB = 200  # code in TorchScript archives is compressed, by far less than this
LARGEST_PICKLE = 1 << 28
ZIP_DAMAGE = (
    zipfile.BadZipFile, ValueError, LookupError, struct.error, NotImplementedError,
    OverflowError, EOFError,
)  # fmt: skip


@dataclass(frozen=True)
class Archive:
    """The contents of a torch archive.

    Args:
        value: its pickle as data (see pickled).
        starts: the first byte and the number of bytes of each storage, by key.
        scripted: whether it is a TorchScript archive.
    """

    at: FileId
    value: Any
    starts: dict[str, tuple[int, int]]
    scripted: bool

    def stored(self, tensor: Strided) -> Stored:
        """A tensor of the pickle; raises FormatError if its storage is missing or too short."""
        start = self._start(tensor.storage) if 0 not in tensor.size else 0
        return from_bytes(self.at, start, tensor.word, tensor.offset, tensor.size, tensor.stride)

    def _start(self, storage: Storage) -> int:
        if storage.word not in DTYPES:
            return 0  # reading it says so
        width = itemsize(storage.word)
        start, held = self.starts.get(storage.key, (0, -1))
        start, held = start + storage.first * width, held - storage.first * width
        if storage.numel * width > held:
            raise FormatError("holds a tensor whose values are missing or cut off")
        return start


def read_zip(at: FileId) -> Archive:
    """Reads the pickle of a zip archive that torch.save or torch.jit.save wrote.

    Raises:
        FormatError: it is damaged, compressed, a zip bomb, or no archive of torch.
    """
    size = at.size
    try:
        with at.path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()}
            check_unpacked(sum(info.file_size for info in members.values()), at)
            pickles = [name for name in members if PICKLE.fullmatch(name)]
            if len(pickles) != 1:
                raise foreign_zip(members, at)
            root = pickles[0].partition("/")[0] + "/"
            _refuse_big_endian(file, size, members.get(root + "byteorder"))
            start, length = _place(file, size, members[pickles[0]])
            if length > LARGEST_PICKLE:
                raise FormatError(f"holds a pickle of {length} bytes")
            file.seek(start)
            value = plain(io.BytesIO(file.read(length)))  # none of the bytes that follow it
            data = root + "data/"
            starts = {
                name.removeprefix(data): _place(file, size, info)
                for name, info in members.items()
                if name.startswith(data)
            }
            return Archive(at, value, starts, root + "constants.pkl" in members)
    except ZIP_DAMAGE as error:
        raise FormatError(f"cannot be read as a zip archive ({error})") from error


def check_unpacked(unpacked: int, at: FileId) -> None:
    """Raises FormatError for a file that would unpack to far more bytes than it has."""
    if unpacked > BOMB * at.size:
        times = unpacked // max(at.size, 1)
        raise FormatError(f"unpacks to {unpacked} bytes, {times} times its size")


def _refuse_big_endian(file: IO[bytes], size: int, info: zipfile.ZipInfo | None) -> None:
    if info is not None:
        start, _ = _place(file, size, info)
        file.seek(start)
        if file.read(3) == b"big":
            raise FormatError("was written in big-endian order", "save it on a common machine")


def _place(file: IO[bytes], size: int, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Offset and length of a member's bytes, which torch stores uncompressed."""
    if info.compress_type != zipfile.ZIP_STORED:
        remedy = "save it again with torch.save"
        raise FormatError(f"holds {info.filename[:60]!r} compressed", remedy)
    file.seek(info.header_offset)
    header = file.read(30)
    if header[:4] != ZIP_MAGIC:
        raise FormatError("holds a member in no place")
    start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
    if start + info.file_size > size:
        raise FormatError("is cut off")
    return start, info.file_size


def read_legacy(at: FileId) -> Archive:
    """Reads the format before torch 1.6: five pickles, then the storages' values, packed.

    Raises:
        FormatError: it is damaged, or another kind of pickle.
    """
    size = at.size
    with (
        at.path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        if plain(content) != LEGACY_MAGIC:
            raise FormatError("is a pickle, but not one of torch", "save it with torch.save")
        words: dict[str, str] = {}
        _, system, value, keys = (plain(content, words) for _ in range(4))
        if not isinstance(system, dict) or not system.get("little_endian", True):
            raise FormatError("was written in big-endian order", "save it on a common machine")
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise FormatError("lists no storages")
        starts, position = {}, content.tell()
        for key in keys:
            if position + 8 > size:
                raise FormatError("is cut off")
            length = int.from_bytes(content[position : position + 8], "little")
            length *= itemsize(words.get(key, ""))
            if position + 8 + length > size:
                raise FormatError("is cut off")
            starts[key] = (position + 8, length)
            position += 8 + length
    return Archive(at, value, starts, scripted=False)
