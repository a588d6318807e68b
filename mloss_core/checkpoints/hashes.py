"""SHA-256 of files, each computed once; may begin before anybody asks. Loads no torch."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Iterable
from concurrent.futures import Future

from .files import FileId

_begun: dict[FileId, Future[str]] = {}


@functools.lru_cache(maxsize=256)
def sha256(at: FileId) -> str:
    """Hash of a file's bytes, and of the part that is meant where one is; raises OSError."""
    begun = _begun.pop(at, None)
    # What the thread of `begin` has not come to yet is computed here, beside it.
    return _computed(at) if begun is None or begun.cancel() else begun.result()


def begin(files: Iterable[FileId]) -> None:
    """Begins to hash these files, one after the other in a thread of its own; the process may end
    before they are done."""
    begun = {at: Future() for at in files}
    _begun.update(begun)
    threading.Thread(target=_complete, args=(begun,), daemon=True).start()


def _complete(begun: dict[FileId, Future[str]]) -> None:
    for at, future in begun.items():
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(_computed(at))
            except OSError as error:
                future.set_exception(error)


def _computed(at: FileId) -> str:
    with at.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(f"{digest}{at.part}".encode()).hexdigest() if at.part else digest
