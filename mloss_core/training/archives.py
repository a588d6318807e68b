"""Archives of pictures, unpacked aside without trusting anything that they say."""

from __future__ import annotations

import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from ..data.names import is_hidden, visible
from ..errors import BadFile
from ..places import check_plain

MOST_FILES = 20_000
MOST_BYTES = 1 << 31  # unpacked, all together
CHUNK = 1 << 20
REMEDY = "unpack it yourself, and give the folder"
# An IndexError is of a member without a name.
DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError,
    IndexError,
)  # fmt: skip


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The folder of class folders in a .zip, unpacked into a folder that is removed afterwards.

    Raises:
        BadFile: it is no zip, is damaged, too large, encrypted, or holds links or paths out of it.
    """
    with tempfile.TemporaryDirectory(prefix="mloss-") as place:
        try:
            check_plain(path)
            with zipfile.ZipFile(path) as archive:
                _unpack(archive, path, Path(place))
        except DAMAGE as error:
            problem = f"is no .zip that can be read ({error or type(error).__name__})"
            raise BadFile("pictures", path, problem, "make it again, or give a folder") from error
        except OSError as error:
            problem = f"cannot be unpacked ({error})"
            raise BadFile("pictures", path, problem, REMEDY) from error
        yield _classes_below(Path(place))


def _unpack(archive: zipfile.ZipFile, path: Path, place: Path) -> None:
    """Writes what is somebody's data, whatever sizes the archive claims."""
    members = [member for member in archive.infolist() if not member.is_dir()]
    members = [m for m in members if not any(map(is_hidden, PurePosixPath(m.filename).parts))]
    if len(members) > MOST_FILES:
        problem = f"holds {len(members)} files, more than {MOST_FILES}"
        raise BadFile("pictures", path, problem, REMEDY)
    for member in archive.infolist():
        _check(member, path)
    left = MOST_BYTES
    for member in members:
        target = place.joinpath(*PurePosixPath(member.filename).parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with archive.open(member) as packed, target.open("xb") as file:
                while piece := packed.read(CHUNK):
                    left -= len(piece)
                    if left < 0:
                        problem = f"unpacks to more than {MOST_BYTES} bytes"
                        raise BadFile("pictures", path, problem, REMEDY)
                    file.write(piece)
        except FileExistsError as error:
            problem = f"holds {member.filename} twice"
            raise BadFile("pictures", path, problem, REMEDY) from error


def _check(member: zipfile.ZipInfo, path: Path) -> None:
    """Raises BadFile for a member that leads out of the folder, or is no plain file or folder."""
    name = member.filename
    ways = (PurePosixPath(name), PureWindowsPath(name))
    if any(way.is_absolute() or way.drive or ".." in way.parts for way in ways) or "\\" in name:
        problem = f"holds {name}, a path that leads out of it"
        raise BadFile("pictures", path, problem, "do not use it")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        problem = f"holds {name}, a link or another thing that is no file"
        raise BadFile("pictures", path, problem, "pack the pictures themselves")
    if member.flag_bits & 1:
        raise BadFile("pictures", path, f"holds {name}, which is encrypted", REMEDY)


def _classes_below(folder: Path) -> Path:
    """The folder itself, or the only folder in it where that holds folders again."""
    inside = visible(folder)
    while len(inside) == 1 and any(below.is_dir() for below in visible(inside[0])):
        folder, inside = inside[0], visible(inside[0])
    return folder
