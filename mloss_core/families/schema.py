"""Validation of family.toml and family.json before any of the family's files is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..data.benchmarks import benchmarks
from ..errors import BadValue, UnknownName

TEXTS = ("title", "description", "calibration", "text", "license", "base_model")
KINDS = ("source", "out-of-domain")


def check(about: Mapping[str, Any], file: str) -> None:
    """Raises BadValue or UnknownName, naming the key, for an invalid value of family.toml.

    Args:
        file: what messages call it.
    """
    for key in TEXTS:
        _check_text(about, key, file)
    _check_texts(about, "skip", file)
    part = about.get("part", {})
    if not isinstance(part, Mapping) or not all(isinstance(word, str) for word in part.values()):
        remedy = 'write SOURCE = "NAME" below [part]'
        raise BadValue(f"part of {file}", part, "is no table of texts", remedy)
    names = [task["name"] for task in about["tasks"]]
    for task in about["tasks"]:
        name = task["name"]
        if not isinstance(name, str) or not name or name[0] == "." or set(name) & set("/\\\0"):
            problem = "is no plain name"
            raise BadValue(f"task name in {file}", name, problem, "name it as its files")
        if names.count(name) > 1:
            raise BadValue(f"task name in {file}", name, "is there twice", "name each task once")
        _check_task(task, f"task {name} in {file}")


def _check_task(task: Mapping[str, Any], place: str) -> None:
    for key in ("title", "kind", "dataset", "template"):
        _check_text(task, key, place)
    for key in ("classes", "templates", "sources"):
        _check_texts(task, key, place)
        if task.get(key) == []:
            raise BadValue(f"{key} of {place}", "[]", "is empty", "name one, or leave it out")
    if task.get("kind", "source") not in KINDS:
        raise UnknownName(f"kind of {place}", task["kind"], KINDS)
    if "dataset" in task:
        if task["dataset"] not in benchmarks():
            raise UnknownName(f"dataset of {place}", task["dataset"], benchmarks())
        need, have = len(benchmarks()[task["dataset"]].classes), len(task.get("classes", ()))
        if "classes" in task and have != need:
            problem, remedy = f"are not as many as {task['dataset']} has", f"give {need}"
            raise BadValue(f"classes of {place}", have, problem, remedy)
    if len(set(task.get("classes", ()))) < len(task.get("classes", ())):
        raise BadValue(f"classes of {place}", task["classes"], "hold one twice", "name each once")
    for template in [*task.get("templates", ()), *filter(None, [task.get("template")])]:
        if template.count("{}") != 1 or set(template.replace("{}", "")) & set("{}"):
            remedy = "write {} once, where the class goes"
            raise BadValue(f"template of {place}", template, "has no single {}", remedy)


def _check_text(table: Mapping[str, Any], key: str, place: str) -> None:
    if key in table and (not isinstance(table[key], str) or not table[key].strip()):
        raise BadValue(f"{key} of {place}", table[key], "is no text", f'write {key} = "..."')


def _check_texts(table: Mapping[str, Any], key: str, place: str) -> None:
    value = table.get(key, ["-"])
    if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
        remedy = f'write {key} = ["...", "..."]'
        raise BadValue(f"{key} of {place}", value, "is no list of texts", remedy)
