"""Places on disk: the app and its assets, the folders that people name, and where links lead."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
from pathlib import Path

ROOTS = "MLOSS_ROOTS"
REPOSITORY = "models--"  # begins a repository's folder in the cache of Hugging Face
OF_MODELS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".json")


def app_folder() -> Path:
    """The folder that holds app.py, pages, views and assets."""
    beside = Path(__file__).resolve().parents[1]
    installed = beside / "mloss_app"  # pyproject.toml puts them there
    return installed if installed.is_dir() else beside


def assets() -> Path:
    """The folder of the embedded families, the paper's tables and the pictures."""
    return app_folder() / "assets"


def given(path: str | Path) -> Path:
    """A path as people give it, with ~ for their own folder."""
    return Path(os.path.expanduser(path))


def roots() -> tuple[str, ...]:
    """The folders of $MLOSS_ROOTS, which families may lead into."""
    named = os.environ.get(ROOTS, "").split(os.pathsep)
    return tuple(str(given(root.strip())) for root in named if root.strip())


def within(path: Path, folders: tuple[str, ...]) -> bool:
    """Whether a path lies in one of these folders, all links followed."""
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(os.path.realpath(folder)) for folder in folders)


def allowing(path: Path) -> str:
    """The line that allows a path's folder: of a repository in the cache of Hugging Face, the whole
    cache."""
    real = Path(os.path.realpath(path))
    caches = (up.parent for up in (real, *real.parents) if up.name.startswith(REPOSITORY))
    folder = next(caches, real if real.is_dir() else real.parent)
    value = os.pathsep.join((*roots(), str(folder)))
    return f"set {ROOTS}={value}" if os.name == "nt" else f"export {ROOTS}={shlex.quote(value)}"


def snapshot(path: Path) -> Path:
    """The newest snapshot in a repository's folder of the cache of Hugging Face; another path as it
    is.

    It is the one that refs/main names, or else the one that came last.
    """
    place = path / "snapshots"
    if not place.is_dir() or not ((path / "refs").is_dir() or (path / "blobs").is_dir()):
        return path
    there = {folder.name: folder for folder in place.iterdir() if folder.is_dir()}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        check_plain(path / "refs" / "main")
        name = (path / "refs" / "main").read_text(encoding="ascii").strip()
        if name in there:
            return there[name]
    return max(there.values(), key=lambda folder: folder.stat().st_mtime, default=path)


def check_plain(path: Path) -> None:
    """Raises OSError for a pipe, a device or a socket: reading one may wait or go on for ever."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is a pipe, a device or a socket, and no file")


def lost_link(path: Path) -> Path | None:
    """The path, or a model's file in its folder, if that is a link to what is not there."""
    files = [file for file in links_in(path) if file.suffix in OF_MODELS]
    links = (link for link in (path, *files) if os.path.islink(link))
    return next((link for link in links if not os.path.exists(link)), None)


def links_in(path: Path) -> list[Path]:
    """The links that lie in a folder; none of a file."""
    with contextlib.suppress(OSError), os.scandir(path) as inside:
        return sorted(Path(file.path) for file in inside if file.is_symlink())
    return []
