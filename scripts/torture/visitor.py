"""A visitor of a running server without a browser: a WebSocket that speaks Streamlit's messages."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect

STREAM = "/_stcore/stream"
LONGEST = 120.0  # seconds that an answer may take before it is given up


class Visitor:
    """One session: what it chose, what its page shows, and how long each answer took.

    Args:
        url: the server's.
        query: fields of the link that it opens.
    """

    def __init__(self, url: str, query: dict[str, str]):
        self.url, self.query = url, urlencode(query)
        self.component, self.page = "", dict[str, Any]()
        self.seconds: list[float] = []
        self.exceptions: list[str] = []
        self.socket = connect(
            url.replace("http", "ws") + STREAM,
            origin=url,
            subprotocols=["streamlit"],
            max_size=None,
        )

    def close(self) -> None:
        self.socket.close()

    def run(self, *widgets: dict[str, str]) -> None:
        """Runs the page's script, and waits for the whole answer.

        Args:
            widgets: for each widget its id, and the value that it sends by its kind.
        """
        message = BackMsg()
        message.rerun_script.query_string = self.query
        for widget in widgets:
            message.rerun_script.widget_states.widgets.add(**widget)
        start = time.perf_counter()
        self.socket.send(message.SerializeToString())
        while not self._heard(start):
            pass
        self.seconds.append(time.perf_counter() - start)

    def choose(self, **changes: object) -> None:
        """Lets a control of the Explore view go at another setting."""
        setting = self.page["setting"] | changes
        self.run({"id": self.component, "json_value": json.dumps({"setting": setting})})

    def launch(self, **changes: object) -> None:
        """Presses *Launch and keep* at a setting."""
        setting = self.page["setting"] | changes | {"at": time.time()}
        sent = [{"event": "launch", "value": setting}]
        aggregator = f"$$STREAMLIT_INTERNAL_KEY_{self.component}__events"
        # As a browser does, which sends what the component holds with every message.
        held = {"id": self.component, "json_value": json.dumps({"setting": setting})}
        self.run(held, {"id": aggregator, "json_trigger_value": json.dumps(sent)})

    def _heard(self, start: float) -> bool:
        """Takes in one message; whether it was the answer's last."""
        message = ForwardMsg.FromString(self.socket.recv(LONGEST))
        kind = message.WhichOneof("type")
        if kind == "page_info_changed":
            self.query = message.page_info_changed.query_string
        if kind == "delta":
            element = message.delta.new_element
            if element.WhichOneof("type") == "exception":
                self.exceptions.append(element.exception.message[:200])
            if element.WhichOneof("type") == "bidi_component":
                self._seen(element.bidi_component)
        # A script that begins another run at once ends early, and its last run counts.
        finished = ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY
        return kind == "script_finished" and message.script_finished in finished

    def _seen(self, component: Any) -> None:
        with contextlib.suppress(ValueError):
            shown = json.loads(component.json or component.mixed.json or "{}")
            if "setting" in shown and "visitor" in shown:
                self.component, self.page = component.id, shown


def live(url: str, **query: object) -> Iterator[dict[str, Any]]:
    """The lines of a live merge, as an open Explore view hears them."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=LONGEST)
    with contextlib.closing(connection):
        connection.request("GET", f"/live?{urlencode(query)}")
        response = connection.getresponse()
        while text := response.readline():
            yield json.loads(text)
