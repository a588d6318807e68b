"""Link fields of the Lab: what is learnt, how, and with whom it is merged on the way."""

from __future__ import annotations

from dataclasses import replace

from mloss_core.fields import Field
from mloss_core.training.settings import SETTINGS

OF_SETTINGS = {name: f"lab_{name}" for name in SETTINGS}
FIELDS = (
    Field(name="lab_task", label="Task to learn"),
    *(replace(field, name=OF_SETTINGS[name]) for name, field in SETTINGS.items()),
    Field(name="lab_others", label="Sources to merge it with"),
    Field(name="lab_job", label="Job of the fine-tune"),
    Field(name="along_job", label="Job of the merges along it"),
)
