"""The Explore view as a Streamlit component: its files in `browser/`, and how it is mounted."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamlit.components.v2 import component

BROWSER = Path(__file__).with_name("browser")
SCRIPTS = (
    "values",
    "grid",
    "map",
    "readouts",
    "card",
    "view",
)  # one module: each uses those before


@functools.cache
def _renderer() -> Callable[..., Any]:
    js = "\n".join((BROWSER / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    html, css = (
        (BROWSER / f"explore.{kind}").read_text(encoding="utf-8") for kind in ("html", "css")
    )
    return component("mloss_explore", html=html, css=css, js=js)


def mount(data: dict[str, Any], key: str, **callbacks: Callable[[], None]) -> Any:
    """Draws the view.

    Args:
        data: see `views.explore.page.contents`.
        callbacks: `on_setting_change` and the like, by what the view sends.
    """
    return _renderer()(data=data, key=key, **callbacks)
