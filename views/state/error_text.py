"""Errors of the library as visitors of the app read them."""

from __future__ import annotations

from mloss_core import InputError, MlossError
from mloss_core.fields import FIELDS


def error_text(error: MlossError) -> str:
    """The error's sentence; a field of a recipe goes by the label of its widget."""
    if isinstance(error, InputError) and error.field in FIELDS:
        return error.labelled(FIELDS[error.field].label)
    return str(error)
