"""The exceptions that the library raises on purpose.

    MlossError                 anything this library has to say; exit status 1
    ├── InputError             something given was wrong; exit status 2
    │   ├── UnknownName        no such family, source, task, method or device
    │   ├── BadValue           a number or a list out of its range
    │   ├── BadTensor          a checkpoint's tensor differs from its family's
    │   └── BadFile            a file that is missing, in the way, or cannot be read
    └── OutOfMemory            the work did not fit; says what would

Each message is one line: the argument, the value found, what is wrong, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable


class MlossError(Exception):
    """Base of all errors raised on purpose; its text is fit to be shown as it is."""

    exit_status = 1


class InputError(MlossError):
    """Base of errors in what the user gave: an argument, a value or a file.

    Args:
        argument: what the caller named it, e.g. "--keep" or "calibration".
        value: the value found there.
        problem: what is wrong with it.
        remedy: what to do about it.
    """

    exit_status = 2

    def __init__(self, argument: str, value: object, problem: str, remedy: str):
        self.argument, self.value = argument, value
        # One line whatever the value holds: a file name may contain a newline.
        text = f"{argument} {shown(value)}: {problem}; {remedy}"
        super().__init__(" ".join(text.split()))


class UnknownName(InputError):
    """A name that is not among those that exist."""

    def __init__(self, argument: str, value: object, choices: Iterable[str]):
        super().__init__(argument, value, "is not known", f"choose from {', '.join(choices)}")


class BadValue(InputError):
    """A number or a list outside its range."""


class BadTensor(InputError):
    """A checkpoint's tensor that differs from its family's."""


class BadFile(InputError):
    """A file that is missing, in the way, or cannot be read as what it should be."""


class OutOfMemory(MlossError):
    """Raised where the work does not fit into memory."""

    def __init__(self, device: str):
        super().__init__(
            f"device {device}: out of memory; use fewer --samples or sources, or --device cpu"
        )


def shown(value: object) -> str:
    """The value as text for an error message: at most 120 characters."""
    text = "(empty)" if str(value) == "" else str(value)
    # Of a long path the end says most.
    return text if len(text) <= 120 else f"{text[:40]}...{text[-77:]}"
