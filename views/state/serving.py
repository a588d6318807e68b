"""What the operator of a server sets: the hosts it goes by, and what its visitors may do.

app.py reads it before torch is loaded, so nothing of the library is imported here.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass

HOSTS, MODE, ROOTS = "MLOSS_HOSTS", "MLOSS_MODE", "MLOSS_ROOTS"
MODES = ("open", "class", "view")
LOCAL = ("localhost", "127.0.0.1", "::1")
ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>\d+))?")
MOST = 253  # letters of a host's name


@dataclass(frozen=True)
class Host:
    """A name or an address, and a port where one is given."""

    name: str
    port: int | None = None

    def covers(self, other: Host) -> bool:
        """Whether that is this host, on this port where one is given."""
        return self.name == other.name and self.port in (None, other.port)


def parsed(text: str) -> Host | None:
    """A host as headers and operators write it, name[:port]; None where it is none."""
    match = ADDRESS.fullmatch(text) if len(text) <= MOST + len("[]:65535") else None
    if match is None:
        return None
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port < 2**16:
        return None
    if match["v6"] is None:
        return Host(match["name"].lower().rstrip("."), port)
    try:
        return Host(ipaddress.IPv6Address(match["v6"]).compressed, port)
    except ValueError:
        return None


def hosts() -> tuple[Host, ...]:
    """What the operator allows beside this machine's own names; raises ValueError."""
    named = [text.strip() for text in os.environ.get(HOSTS, "").split(",")]
    return tuple(_host(text) for text in named if text)


def _host(text: str) -> Host:
    host = parsed(text)
    if host is None or not host.name:
        raise ValueError(
            f"{HOSTS} {text[:MOST]!r}: is no host; give names or addresses, with a port or without "
            "and commas between, as lab.example.org,10.0.0.5:8501,[fd00::5]"
        )
    return host


def mode() -> str:
    """What visitors may do: one of MODES; raises ValueError."""
    chosen = os.environ.get(MODE, "").strip() or MODES[0]
    if chosen not in MODES:
        raise ValueError(f"{MODE} {chosen[:MOST]!r}: is not known; choose from {', '.join(MODES)}")
    return chosen


def begin() -> None:
    """Checks both before anything is served; raises ValueError.

    On a shared server families lead nowhere out of the folder of models, whatever the operator
    allows himself at other times.
    """
    hosts()
    if mode() != "open" and os.environ.pop(ROOTS, ""):
        print(f"{MODE}={mode()}: {ROOTS} is not used, families stay in the folder of models")
