"""The Lab's drawing pad as a Streamlit component: its files in `browser/`, and what was drawn."""

from __future__ import annotations

import base64
import binascii
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.components.v2 import component

from mloss_core.training.lesson import LEAST
from views.state import session

BROWSER = Path(__file__).with_name("browser")
DRAWN = "lab-drawn"  # in the session: the component's own state goes when another page comes
MOST = 60  # drawings of a class
PICTURE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]{1,100000})")


@functools.cache
def _renderer() -> Callable[..., Any]:
    html, css, js = ((BROWSER / f"pad.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    return component("mloss_pad", html=html, css=css, js=js)


def drawings(names: Sequence[str]) -> list[list[bytes]]:
    """Draws the pad; returns what was drawn of each class, as PNG files."""
    key = session.widget("lab-pad")

    def keep() -> None:
        st.session_state[DRAWN] = st.session_state[key]["drawn"]

    drawn = st.session_state.get(DRAWN, [])
    data = {"names": list(names), "least": LEAST, "most": MOST, "drawn": drawn}
    _renderer()(data=data, key=key, on_drawn_change=keep)
    classes = drawn[: len(names)] if isinstance(drawn, list) else []
    return [_pictures(of) for of in classes] + [[]] * (len(names) - len(classes))


def _pictures(drawn: Any) -> list[bytes]:
    """A class's drawings; what a browser sends that is none is left out."""
    pictures = []
    for url in drawn[:MOST] if isinstance(drawn, list) else []:
        if isinstance(url, str) and (match := PICTURE.fullmatch(url)):
            try:
                pictures.append(base64.b64decode(match[1], validate=True))
            except binascii.Error:
                continue
    return pictures
