"""Streamlit widgets bound to session state: each starts from a field and writes it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from mloss_core.types import CHOICES
from views.state import link, session


def bound(
    key: str,
    widget: Callable[..., Any],
    label: str,
    read: Callable[[str], Any] = str,
    write: Callable[[Any], str] = str,
    **options: Any,
) -> Any:
    """A widget that starts from a field of the choice and writes it back.

    The value goes in as the widget's own default on every run: what is set in session state
    instead can be overtaken by a rerun before the browser has drawn it, and then shows wrong.

    Args:
        read, write: between the field's text and the widget's value.
    """
    value = read(session.chosen(key))
    if widget is st.selectbox:
        options["index"] = list(options["options"]).index(value)
    elif widget is st.segmented_control:
        options["default"] = value
    else:  # a limit may have moved past what was chosen
        options["value"] = min(max(value, options["min_value"]), options["max_value"])
    value = widget(label, key=session.widget(f"w-{key}"), **options)
    session.choose_value(key, write(value))
    return value


def short(value: float) -> str:
    """A number as links hold it."""
    return f"{value:g}"


def worded(
    key: str, widget: Callable[..., Any], label: str, names: dict[str, str], **options: Any
) -> str:
    """A widget for a field of the recipe whose values are words, shown by these names."""
    values = CHOICES[link.WORDS[key]]
    if widget is st.segmented_control:
        options["required"] = True
    return bound(key, widget, label, options=values, format_func=lambda k: names[k], **options)
