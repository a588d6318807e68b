"""Text that people write, TOML and JSON, as their editors leave it.

What can be meant in one way only is read so: UTF-8 with or without a byte order mark, UTF-16,
any ends of lines, accents of one-byte encodings, curly quotes around a value, a Windows path
between double quotes, and numbers such as .5. All else is refused by file, line and column.
"""

from __future__ import annotations

import codecs
import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .errors import BadFile
from .places import check_plain

WESTERN = "latin-1"
# One-byte encodings of languages in Latin letters: a byte is told where all of them agree.
ONE_BYTE = (WESTERN, "cp1252", "iso8859-15", "cp1250", "iso8859-2", "cp1254")
ACCENTS = frozenset(
    byte
    for byte in range(0xC0, 0x100)
    if len({bytes([byte]).decode(encoding) for encoding in ONE_BYTE}) == 1
    and bytes([byte]).decode(WESTERN).isalpha()
)
MOST_BYTES = 1 << 24
LARGEST = 1 << 16  # characters that are mended: nobody writes more by hand, and each mend reads all
MOST_MENDS = 256
CURLY = "“”„‟‘’‚‛"
PAIRS = (
    (re.compile(r'[“”„‟]([^"“”„‟]*)[“”]'), '"'),
    (re.compile(r"[‘’‚‛]([^'‘’‚‛]*)[‘’]"), "'"),
)
BARE_POINT = re.compile(r"[-+]?(?<![0-9])\.(?=[0-9])")  # .5, which is 0.5
POINT, DIGIT = re.compile(r"\.(?![0-9])"), re.compile("[0-9]")  # 5., which is 5.0
BASIC = re.compile(r'"((?:[^"\\]|\\.)*)"')
MEANT = re.compile(r'\\(?:["\\/]|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})')  # escapes, and no path
PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
MEND = "mend it there, or see docs/format.md"
SAVE_AGAIN = "save it with the encoding UTF-8"


class _Place(NamedTuple):
    """A place in a text, counted from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"


class Misread(ValueError):
    """Bytes that can be meant in several ways; the text is the problem, and names the place."""


def read_text(path: Path, parse: Callable[[str], Any]) -> Any:
    """What a file holds, as `parse` (`tomllib.loads` or `json.loads`) reads it.

    Raises:
        BadFile: it cannot be read, or in more than one way.
    """
    try:
        check_plain(path)
        if (size := path.stat().st_size) > MOST_BYTES:
            raise BadFile(path.name, path, f"has {size} bytes, far too many for text", MEND)
        value = _parsed(path, decoded(path.read_bytes()), parse)
        json.dumps(value, ensure_ascii=False, default=str).encode()  # halves of characters cannot
        return value
    except Misread as error:
        raise BadFile(path.name, path, str(error), SAVE_AGAIN) from error
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise BadFile(path.name, path, problem, "check the file") from error
    except RecursionError as error:
        raise BadFile(path.name, path, "cannot be read (nested too deeply)", MEND) from error
    except UnicodeEncodeError as error:
        problem = "cannot be read (half of a character: an escape from \\ud800 to \\udfff)"
        raise BadFile(path.name, path, problem, "write the character itself") from error


def decoded(content: bytes) -> str:
    """The text of a file's bytes, its lines ended by a newline alone; raises Misread."""
    encoding = json.detect_encoding(content)
    told, encoding = encoding != "utf-8", encoding.removesuffix("-sig")
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        strange = error.start if told else _strange(content)
        if strange is not None:
            before = _lines(content[: max(strange, error.start)].decode(encoding, "replace"))
            problem = f"is no {encoding.upper()} text at {_end_of(before)}"
            raise Misread(problem) from error
        text = content.decode(WESTERN)
    return _lines(text)


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _end_of(text: str) -> _Place:
    return _Place(text.count("\n") + 1, len(text.rpartition("\n")[2]) + 1)


def _strange(content: bytes) -> int | None:
    """The first byte beyond ASCII that is no accented letter between plain ones; None if all are.

    Other scripts have several such bytes in a row.
    """
    for run in re.finditer(rb"[\x80-\xff]+", content):
        beside = content[max(0, run.start() - 1) : run.start()] + content[run.end() : run.end() + 1]
        if len(run[0]) > 1 or run[0][0] not in ACCENTS or not re.search(rb"[A-Za-z]", beside):
            return run.start()
    return None


def _parsed(path: Path, text: str, parse: Callable[[str], Any]) -> Any:
    """What a text holds, mended where it can be meant in one way only; raises BadFile."""
    for _ in range(MOST_MENDS):
        try:
            return parse(text)
        except ValueError as error:
            place, words = _told(error, text)
            mended = _mended(text, place) if place and len(text) <= LARGEST else None
            if mended is None:
                raise _refusal(path, text, place, words) from error
            text = mended
    raise BadFile(path.name, path, "has too many curly quotes or backslashes", "write them plain")


def _told(error: ValueError, text: str) -> tuple[_Place | None, str]:
    """Where a parser stopped, and its words."""
    if isinstance(error, json.JSONDecodeError):
        return _Place(error.lineno, error.colno), error.msg
    found = PLACE.search(str(error))
    if not found:
        return None, str(error)
    place = _Place(int(found[1]), int(found[2])) if found[1] else _end_of(text)
    return place, str(error)[: found.start()]


def _mended(text: str, place: _Place) -> str | None:
    """The text with the value at that place as it can only be meant; None where it cannot."""
    rows = text.split("\n")
    row, at = rows[place.line - 1], place.column - 1
    if bare := BARE_POINT.match(row, at) or (DIGIT.match(row, at - 1) and POINT.match(row, at)):
        digits = f"{bare[0]}0" if bare.re is POINT else bare[0].replace(".", "0.")
        rows[place.line - 1] = row[:at] + digits + row[bare.end() :]
        return "\n".join(rows)
    for pair, quote in PAIRS:
        if found := pair.match(row, at):
            rows[place.line - 1] = row[:at] + quote + found[1] + quote + row[found.end() :]
            return "\n".join(rows)
    for found in BASIC.finditer(row):
        if found.start() < at < found.end() and not MEANT.search(found[1]):
            # An escape that there is not: all backslashes of it are those of a Windows path.
            literal = found[1].replace("\\", "\\\\")
            rows[place.line - 1] = row[: found.start(1)] + literal + row[found.end(1) :]
            return "\n".join(rows)
    return None


def _refusal(path: Path, text: str, place: _Place | None, words: str) -> BadFile:
    """The error of a text that no parser reads: its line, column, and what to write instead."""
    row = text.split("\n")[place.line - 1] if place else ""
    where = f" at {place}" if place else ""
    stray = row[place.column - 1 : place.column] if place else ""
    said = words[:1].lower() + words[1:].replace(r"'\n'", "end of line").replace(r"'\'", "\\")
    said = re.sub(r"'\\x(..)'", r"U+00\1", said)
    remedy = MEND
    if set(row) & set(CURLY):
        remedy = "write straight quotes there"
    elif "\\" in row:
        remedy = "write / instead of \\ in a path, or each \\ twice"
    elif stray > "\x7f":
        said = f"{said}: {stray}, {unicodedata.name(stray, 'a character without name').lower()}"
        remedy = "write a plain character there"
    return BadFile(path.name, path, f"cannot be read{where} ({said})", remedy)
