"""The command line's group of commands, and how every mistake ends.

Exit status 0 when done, 2 for bad input, 1 for anything else that went wrong.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from ..errors import MlossError
from ..version import __version__

# Where each command is, and what the list of commands says of it: the beginning of its docstring. A
# module is imported when its command is called, since most need torch, which takes seconds.
COMMANDS = {
    "app": ("app.app", "Starts the app and opens it in a browser; Ctrl-C ends it."),
    "compatibility": (
        "compatibility.compatibility",
        "Measures whether M-Loss predicts what merges of three or more sources lose.",
    ),
    "convert": (
        "merging.convert",
        "Writes the image tower of any checkpoint, file or folder, by open_clip's names.",
    ),
    "evaluate": (
        "merging.evaluate",
        "Prints the accuracy of an image tower, or of several models, on each task, with count and "
        "95 % interval.",
    ),
    "experiment": (
        "experiment.experiment",
        "Redoes a table of the paper, or all of them, and prints it in Markdown.",
    ),
    "export": (
        "runs.export",
        "Writes a run's model as a folder of another library, with its card.",
    ),
    "families": (
        "families.families",
        "Lists the families with their sources and recommended settings.",
    ),
    "fetch": (
        "preparing.fetch",
        "Downloads a family's base and the datasets of its tasks.",
    ),
    "finetune": (
        "training.finetune_command",
        "Fine-tunes the base's image tower on a task, or on pictures of your own.",
    ),
    "heads": ("preparing.heads", "Makes zero-shot heads from the base's text tower."),
    "merge": ("merging.merge", "Merges sources into one image tower."),
    "pool": (
        "preparing.pool",
        "Makes calibration images from the tasks' validation images.",
    ),
    "rerun": ("runs.rerun", "Does a finished run again and compares the bytes."),
    "score": (
        "merging.score",
        "Measures the M-Loss of every node along an M-TIES merge.",
    ),
}
HASHING = ("merge", "score")  # commands that read every file of their models


class Commands(click.Group):
    """A group that lists its commands without importing them."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is called, imported."""
        name, listed, rest = super().resolve_command(ctx, args)
        if name in HASHING:
            importlib.import_module(".ahead", __package__).hash_ahead(rest)
        return name, imported(name) if name and listed else None, rest


def imported(name: str) -> click.Command:
    """The command of that name."""
    module, _, attribute = COMMANDS[name][0].partition(".")
    return getattr(importlib.import_module(f".{module}", __package__), attribute)


@click.group(cls=Commands, no_args_is_help=False, context_settings={"max_content_width": 100})
@click.version_option(__version__, prog_name="mloss")
def commands() -> None:
    """Measures M-Loss between fine-tuned CLIP models, merges them and evaluates the result."""


for _name, (_, _line) in COMMANDS.items():
    commands.add_command(click.Command(_name, help=_line))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status. A mistake is one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        # Not click's own main(): it writes more than one line where somebody interrupts.
        with commands.make_context(_program(), arguments) as context:
            commands.invoke(context)
    except click.exceptions.Exit as done:  # after --help or --version
        return done.exit_code
    except click.UsageError as error:
        print(f"error: {_usage(error)}", file=sys.stderr)
        return error.exit_code
    except click.ClickException as error:
        print(f"error: {error.format_message()}", file=sys.stderr)
        return error.exit_code
    except MlossError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("error: interrupted; nothing was written", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone: nobody to tell
        return 1
    return 0


def _program() -> str:
    """How the command line was called."""
    return "mloss" if Path(sys.argv[0]).stem == "mloss" else "python -m mloss_core"


def _usage(error: click.UsageError) -> str:
    """What of the command line could not be read, in one line, and where help is."""
    message = " ".join(error.format_message().split()).rstrip(".")
    place = error.ctx.command_path if error.ctx else _program()
    return f"{message}; see {place} --help"
