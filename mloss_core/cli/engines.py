"""The options of where cells are measured, and the engine that they ask for."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import click
import torch

from ..errors import BadValue, UnknownName
from ..runs.engines import MOST, Engine, Pool, Share
from ..runs.on_ray import Ray

# Opens the engine for a device, and closes it at the end; None stands for this process.
Opener = Callable[[torch.device], AbstractContextManager[Engine | None]]
ENGINES = ("process", "pool", "ray")


def engine_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options of where cells are measured, given to the function as one: `engine`, which opens
    what they ask for on a device."""

    @functools.wraps(function)
    def with_engine(
        *, engine: str | None, workers: int | None, address: str | None, **options: Any
    ) -> None:
        function(engine=functools.partial(_opened, engine, workers, address), **options)

    with_engine = click.option(
        "--address", metavar="ADDRESS",
        help="Of --engine ray: the cluster's head.  [default: one on this machine]",
    )(with_engine)  # fmt: skip
    with_engine = click.option(
        "--workers", type=int, metavar="NUMBER",
        help="How many at a time, each on its share of the cores.  [default: one a core, at most "
        f"{MOST}; with CUDA one a card]",
    )(with_engine)  # fmt: skip
    return click.option(
        "--engine", metavar="NAME",
        help=f"Where cells are measured. One of {', '.join(ENGINES)}: this process, worker "
        "processes, or a Ray cluster.  [default: pool where it has more than one worker]",
    )(with_engine)  # fmt: skip


@contextlib.contextmanager
def _opened(
    name: str | None, workers: int | None, address: str | None, device: torch.device
) -> Iterator[Engine | None]:
    """The engine that the options ask for, closed at the end; None stands for this process.

    Raises:
        UnknownName, BadValue: an option is wrong, or has no use with that engine.
    """
    if name not in (None, *ENGINES):
        raise UnknownName("engine", name, ENGINES)
    if address is not None and name != "ray":
        raise BadValue("address", address, "is read by --engine ray alone", "add that")
    if workers is not None and name == "process":
        raise BadValue("workers", workers, "is read by other engines", "use --engine pool")
    if workers is not None and workers < 1:
        raise BadValue("workers", workers, "is below 1", "give 1 or more")
    share = Share.of(device, workers)
    if name == "process" or (name is None and share.workers == 1):
        yield None
        return
    if name == "ray":
        engine: Engine = Ray(address or "local", workers, share.threads, bool(share.cards))
    else:
        engine = Pool(share)
    with contextlib.closing(engine):
        yield engine
