"""The app: `streamlit run app.py`.

The script that Streamlit runs is views/app/shell.py. This file starts torch early, so that the
first page needn't wait for it. It serves what goes past the script: live merges for the Explore
view, and merged models, cards and zips of runs, without reading models into memory.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import streamlit as st
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from views.app import guard, warm
from views.state import serving

if TYPE_CHECKING:
    from mloss_core import RunRecord


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
    for name in ("pandas", "pyarrow"):  # half a second, and the first picture needs them
        importlib.import_module(name)
    warm.visited.wait(warm.PATIENCE)
    for name in ("mloss_core", "plotly.graph_objects", "scipy.stats"):
        importlib.import_module(name)
    # Streamlit collects garbage after every run, a third of a second for all that torch has
    # loaded, and nothing else runs meanwhile: those objects stay, so they needn't be looked at.
    gc.freeze()


async def download(request: Request) -> Response:
    """The merged model of a run, under the run's name."""
    run = run_of(request)
    if run is None or run.model is None:
        return missing(request, "merged model")
    return FileResponse(
        run.model, filename=f"{run.id}.safetensors", media_type="application/octet-stream"
    )


async def card(request: Request) -> Response:
    """The model card of a run."""
    from mloss_core import MlossError
    from mloss_core.runs.card import model_card

    run = run_of(request)
    if run is None:
        return missing(request, "run")
    name = {"Content-Disposition": f'attachment; filename="{run.id}.md"'}
    try:
        return PlainTextResponse(model_card(run), media_type="text/markdown", headers=name)
    except MlossError as error:
        return unreadable(error)


async def bundle(request: Request) -> Response:
    """All files of a run and its card as a zip, written while it is sent."""
    from mloss_core import MlossError
    from mloss_core.runs.bundle import zipped

    run = run_of(request)
    if run is None:
        return missing(request, "run")
    name = {"Content-Disposition": f'attachment; filename="{run.id}.zip"'}
    try:
        return StreamingResponse(zipped(run), media_type="application/zip", headers=name)
    except MlossError as error:
        return unreadable(error)


async def live(request: Request) -> Response:
    """A live merge as it goes on, for an open Explore view: lines of JSON."""
    from views.explore.stream import lines

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    query = dict(request.query_params)
    return StreamingResponse(lines(query), media_type="application/x-ndjson", headers=headers)


async def look(request: Request) -> Response:
    """A node looked at closely, for the side card of the Explore view."""
    from views.explore.look import answer

    return JSONResponse(await answer(dict(request.query_params)))


async def first_page(request: Request) -> Response:
    """Explore, which is at / alone, under its name as well, with the link's settings."""
    return RedirectResponse(f"./?{request.url.query}")


async def too_large(request: Request, error: Exception) -> Response:
    """Says how large a file may be."""
    most = st.get_option("server.maxUploadSize")
    words = f"upload: is larger than {most} MB, the most that this server takes; send less at once"
    return PlainTextResponse(f"{words}\n", status_code=413)


def run_of(request: Request) -> RunRecord | None:
    """The run that a path asks for, if it is there and readable."""
    from mloss_core import MlossError, load_run

    try:
        return load_run(request.path_params["run"])
    except MlossError:
        return None


def unreadable(error: Exception) -> Response:
    """Says what is wrong with a run's files."""
    return PlainTextResponse(f"{error}\n", status_code=422)


def missing(request: Request, what: str) -> Response:
    """Says that there is no such thing."""
    run = request.path_params["run"]
    return PlainTextResponse(f"run {run}: there is no such {what}", status_code=404)


ROUTES = {
    "/download/{run}": download,
    "/card/{run}": card,
    "/export/{run}": bundle,
    "/live": live,
    "/look": look,
    "/explore": first_page,
}
try:
    serving.begin()
except ValueError as error:
    sys.exit(f"error: {error}")
app = st.App(
    "views/app/shell.py",
    lifespan=warm_up,
    routes=[Route(path, answer) for path, answer in ROUTES.items()],
    middleware=[Middleware(guard.Guard)],
    exception_handlers={413: too_large},
)
