"""Out-of-memory errors of torch and NumPy, as ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..errors import OutOfMemory


@contextlib.contextmanager
def reported_memory(name: str = "auto") -> Iterator[None]:
    """Translates the out-of-memory errors of torch and NumPy into OutOfMemory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        import torch  # loaded by whatever ran out; nobody else waits for it

        words = ("out of memory", "allocate memory")
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
            word in str(error) for word in words
        ):
            raise OutOfMemory(name) from error
        raise
