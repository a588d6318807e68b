"""Who may talk to the server: only its own pages, under a name that the operator allows.

A name of somebody else's that leads to this machine (DNS rebinding), and a page of another site
that fetches from here or opens a WebSocket, are refused before anything else looks at them. Every
answer tells the browser to load and to frame nothing foreign.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from views.state import serving
from views.state.serving import Host

WORKING = ("/live", "/look")  # routes that begin work: no link from elsewhere may ask for them
READING = ("GET", "HEAD", "OPTIONS")
FOREIGN = ("cross-site", "same-site")  # the same site has other ports and hosts, too
LONGEST = 100  # letters of a header that an answer repeats
# Streamlit compiles parts of its pages, styles them in place and loads components from blobs.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline' blob:; img-src 'self' data: blob:; media-src 'self' blob:; "
    "font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors "
)


class Guard:
    """The middleware around the whole app, Streamlit's own routes included."""

    def __init__(self, app: ASGIApp):
        self.app, self.hosts = app, serving.hosts()
        self.added = {
            "Content-Security-Policy": POLICY + " ".join(ancestors(self.hosts)),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or refuses it in one line."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"].endswith("http.response.start"):
                headers = MutableHeaders(scope=message)
                for name, value in self.added.items():
                    headers.setdefault(name, value)
            await send(message)

        if why := self.why_not(scope):
            await PlainTextResponse(f"{why}\n", status_code=403)(scope, receive, sent)
        else:
            await self.app(as_one_origin(scope), receive, sent)

    def why_not(self, scope: Scope) -> str:
        """Why a request is refused; empty where it is not."""
        headers = Headers(scope=scope)
        named, origins = headers.getlist("host"), headers.getlist("origin")
        host = serving.parsed(named[0]) if len(named) == 1 else None
        if host is None:
            return "host: a request needs one Host, a name with a port or without"
        if not self.hosts and not is_local(scope):
            return f"this server is for its own machine alone; {allowing(Host('NAME'))}"
        if not (host.name in serving.LOCAL or self.allows(host)):
            return f"host {named[0][:LONGEST]}: is not served here; {allowing(Host(host.name))}"
        origin = origin_of(origins[0]) if len(origins) == 1 else None
        if origins and (origin is None or not (origin == host or self.allows(origin))):
            name = allowing(origin) if origin else "open the app's own address"
            return f"origin {origins[0][:LONGEST]}: another site's page may not use this; {name}"
        if not origins and is_foreign(scope, headers):
            return "a page of another site may not fetch this; open the app's own address"
        if serving.mode() == "view" and scope.get("method", "GET") not in READING:
            return f"this server is for looking ({serving.MODE}=view): it takes no files"
        return ""

    def allows(self, host: Host) -> bool:
        """Whether the operator allows it."""
        return any(allowed.covers(host) for allowed in self.hosts)


def allowing(host: Host) -> str:
    """What the operator can do about a refusal."""
    own = f"[{host.name}]" if ":" in host.name else host.name
    own += f":{host.port}" if host.port else ""
    return f"who runs it can allow that: mloss app --allow-host {own}, or {serving.HOSTS}={own}"


def ancestors(hosts: Iterable[Host]) -> list[str]:
    """Whose pages may frame the app, as a policy says it; policies know no IPv6 addresses."""
    named = (host for host in hosts if ":" not in host.name)
    return ["'self'", *(f"{h.name}:{h.port or '*'}" for h in named)]


def is_local(scope: Scope) -> bool:
    """Whether it comes from this machine; a proxy on it says for whom it asks."""
    try:
        peer = ipaddress.ip_address((scope.get("client") or ("",))[0])
    except ValueError:
        return True  # a socket in the file system
    mapped = getattr(peer, "ipv4_mapped", None)
    return (mapped or peer).is_loopback


def origin_of(text: str) -> Host | None:
    """The host of an Origin; None for a file's or a sandbox's "null" and whatever else is none."""
    scheme, _, rest = text.partition("://")
    return serving.parsed(rest) if scheme in ("http", "https") else None


def is_foreign(scope: Scope, headers: Headers) -> bool:
    """Whether another site's page fetches it, and doesn't lead a visitor here by a link: a picture
    or a script in a page has no Origin, but browsers say where it stands."""
    if headers.get("sec-fetch-site") not in FOREIGN:
        return False
    return headers.get("sec-fetch-mode") != "navigate" or scope["path"] in WORKING


def as_one_origin(scope: Scope) -> Scope:
    """The request as if no proxy had changed its Host: an Origin that was let in is the app's own.

    Streamlit compares the two once more, and where they differ it looks this machine's address up
    on the internet.
    """
    headers = MutableHeaders(scope=scope)
    if origin := headers.get("origin"):
        headers["host"] = urlsplit(origin).netloc
    return scope
