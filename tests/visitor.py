"""A visitor of the app without a browser: opens pages, reads them, presses things."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from mloss_core import MergeRecipe, load
from views.state import session

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def visit(family, monkeypatch) -> Iterator[Callable[..., AppTest]]:
    """Opens a page of a fresh server with a link's parameters.

    Shapes and types are checked in the library's own tests, not here: a third of a page's time.
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    st.cache_resource.clear()
    st.cache_data.clear()
    monkeypatch.chdir(ROOT)

    def open_page(page: str = "sources", link: str = "") -> AppTest:
        test = AppTest.from_file(str(ROOT / "views" / "app" / "shell.py"), default_timeout=120)
        test.query_params["family"] = "tiny"
        for part in filter(None, link.split("&")):
            key, _, value = part.partition("=")
            test.query_params[key] = value
        return go(test, page)

    yield open_page
    for job in list(session.board()._jobs.values()):
        job.cancel()
        job.wait(30)  # a thread that still computes when Python ends takes the process with it


def go(test: AppTest, page: str) -> AppTest:
    """The same visitor on another page."""
    test.switch_page(f"../../pages/{page}.py").run()
    return sound(test)


def sound(test: AppTest) -> AppTest:
    exceptions = [(e.value, e.stack_trace) for e in test.exception]
    assert exceptions == [], exceptions
    return test


def settled(test: AppTest, seconds: float = 60) -> AppTest:
    """The page once all of the server's jobs have ended."""
    end = time.monotonic() + seconds
    while any(job.active for job in session.board()._jobs.values()):
        assert time.monotonic() < end, "the jobs did not end"
        time.sleep(0.05)
    return sound(test.run())


def words(test: AppTest) -> str:
    """Everything that is written on the page."""
    kinds = ("title", "subheader", "markdown", "caption", "info", "warning", "error", "success")
    return "\n".join(str(e.value) for kind in kinds for e in getattr(test, kind))


def button(test: AppTest, label: str):
    return next(b for b in test.button if b.label == label)


def slider(test: AppTest, key: str):
    return next(s for s in test.slider if re.fullmatch(rf"w-{key}(-\d+)?", s.key))


def pills(test: AppTest, label: str):
    return next(g for g in test.button_group if g.label.startswith(label))


def link_of(test: AppTest) -> dict[str, str]:
    """What the address bar holds."""
    return {k: v if isinstance(v, str) else v[-1] for k, v in test.query_params.items()}


def view(test: AppTest) -> dict:
    """What the Explore view draws from."""
    (element,) = test.get("bidi_component")
    return json.loads(element.proto.json)


def choose(test: AppTest, **changes) -> AppTest:
    """A control of the Explore view is let go of at another setting."""
    (element,) = test.get("bidi_component")
    sent = view(test)["setting"] | changes
    return _run(test, element.proto.id, json_value=json.dumps({"setting": sent}))


def press(test: AppTest, name: str) -> AppTest:
    """A button of the Explore view: launch, compare, explain."""
    (element,) = test.get("bidi_component")
    sent = [{"event": name, "value": view(test)["setting"] | {"at": time.time()}}]
    aggregator = f"$$STREAMLIT_INTERNAL_KEY_{element.proto.id}__events"
    return _run(test, aggregator, json_trigger_value=json.dumps(sent))


def _run(test: AppTest, widget: str, **value: str) -> AppTest:
    states = test._tree.get_widget_states()
    states.widgets.add(id=widget, **value)
    return sound(test._run(states))


def session_recipe(test: AppTest) -> MergeRecipe:
    """The recipe that the visitor's choice makes."""
    chosen = test.session_state["chosen"]
    return session.recipe_of(chosen, load(chosen["family"]))


def merged(test: AppTest) -> AppTest:
    """After one merge launched on the Explore page."""
    return settled(press(test, "launch"))


def compared(test: AppTest) -> AppTest:
    """The same with what the merge stands beside open."""
    return press(merged(test), "compare")
