"""The exceptions that the library raises on purpose.

    MlossError                 anything this library has to say; exit status 1
    ├── InputError             something given was wrong; exit status 2
    │   ├── UnknownName        no such family, source, task, method or device
    │   ├── BadValue           a number or a list out of its range
    │   ├── BadTensor          a checkpoint's tensor differs from its family's
    │   └── BadFile            a file that is missing, in the way, or cannot be read
    │       └── LostLink       a link to what is not there
    ├── Incomplete             some tasks failed, all others were evaluated
    ├── WorkerLost             a worker process died again and again
    └── OutOfMemory            the work did not fit; says what would

Each message is one line: the field, the value given, what is wrong, and what to do. The library
calls a field by its plain name ("keep"). The command line says the option instead ("--keep"), the
app its label ("Base keep rate k").
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

LONGEST = 2000  # characters of a message


class MlossError(Exception):
    """Base of all errors raised on purpose; its text is fit to be shown as it is."""

    exit_status = 1

    def __reduce__(self) -> tuple[Any, ...]:
        # From a worker process it comes as it was raised, whatever its class is made from.
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[MlossError], args: tuple[Any, ...], fields: dict[str, Any]) -> MlossError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


class InputError(MlossError):
    """Base of errors in what the user gave: a field, a value or a file.

    Args:
        field: its plain name, e.g. "keep" or "calibration"; or a few words, e.g. "source cats".
        value: the value that was given.
        problem: what is wrong with it.
        remedy: what to do about it.
    """

    exit_status = 2

    def __init__(self, field: str, value: object, problem: str, remedy: str):
        self.field, self.value, self.problem, self.remedy = field, value, problem, remedy
        super().__init__(self.named(field))

    def named(self, name: str) -> str:
        """The message with another name for the field, such as an option of the command line."""
        return _line(f"{name} {shown(self.value)}: {self.problem}; {self.remedy}")

    def labelled(self, label: str) -> str:
        """The message as a sentence under the label of a widget."""
        return _line(f"{label}: {shown(self.value)} {self.problem}; {self.remedy}")


class UnknownName(InputError):
    """A name that is not among those that exist."""

    def __init__(self, field: str, value: object, choices: Iterable[str]):
        super().__init__(field, value, "is not known", f"choose from {', '.join(choices)}")


class BadValue(InputError):
    """A number or a list outside its range."""


class BadTensor(InputError):
    """A checkpoint's tensor that differs from its family's."""


class BadFile(InputError):
    """A file that is missing, in the way, or cannot be read as what it should be."""


class LostLink(BadFile):
    """A link to what is not there."""

    def __init__(self, field: str, link: Path):
        problem = f"is a link to {os.path.realpath(link)}, which is not there or cannot be read"
        remedy = "fetch that again (hf download OWNER/NAME brings a model), or remove the link"
        super().__init__(field, link, problem, remedy)


class Incomplete(MlossError):
    """Raised at the end where some tasks failed, and the others' results have been given.

    Args:
        failed: what is wrong with each of these tasks.
        total: how many tasks there were.
    """

    def __init__(self, failed: Mapping[str, InputError], total: int):
        reasons = ". ".join(f"Task {name}: {error}" for name, error in failed.items())
        super().__init__(f"{len(failed)} of {total} tasks were not evaluated. {reasons}")


class WorkerLost(MlossError):
    """Raised where a worker process died on the same work, again and again."""

    def __init__(self, work: str, times: int):
        super().__init__(
            f"worker: died {times} times measuring {shown(work)}, as when memory runs out; use "
            f"fewer workers, or --engine process"
        )


class OutOfMemory(MlossError):
    """Raised where the work does not fit into memory."""

    def __init__(self, device: str):
        super().__init__(
            f"device {device}: out of memory; use fewer calibration images or sources, or the cpu"
        )


def _line(text: str) -> str:
    """One line of bounded length: what a file or a link holds may have newlines and no end."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 500]} ... {text[-495:]}"


def shown(value: object) -> str:
    """The value as text for an error message: at most 120 characters."""
    text = "(empty)" if str(value) == "" else str(value)
    # Of a long path the end says most.
    return text if len(text) <= 120 else f"{text[:40]}...{text[-77:]}"
