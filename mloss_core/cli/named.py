"""The class of all commands: errors name an option by what was typed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import click

from ..errors import InputError
from ..hardware.out_of_memory import reported_memory


class Refused(click.ClickException):
    """Bad input, in one line that names the option."""

    exit_code = InputError.exit_status


class Command(click.Command):
    """A command whose errors call a field by the option or argument that it was given by."""

    def make_context(self, *arguments: Any, **extra: Any) -> click.Context:
        """Parses the arguments."""
        with self._named_options():
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        with self._named_options(), reported_memory(ctx.params.get("device", "cpu")):
            return super().invoke(ctx)

    @contextlib.contextmanager
    def _named_options(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            raise Refused(error.named(self._option(error.field))) from error

    def _option(self, field: str) -> str:
        """The option of that field, or the word that stands for an argument in the usage line."""
        for param in self.params:
            if param.name == field:
                option = isinstance(param, click.Option)
                return param.opts[0] if option else param.human_readable_name
        return field
