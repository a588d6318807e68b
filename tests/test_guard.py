"""views/app/guard.py: raw requests and WebSockets to a real server, and what its operator sets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest
from browser.driver import ROOT, Server, running
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect

from mloss_core.cli import app as app_command
from tiny import write_family
from views.app import guard
from views.state import serving
from views.state.serving import Host

OWN = "lab.example.org"
FOREIGN = "evil.example"
STREAM, LIVE = "/_stcore/stream", "/live?family=tiny&visitor=me"
PATHS = ("/", "/sources", "/_stcore/health", "/look?family=tiny", LIVE, "/download/x", "/export/x")
PART = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.zip"\r\n\r\n'
UPGRADE = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip


@contextlib.contextmanager
def served(tmp_path_factory, **environment: str) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("guarded")
    write_family(folder / "models" / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with running(folder) as started:
            yield started


@pytest.fixture(scope="module")
def closed(tmp_path_factory) -> Iterator[Server]:
    """A server as README starts it, but for smaller uploads."""
    with served(tmp_path_factory, STREAMLIT_SERVER_MAX_UPLOAD_SIZE="1") as started:
        yield started


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> Iterator[Server]:
    """A server that goes by another name, too, for looking only."""
    with served(tmp_path_factory, MLOSS_HOSTS=f"{OWN}, 10.0.0.5:8600", MLOSS_MODE="view") as other:
        yield other


def answer(server: Server, path: str, method: str = "GET", **headers: str | None):
    """Status, headers and first bytes of a request whose Host may be another's; None for none."""
    place = server.url.removeprefix("http://")
    connection = http.client.HTTPConnection(place, timeout=60)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        wanted = {"Host": place} | {name.replace("_", "-"): v for name, v in headers.items()}
        for name, value in wanted.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        # A WebSocket's first frames may never come, and a live merge goes on.
        text = b"" if response.status == 101 else response.read1(2000)
        return response.status, dict(response.getheaders()), text.decode()


def one_line(text: str) -> bool:
    return text.endswith("\n") and text.count("\n") == 1 and len(text) < 500


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "host", [FOREIGN, f"{FOREIGN}:8501", OWN, "10.0.0.5", "localhost.evil.example"]
)
def test_a_foreign_host_is_refused_everywhere_and_told_how_it_is_allowed(closed, path, host):
    status, headers, text = answer(closed, path, Host=host)
    assert status == 403 and one_line(text), text
    assert f"host {host}: is not served here" in text and "--allow-host" in text
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9", "127.0.0.1:65535", "[::1]:8501", "localhost."]
)
def test_this_machines_own_names_are_served_on_any_port(closed, host):
    assert answer(closed, "/_stcore/health", Host=host)[0] == 200


@pytest.mark.parametrize(
    "host", ["", "a b", "a@localhost", "localhost:0", "localhost:99999", "[::1", "ö", "x" * 400]
)
def test_what_is_no_host_is_refused(closed, host):
    status, _, text = answer(closed, "/live", Host=host)
    assert status in (400, 403) and "Traceback" not in text


def test_two_hosts_and_none_are_refused(closed):
    place = closed.url.removeprefix("http://")
    for lines in (f"Host: {place}\r\nHost: {FOREIGN}\r\n", ""):
        with socket.create_connection(("127.0.0.1", int(place.split(":")[1])), 30) as raw:
            raw.sendall(f"GET /live HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())
            assert raw.recv(100).split()[1] in (b"400", b"403")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "origin",
    [
        f"http://{FOREIGN}",
        f"https://{FOREIGN}:8501",
        "http://localhost:3000",
        "null",
        "file://",
        "http://127.0.0.1@evil.example",
    ],
)
def test_a_foreign_origin_is_refused_everywhere(closed, path, origin):
    status, _, text = answer(closed, path, Origin=origin)
    assert status == 403 and one_line(text), text
    assert f"origin {origin}: another site's page" in text


@pytest.mark.parametrize("path", ["/look?family=tiny", LIVE])
def test_another_sites_picture_or_link_begins_no_work(closed, path):
    """A picture in a page has no Origin, and neither has a link."""
    for mode in ("no-cors", "navigate"):
        for site in ("cross-site", "same-site"):
            status, _, text = answer(closed, path, Sec_Fetch_Site=site, Sec_Fetch_Mode=mode)
            assert status == 403 and "another site" in text
    assert answer(closed, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200
    assert answer(closed, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403


def test_the_pages_own_requests_are_served(closed):
    own = {"Origin": closed.url, "Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors"}
    assert answer(closed, "/", **own)[0] == 200
    status, _, text = answer(closed, LIVE, **own)
    assert status == 200 and text.startswith("{")
    status, _, text = answer(closed, "/look?family=tiny&node=0:1", **own)
    assert status == 200 and '"sources"' in text


def test_a_websocket_of_another_site_is_refused_and_ones_own_is_not(closed):
    for headers in (
        {"Origin": f"http://{FOREIGN}"},
        {"Host": FOREIGN},
        {"Origin": "null"},
        {"Host": FOREIGN, "Origin": f"http://{FOREIGN}"},
    ):
        status, _, text = answer(closed, STREAM, **UPGRADE, **headers)
        assert status == 403 and one_line(text), text
    assert answer(closed, STREAM, **UPGRADE, Origin=closed.url)[0] == 101
    assert answer(closed, STREAM, **UPGRADE)[0] == 101, "a program that is no browser"


def test_an_allowed_host_is_served_also_behind_a_proxy_that_changes_it(opened):
    port = opened.url.rpartition(":")[2]
    page = {"Origin": f"https://{OWN}"}
    for host in (OWN, f"{OWN}:{port}", "10.0.0.5:8600", f"localhost:{port}"):
        assert answer(opened, "/", Host=host)[0] == 200
    assert answer(opened, STREAM, **UPGRADE, **page, Host=OWN)[0] == 101
    assert answer(opened, STREAM, **UPGRADE, **page)[0] == 101, "the proxy says 127.0.0.1"
    assert answer(opened, "/", Host="10.0.0.5:8601")[0] == 403, "only that port was allowed"
    for headers in ({"Host": FOREIGN}, {"Host": OWN, "Origin": f"https://{FOREIGN}"}):
        assert answer(opened, STREAM, **UPGRADE, **headers)[0] == 403
    _, headers, _ = answer(opened, "/", Host=OWN)
    policy = headers["content-security-policy"]
    assert policy.endswith(f"frame-ancestors 'self' {OWN}:* 10.0.0.5:8600")


def test_every_answer_tells_browsers_to_load_and_frame_nothing_foreign(closed):
    for path in ("/", "/_stcore/health", "/download/x", "/nothing/here", "/look"):
        _, headers, _ = answer(closed, path)
        assert headers["content-security-policy"].startswith("default-src 'self'; ")
        assert headers["content-security-policy"].endswith("frame-ancestors 'self'")
        assert headers["referrer-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_explore_is_found_by_its_name_with_a_links_settings(closed):
    for query in ("", "keep=0.5&sources=a,b", "view=//evil.example"):
        status, headers, _ = answer(closed, f"/explore?{query}")
        assert status == 307 and headers["location"] == f"./?{query}"


def test_a_server_for_looking_takes_no_file_and_begins_no_merge(opened):
    for method in ("PUT", "POST", "DELETE", "PATCH"):
        status, _, text = answer(opened, "/_stcore/upload_file/a/b", method, Content_Length="0")
        assert status == 403 and "MLOSS_MODE=view" in text
    assert json.loads(answer(opened, LIVE)[2])["note"].startswith("This server is for looking")
    looked = json.loads(answer(opened, "/look?family=tiny&node=0:1")[2])
    assert looked["error"].startswith("This server is for looking")
    assert not opened.runs.exists()


def test_a_request_from_another_machine_is_refused_unless_a_host_is_allowed(monkeypatch):
    def why(client, **environment):
        monkeypatch.delenv("MLOSS_HOSTS", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        scope = {
            "type": "http",
            "path": "/",
            "client": client,
            "headers": [(b"host", b"localhost")],
        }
        return guard.Guard(lambda *given: None).why_not(scope)

    assert why(("127.0.0.1", 1)) == why(("::ffff:127.0.0.1", 1)) == why(("::1", 1)) == ""
    assert why(None) == "", "a socket in the file system"
    assert "for its own machine alone" in why(("10.0.0.7", 1))
    assert why(("10.0.0.7", 1), MLOSS_HOSTS=OWN) == ""


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Lab.Example.org.", Host("lab.example.org")), ("a:80", Host("a", 80)),
        ("[::1]:9", Host("::1", 9)), ("[0:0::1]", Host("::1")), ("::1", None), ("[1.2.3.4]", None),
        ("a:", None), ("a:b", None), ("http://a", None), ("a/b", None), ("*", None), ("a\n", None),
    ],
)  # fmt: skip
def test_hosts_are_read_as_browsers_write_them(text, host):
    assert serving.parsed(text) == host


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("MLOSS_MODE", "classs", "choose from open, class, view"),
        ("MLOSS_HOSTS", "https://lab.example.org", "is no host; give names"),
        ("MLOSS_HOSTS", "*", "is no host; give names"),
    ],
)
def test_what_makes_no_sense_ends_the_server_at_its_start(name, value, words):
    line = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless", "true"]
    done = subprocess.run(
        [*line, "--server.port", "0"], cwd=ROOT, env=os.environ | {name: value}, timeout=120,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (said,) = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert said.startswith(f"error: {name} {value!r}: ") and words in said


@pytest.mark.parametrize("mode, kept", [("open", True), ("class", False), ("view", False)])
def test_on_a_shared_server_families_stay_in_the_folder_of_models(mode, kept, monkeypatch):
    monkeypatch.setenv("MLOSS_MODE", mode)
    monkeypatch.setenv("MLOSS_ROOTS", "/somewhere")
    serving.begin()
    assert ("MLOSS_ROOTS" in os.environ) == kept


@pytest.mark.parametrize(
    ("options", "address", "hosts"),
    [
        (("--host", "127.0.0.1"), "127.0.0.1", ""),
        (("--allow-host", "a", "--allow-host", "b:80"), None, "a,b:80"),
        (("--host", "0.0.0.0", "--allow-host", OWN), "0.0.0.0", OWN),
    ],
)
def test_the_command_hands_on_address_and_hosts(options, address, hosts, cli, monkeypatch):
    lines = []
    monkeypatch.setenv("MLOSS_HOSTS", "")
    monkeypatch.setattr(app_command.os, "execv", lambda path, line: lines.append(line))
    assert cli("app", *options).status == 0
    tail = lines[0][lines[0].index(str(ROOT / "app.py")) + 1 :]
    assert tail == (["--server.address", address] if address else [])
    assert os.environ["MLOSS_HOSTS"] == hosts


@pytest.mark.parametrize("host", ["0.0.0.0", "", "a b", "203.0.113.7"])
def test_an_address_that_cannot_be_or_that_nobody_may_use_is_refused(
    host, cli, refused, monkeypatch
):
    monkeypatch.delenv("MLOSS_HOSTS", raising=False)
    refused(cli("app", "--host", host), "--host")


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_that_is_too_large_is_refused_with_the_limit(closed, whole):
    """Also where the request doesn't say how large it is."""
    stream = closed.url.replace("http", "ws") + STREAM
    with connect(stream, origin=closed.url, subprotocols=["streamlit"]) as page:
        page.send(BackMsg(rerun_script={}).SerializeToString())
        session = ""
        while not session:
            session = ForwardMsg.FromString(page.recv(60)).new_session.initialize.session_id
        cookie = answer(closed, "/_stcore/health")[1]["set-cookie"].partition(";")[0]
        connection = http.client.HTTPConnection(closed.url.removeprefix("http://"), timeout=60)
        with contextlib.closing(connection):
            pieces = (PART, *[bytes(1_000_000)] * 4)
            file = b"".join(pieces) if whole else iter(pieces)
            headers = {"Cookie": cookie, "X-Xsrftoken": cookie.partition("=")[2]}
            headers |= {"Content-Type": "multipart/form-data; boundary=x"}
            connection.request("PUT", f"/_stcore/upload_file/{session}/a", file, headers)
            response = connection.getresponse()
            assert response.status == 413, response.read()
            assert response.read() == (
                b"upload: is larger than 1 MB, the most that this server takes; send less at once\n"
            )


def test_the_limit_of_uploads_is_set():
    settings = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
    assert settings["server"]["maxUploadSize"] == 64
    assert settings["server"]["address"] == "127.0.0.1"
