"""Link fields of the Methods page."""

from __future__ import annotations

from mloss_core import METHODS
from mloss_core.fields import Field, Number
from views.state.checked import Checked

# The ensemble is what merges are compared with.
COMPARED = tuple(name for name in METHODS if name != "ensembling")
FIRST = ("ties", "iso-c", "tsv-m", "fit", "m-ties")


def listed(value: str) -> tuple[str, ...]:
    """The methods of a link's text, each once."""
    return tuple(dict.fromkeys(filter(None, value.split(","))))


def _check(value: str) -> None:
    strange = [name for name in listed(value) if name not in COMPARED]
    if strange:
        raise ValueError(f"{strange[0]} is no method; choose from {', '.join(COMPARED)}")


FIELDS = (
    Checked(
        name="methods",
        label="Methods to compare",
        help="Each is merged once at its published settings and measured on all test images.",
        default=",".join(FIRST),
        rule=_check,
    ),
    Number(
        name="budget",
        label="Budget in seconds",
        help="Empty: no limit. A method that took longer than what is left is skipped; one that "
        "was never measured here is stopped when the seconds are over. What is on disk is free.",
        default=None,
        low=0,
        above=True,
        allowed="seconds above 0, such as 60, or leave it out",
        optional=True,
    ),
    Field(name="compare_job", label="Job of the comparison"),
)
