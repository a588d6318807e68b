"""The app: `streamlit run app.py`.

The script that Streamlit runs is views/shell.py; this file starts torch early, so that the first
page needn't wait for it, and serves merged models as files, without reading them into memory.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import re
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import streamlit as st
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route


@contextlib.asynccontextmanager
async def warm_up(app: st.App) -> AsyncIterator[None]:
    """Loads what the pages need while the browser opens."""
    # The worker asks for Python's lock after every small tensor operation: pages that are being
    # drawn must give it back sooner than after the usual 5 ms.
    sys.setswitchinterval(0.0005)
    threading.Thread(target=load, daemon=True).start()
    yield


def load() -> None:
    """Imports the library (and with it torch, seconds) and what the pages draw with."""
    for name in ("mloss_core", "pandas", "plotly.graph_objects"):
        importlib.import_module(name)
    # Streamlit collects garbage after every run, a third of a second for all that torch has
    # loaded, and nothing else runs meanwhile: those objects stay, so they needn't be looked at.
    gc.freeze()


async def download(request: Request) -> Response:
    """The merged model of a run, under the run's name."""
    from mloss_core.store import root

    run = request.path_params["run"]
    path = Path(root()) / run / "model.safetensors"
    if not re.fullmatch(r"[A-Za-z0-9-]+", run) or not path.is_file():
        return PlainTextResponse(f"run {run}: there is no such merged model", status_code=404)
    return FileResponse(path, filename=f"{run}.safetensors", media_type="application/octet-stream")


app = st.App("views/shell.py", lifespan=warm_up, routes=[Route("/download/{run}", download)])
