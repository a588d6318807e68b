"""Tables as text: in columns for a terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tabulate import tabulate


def plain_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in columns, two spaces apart."""
    return tabulate(rows, heads, tablefmt="plain", disable_numparse=True)


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; special characters in cells are the caller's to escape."""
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)
