"""Text of numbers and tables, and the one form of names: three significant digits, Markdown and
plain columns."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence

PLAIN = (1e-3, 1e3)  # magnitudes between these are written without a power of ten
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def normal(name: str) -> str:
    """A name in the one form that names are compared in: the same letters may be spelt in two."""
    return unicodedata.normalize("NFC", name)


def three_digits(value: float) -> str:
    """A number in three digits: 0.0500, or 2.29×10⁻⁵ where plain digits would be too many."""
    return three_digits_alike([value])[0]


def three_digits_alike(values: Iterable[float]) -> list[str]:
    """Numbers that are read together, in one notation: all plain, or all with powers of ten."""
    rounded = [float(f"{value:.2e}") for value in values]
    sizes = [abs(value) for value in rounded if value and math.isfinite(value)]
    plain = all(PLAIN[0] <= size < PLAIN[1] for size in sizes)
    return [_plain(value) if plain else _power(value) for value in rounded]


def _plain(value: float) -> str:
    if not value or not math.isfinite(value):
        return f"{value + 0.0:g}"  # no -0
    return f"{value:.{2 - math.floor(math.log10(abs(value)))}f}"


def _power(value: float) -> str:
    if not value or not math.isfinite(value):
        return _plain(value)
    digits, power = f"{value:.2e}".split("e")
    return f"{digits}×10{str(int(power)).translate(RAISED)}"


def plain_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in columns, two spaces apart."""
    return _table(heads, rows, "plain")


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; special characters in cells are the caller's to escape."""
    return _table(heads, rows, "github")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], style: str) -> str:
    from tabulate import tabulate  # a tenth of a second, and few commands print a table

    return tabulate(rows, heads, tablefmt=style, disable_numparse=True)
