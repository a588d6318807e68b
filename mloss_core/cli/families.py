"""The command `families`: lists families, or writes a family.toml for a folder of models."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..errors import MlossError
from ..families.family import load
from ..families.folders import families as all_families
from ..families.layouts import TOML
from ..families.scaffold import scaffold
from .options import PLACE, command


@command()
@click.option(
    "--init", type=PLACE, metavar="FOLDER", help="Write a family.toml for a folder of models."
)
def families(init: Path | None, as_json: bool) -> None:
    """Lists the families with their sources and recommended settings."""
    if init:
        text = scaffold(init)
        print(json.dumps({"written": str(init / TOML), "text": text}) if as_json else text)
        return
    for name in all_families():
        row = _described(name)
        if as_json:
            print(json.dumps(row))
        else:
            print("\n".join(f"{key:12} {_plain(value)}" for key, value in row.items()), "\n")


def _described(name: str) -> dict[str, object]:
    """A family's row of the list; the error instead where it cannot be read."""
    try:
        family = load(name)
    except MlossError as error:
        return {"family": name, "error": str(error)}
    return {
        "family": name,
        "folder": str(family.folder),
        "blocks": family.model.blocks,
        "nodes": family.model.nodes,
        "activation": family.model.activation,
        "sources": family.sources,
        "tasks": family.tasks,
        "mean": family.model.mean,
        "std": family.model.std,
        "assumed": family.assumed,
        "recommended": family.about.get("recommended", {}),
    }


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
