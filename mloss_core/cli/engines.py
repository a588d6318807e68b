"""The options of where cells are measured, and the engine that they ask for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click
import torch

from ..errors import BadValue, UnknownName
from ..runs.engines import MOST, Engine, Pool, Share
from ..runs.on_ray import Ray
from .options import Function

ENGINES = ("process", "pool", "ray")


def engine_options(function: Function) -> Function:
    """The options of where cells are measured."""
    function = click.option(
        "--address", metavar="ADDRESS",
        help="Of --engine ray: the cluster's head.  [default: one on this machine]",
    )(function)  # fmt: skip
    function = click.option(
        "--workers", type=int, metavar="NUMBER",
        help="How many at a time, each on its share of the cores.  [default: one a core, at most "
        f"{MOST}; with CUDA one a card]",
    )(function)  # fmt: skip
    return click.option(
        "--engine", metavar="NAME",
        help=f"Where cells are measured. One of {', '.join(ENGINES)}: this process, worker "
        "processes, or a Ray cluster.  [default: pool where it has more than one worker]",
    )(function)  # fmt: skip


@contextlib.contextmanager
def opened_engine(
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
