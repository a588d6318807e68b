"""Link fields of the Lab: what is learnt, how, and with whom it is merged on the way."""

from __future__ import annotations

from dataclasses import replace

from mloss_core import Family
from mloss_core.fields import Choice, Field
from mloss_core.training.settings import SETTINGS
from views.state.checked import Checked

OWN = "own pictures"  # instead of a task
WAYS = {
    "draw": "Draw them",
    "files": "Files, class by class",
    "zip": "A .zip",
    "folder": "On this server",
}
DURING = {"": "for small families", "on": "on", "off": "off"}
OF_SETTINGS = {name: f"lab_{name}" for name in SETTINGS}


def listed(value: str) -> tuple[str, ...]:
    """The names of a link's text, each once."""
    return tuple(dict.fromkeys(filter(None, value.split(","))))


def _check_others(value: str, sources: tuple[str, ...] = ()) -> None:
    strange = [name for name in listed(value) if sources and name not in sources]
    if strange:
        raise ValueError(f"{strange[0]} is no source; choose from {', '.join(sources)}")


def _check_folder(value: str) -> None:
    if value and (value.startswith(".") or set(value) & set("/\\\0")):
        raise ValueError("give the name of what lies in the folder of models")


FIELDS = (
    Field(name="lab_task", label="What is learnt"),
    Choice(name="lab_from", label="Pictures", default="draw", choices=WAYS),
    Checked(name="lab_folder", label="Folder or .zip", rule=_check_folder),
    *(replace(field, name=OF_SETTINGS[name]) for name, field in SETTINGS.items()),
    Checked(name="lab_others", label="Merge it with", rule=_check_others),
    Choice(name="lab_during", label="Merge it while it trains", choices=DURING),
    Field(name="lab_job", label="Job of the fine-tune"),
    Field(name="along_job", label="Job of the merges along it"),
)
_BY_NAME = {field.name: field for field in FIELDS}


def tasks(family: Family) -> dict[str, str]:
    """What can be learnt, with titles."""
    return {name: family.title(name) for name in family.tasks} | {OWN: "Pictures of my own"}


def of_family(family: Family) -> dict[str, Field]:
    """The fields whose values only the family knows."""
    task, blocks, others = (_BY_NAME[f"lab_{name}"] for name in ("task", "blocks", "others"))
    return {
        "lab_task": Choice(name=task.name, label=task.label, choices={"": ""} | tasks(family)),
        "lab_blocks": replace(blocks, count=family.model.blocks),
        "lab_others": Checked(
            name=others.name, label=others.label,
            rule=lambda value: _check_others(value, family.sources),
        ),
    }  # fmt: skip
