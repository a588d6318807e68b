"""The command `app`: starts the app, from a checkout or an installation."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import socket
import subprocess
import sys

import click

from ..errors import BadFile, BadValue
from ..places import app_folder
from .named import Command

HOSTS = "MLOSS_HOSTS"  # read by app.py
EVERYWHERE = ("0.0.0.0", "::")
OF_NAMES = "A name or address by which visitors reach it; may be repeated."


@click.command(cls=Command)
@click.option("--port", type=click.IntRange(1, 65535), metavar="PORT", help="[default: 8501]")
@click.option("--headless", is_flag=True, help="Open no browser.")
@click.option("--host", metavar="ADDRESS", help="Where it listens.  [default: 127.0.0.1]")
@click.option("--allow-host", "names", metavar="NAME", multiple=True, help=OF_NAMES)
def app(port: int | None, headless: bool, host: str | None, names: tuple[str, ...]) -> None:
    """Starts the app and opens it in a browser; Ctrl-C ends it."""
    script = app_folder() / "app.py"
    if not script.is_file() or importlib.util.find_spec("streamlit") is None:
        remedy = "install the project again with pip install ."
        raise BadFile("app", script, "is not there, or Streamlit is not", remedy)
    options = ["--server.port", str(port)] if port is not None else []
    options += ["--server.headless", "true"] if headless else []
    options += ["--server.address", host] if host is not None else []
    if allowed := allowed_hosts(host, names):
        os.environ[HOSTS] = ",".join(allowed)
    line = [sys.executable, "-m", "streamlit", "run", str(script), *options]
    if os.name == "nt":
        click.get_current_context().exit(subprocess.call(line))
    os.execv(sys.executable, line)  # so that whoever ends this process ends the server


def allowed_hosts(host: str | None, names: tuple[str, ...]) -> list[str]:
    """The names that the server answers to beside its machine's own: those of the environment,
    those given, and the address where it listens; raises BadValue where none tells who may come."""
    others = [name for name in os.environ.get(HOSTS, "").split(",") if name.strip()]
    others += names
    if host is None or _is_loopback(host):
        return others
    if host not in EVERYWHERE:
        return [*others, f"[{host}]" if ":" in host else host]
    if not others:
        problem = "serves other machines, and nothing says by which name they reach this one"
        remedy = f"add --allow-host NAME, for instance {socket.gethostname()}"
        raise BadValue("host", host, problem, remedy)
    return others


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches it there; raises BadValue where it cannot listen."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as place:
            place.bind((host or " ", 0))  # an empty one would be everywhere
            return ipaddress.ip_address(place.getsockname()[0]).is_loopback
    except OSError as error:
        remedy = "give one, or 0.0.0.0 for all of them"
        raise BadValue("host", host, f"is no address of this machine ({error})", remedy) from error
