"""The command `app`: starts the app, from a checkout or an installation."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import click

from ..errors import BadFile
from ..places import app_folder
from .options import Command


@click.command(cls=Command)
@click.option("--port", type=click.IntRange(1, 65535), metavar="PORT", help="[default: 8501]")
@click.option("--headless", is_flag=True, help="Open no browser.")
def app(port: int | None, headless: bool) -> None:
    """Starts the app and opens it in a browser; Ctrl-C ends it."""
    script = app_folder() / "app.py"
    if not script.is_file() or importlib.util.find_spec("streamlit") is None:
        remedy = "install the project again with pip install ."
        raise BadFile("app", script, "is not there, or Streamlit is not", remedy)
    options = ["--server.port", str(port)] if port is not None else []
    options += ["--server.headless", "true"] if headless else []
    line = [sys.executable, "-m", "streamlit", "run", str(script), *options]
    if os.name == "nt":
        click.get_current_context().exit(subprocess.call(line))
    os.execv(sys.executable, line)  # so that whoever ends this process ends the server
