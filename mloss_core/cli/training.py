"""The command finetune."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from tqdm import tqdm

from ..atomic_files import check_output
from ..checkpoints.image_tower import save
from ..data.names import listed
from ..errors import BadValue, MlossError
from ..families.family import Family, load
from ..fields import Choice, Number, parse_blocks
from ..hardware import device as devices
from ..training.events import Begun, Diverged, Looked, Stepped, TrainingEvent, Tuned, event_json
from ..training.finetune import finetune, fingerprint, provenance
from ..training.head import HEADS
from ..training.keep_as import check_target, keep_as
from ..training.keeping import usual_folder
from ..training.lesson import Lesson, of_pictures, of_task, renamed
from ..training.settings import SETTINGS, Finetune
from .options import (
    PLACE,
    FieldType,
    Function,
    command,
    device_option,
    family_option,
    out_option,
    parse_sources,
    step_bar,
)

LONG = 60  # seconds from which it is told beforehand how long it will take
USUAL = {"warm_up": "a tenth of the steps", "blocks": "all"}


@dataclass(kw_only=True)
class Call:
    """What finetune was called with, and what came of it so far.

    Args:
        own: the folder of checkpoints that was given; None for the usual one.
        target: family and source to keep the result as.
    """

    settings: Finetune
    family: Family
    lesson: Lesson
    device: str
    own: Path | None
    out: Path | None
    target: tuple[str, str] | None
    beside: tuple[str, ...]
    as_json: bool
    looks: list[Looked] = field(default_factory=list)
    step: int = 0
    loss: float = math.nan

    @property
    def folder(self) -> Path:
        """Where checkpoints are kept."""
        if self.own is not None:
            return self.own
        place = devices.choose(self.device)
        about = provenance(self.settings, self.family, self.lesson, place)
        return usual_folder(fingerprint(about))


def _settings(function: Function) -> Function:
    """The options of every setting of a fine-tune."""
    for name, entry in reversed(SETTINGS.items()):
        parsed = FieldType(entry) if isinstance(entry, Number | Choice) else str
        default = "all" if name == "blocks" else entry.default
        words = f" One of {', '.join(entry.choices)}." if entry.choices else ""
        usual = USUAL.get(name) or entry.format(entry.default)
        function = click.option(
            entry.flag, name, type=parsed, default=default, metavar=entry.unit.upper(),
            help=f"{entry.help}{words}  [default: {usual}]",
        )(function)  # fmt: skip
    return function


def _places(function: Function) -> Function:
    """The options of what is learnt and of where it goes."""
    options = (
        click.option("--task", metavar="NAME", help="A task of the family to learn."),
        click.option(
            "--pictures", type=PLACE, metavar="PATH",
            help="Instead of a task: a folder of a folder per class, or a .zip of it.",
        ),
        click.option("--name", default="", metavar="NAME", help="Of the pictures' task."),
        click.option(
            "--head", default="auto", metavar="NAME",
            help=f"Of pictures: {', '.join(HEADS)}.  [default: auto]",
        ),
        click.option(
            "--skip-damaged", is_flag=True, help="Leave pictures out that cannot be decoded."
        ),
        click.option(
            "--keep-in", type=PLACE, metavar="FOLDER",
            help="Keep the checkpoints there; a fine-tune that was stopped goes on from them.",
        ),
        click.option(
            "--keep-as", metavar="FAMILY/NAME",
            help="Keep the result as a source of a family of yours.",
        ),
        click.option(
            "--beside", default="none", metavar="NAMES",
            help="Sources that a new family of --keep-as gets, too: all, or names with commas.  "
            "[default: none]",
        ),
        click.option("--threads", type=click.IntRange(1), metavar="NUMBER", help="Of the CPU."),
        out_option("The .safetensors to write."),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


@command(name="finetune")
@family_option
@_places
@_settings
@device_option
def finetune_command(
    family: str,
    device: str,
    out: Path | None,
    keep_in: Path | None,
    keep_as: str | None,
    beside: str,
    threads: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Fine-tunes the base's image tower on a task, or on pictures of your own."""
    if threads is not None:
        torch.set_num_threads(threads)
    models, target = load(family), _target(keep_as)
    if out is None and target is None:
        raise BadValue("out", "", "is missing", "name a file, or give --keep-as")
    if out is not None:
        check_output(out)
    values = {name: given[name] for name in SETTINGS}
    values["blocks"] = parse_blocks(given["blocks"], models.model.blocks)
    call = Call(
        settings=Finetune(**values), family=models, lesson=_lesson(models, given), device=device,
        own=keep_in, out=out, target=target,
        beside=() if beside == "none" else parse_sources(beside, models), as_json=as_json,
    )  # fmt: skip
    if target is not None:
        check_target(models, call.lesson, *target, call.beside)
    tuned = _trained(call)
    _keep(call, tuned)


def _target(text: str | None) -> tuple[str, str] | None:
    """Family and source of "FAMILY/NAME"; raises BadValue."""
    if text is None:
        return None
    family, slash, source = text.partition("/")
    if not (family.strip() and slash and source.strip()):
        problem = "does not name a family and a source"
        raise BadValue("keep_as", text, problem, "write FAMILY/NAME")
    return family, source


def _lesson(family: Family, given: dict[str, Any]) -> Lesson:
    """What is learnt: a task, or pictures; raises InputError."""
    task, pictures = given["task"], given["pictures"]
    if (task is None) == (pictures is None):
        shown = f"{task} and {pictures}" if task else "neither"
        raise BadValue("task", shown, "is not one of --task and --pictures", "give one of them")
    if task is not None:
        return of_task(family, task)
    lesson = of_pictures(pictures, family, head=given["head"], skip_damaged=given["skip_damaged"])
    return renamed(lesson, given["name"]) if given["name"] else lesson


def _trained(call: Call) -> Tuned:
    """The result, after everything that is said on the way."""
    tuned = None
    events = finetune(call.settings, call.family, call.lesson, call.folder, device=call.device)
    try:
        for event in step_bar(_said(call, events), hidden=call.as_json):
            if isinstance(event, Tuned):
                tuned = event
    except KeyboardInterrupt as error:
        words = f"interrupted after step {call.step}; the same command goes on from the last"
        raise MlossError(f"{words} checkpoint, in {call.folder}") from error
    assert tuned is not None, "it is the last event"
    return tuned


def _said(call: Call, events: Iterator[TrainingEvent]) -> Iterator[Any]:
    """The events, each printed as it comes."""
    for event in events:
        if call.as_json:
            print(json.dumps(event_json(event)), flush=True)
        if isinstance(event, Stepped):
            call.step, call.loss = event.step, event.loss
        elif isinstance(event, Looked):
            call.looks.append(event)
            if not call.as_json:
                tqdm.write(_line(call, event), file=sys.stdout)
        else:
            for words in _warnings(event, call.as_json):
                tqdm.write(words, file=sys.stderr)
        yield event


def _line(call: Call, look: Looked) -> str:
    """A look at the held-out pictures in a line."""
    a, loss = look.accuracy, "" if math.isnan(call.loss) else f"loss {call.loss:.4f}"
    low, high = look.distances.min(), look.distances.max()
    return (
        f"step {look.step:>6}  {loss:<12}  held out {a.correct}/{a.total} ({a.rate:.1%})  "
        f"blocks moved {low:.4f} to {high:.4f}"
    )


def _warnings(event: TrainingEvent, as_json: bool) -> Iterator[str]:
    """What must be said beside the results."""
    if isinstance(event, Begun):
        if event.skipped:
            yield f"warning: skipped damaged pictures: {listed(event.skipped)}"
        if event.resumed and not as_json:
            yield f"going on after step {event.resumed} of {event.steps}"
        if event.expected is not None and event.expected > LONG and not as_json:
            minutes = max(1, round(event.expected / 60))
            yield f"this will take about {minutes} min: {event.a_step:.2g} s a step"
    elif isinstance(event, Diverged):
        yield (
            f"warning: the loss is no number at step {event.step}: the result is that of step "
            f"{event.kept}; lower the learning rate"
        )


def _keep(call: Call, tuned: Tuned) -> None:
    """Writes the result where it was asked for; the checkpoints go where nobody asked for them."""
    places = []
    if call.out is not None:
        save(call.out, tuned.weights, tuned.metadata)
        places.append(str(call.out))
    if call.target is not None:
        folder = keep_as(
            call.family, call.lesson, tuned.weights, tuned.metadata, *call.target, call.beside
        )
        places.append(str(folder))
    if call.own is None:
        shutil.rmtree(call.folder, ignore_errors=True)
    if not call.as_json:
        first, last = call.looks[0].accuracy, call.looks[-1].accuracy
        print(
            f"fine-tuned on {call.lesson.title} ({call.lesson.head_from} head) on {tuned.device} "
            f"in {tuned.seconds:.1f} s: held out {first.correct}/{first.total} -> "
            f"{last.correct}/{last.total} -> {', '.join(places)}"
        )
