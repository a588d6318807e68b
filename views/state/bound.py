"""Streamlit widgets bound to fields of the link: each starts from its field and writes it back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from views.state import link, session


def bound(
    key: str,
    widget: Callable[..., Any],
    label: str = "",
    names: Mapping[str, str] | None = None,
    **options: Any,
) -> Any:
    """A widget that starts from a field of the choice and writes it back.

    The value goes in as the widget's own default on every run: what is set in session state
    instead can be overtaken by a rerun before the browser has drawn it, and then shows wrong.

    Args:
        key: of the field in a link; label, help and words are the field's own unless given.
        names: what to call the words that the field may be.
        options: of the widget, e.g. the bounds of a slider.
    """
    # Words that only the family knows come with the call.
    field = dataclasses.replace(link.FIELDS[key], choices=names) if names else link.FIELDS[key]
    value = field.parse(session.chosen(key))
    options.setdefault("help", field.help or None)
    if widget in (st.selectbox, st.segmented_control):
        names = field.choices
        options |= {"options": list(names), "format_func": lambda word: names[word]}
        if widget is st.selectbox:
            options["index"] = list(names).index(value)
        else:
            options |= {"default": value, "required": True}
    elif value is None:  # an empty box: as published
        options["value"] = None
    else:  # a limit may have moved past what was chosen
        options["value"] = min(max(value, options["min_value"]), options["max_value"])
    value = widget(label or field.label, key=session.widget(f"w-{key}"), **options)
    # Six digits, as a slider means them: its steps add up to numbers such as 0.15000000000000002.
    rounded = float(f"{value:g}") if isinstance(value, float) else value
    session.choose_value(key, field.format(rounded))
    return value
