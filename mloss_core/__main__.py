"""The command line: families, fetch, heads, pool, convert, score, merge, evaluate,
experiment, compatibility, rerun, export.

Exit status 0 when done, 2 for bad input, 1 for anything else that went wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence

from .cli import arguments, preparing
from .cli import merging as commands
from .cli import runs as papers
from .cli.compatibility import compatibility
from .cli.experiment import experiment
from .errors import InputError, MlossError
from .families import family as zoo
from .families.layouts import TOML
from .families.scaffold import scaffold
from .hardware import device


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status. A mistake is one line on stderr."""
    args = argparse.Namespace()
    try:
        args = arguments.build_parser().parse_args(argv)
        with device.reported_memory(getattr(args, "device", "cpu")):
            COMMANDS[args.command](args)
    except MlossError as error:
        print(f"error: {_with_option(error, args)}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("error: interrupted; nothing was written", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone: nobody to tell
        return 1
    return 0


def _with_option(error: MlossError, args: argparse.Namespace) -> str:
    """The error's line; a field that is an option of the command goes by the option."""
    if isinstance(error, InputError) and error.field in vars(args):
        name = "as" if error.field == "format" else error.field.replace("_", "-")
        return error.named(f"--{name}")
    return str(error)


def list_families(args: argparse.Namespace) -> None:
    """Prints every family with its sources and settings; with --init writes a family.toml."""
    if args.init:
        text = scaffold(args.init)
        print(json.dumps({"written": str(args.init / TOML), "text": text}) if args.json else text)
        return
    for name in zoo.families():
        row = _described(name)
        if args.json:
            print(json.dumps(row))
        else:
            print("\n".join(f"{key:12} {_plain(value)}" for key, value in row.items()), "\n")


def _described(name: str) -> dict[str, object]:
    """A family's row of the list; the error instead where it cannot be read."""
    try:
        family = zoo.load(name)
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
        "recommended": family.about.get("recommended", {}),
    }


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "families": list_families,
    "fetch": preparing.fetch,
    "heads": preparing.heads,
    "pool": preparing.pool,
    "convert": commands.convert_file,
    "score": commands.score,
    "merge": commands.merge,
    "evaluate": commands.evaluate,
    "experiment": experiment,
    "compatibility": compatibility,
    "rerun": papers.rerun,
    "export": papers.export,
}

if __name__ == "__main__":
    sys.exit(main())
