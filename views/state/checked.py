"""A field of a link whose text a function of the app judges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mloss_core.errors import BadValue
from mloss_core.fields import Field


@dataclass(frozen=True, kw_only=True)
class Checked(Field):
    """A text that stays one.

    Args:
        rule: raises ValueError, which says what is allowed, for a text that is not.
    """

    rule: Callable[[str], object]

    def parse(self, text: str) -> str:
        try:
            self.rule(text)
        except ValueError as error:
            raise BadValue(self.name, text, "cannot be used", str(error)) from error
        return text
