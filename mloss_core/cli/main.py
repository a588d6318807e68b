"""The command line's group of commands, and how every mistake ends.

Exit status 0 when done, 2 for bad input, 1 for anything else that went wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from ..errors import MlossError
from ..version import __version__
from . import app, compatibility, experiment, families, merging, preparing, runs, training


@click.group(no_args_is_help=False, context_settings={"max_content_width": 100})
@click.version_option(__version__, prog_name="mloss")
def commands() -> None:
    """Measures M-Loss between fine-tuned CLIP models, merges them and evaluates the result."""


for _command in (
    *(families.families, preparing.fetch, preparing.heads, preparing.pool, merging.convert),
    *(merging.score, merging.merge, merging.evaluate, experiment.experiment),
    *(training.finetune_command, compatibility.compatibility, runs.rerun, runs.export, app.app),
):
    commands.add_command(_command)


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
