"""The commands rerun and export, and the model card of a merge."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click
from safetensors.torch import load_file

from ..atomic_files import check_output
from ..checkpoints.export import write_folder
from ..errors import BadFile, MlossError, UnknownName
from ..families.family import load
from ..runs.card import card, model_card
from ..runs.layout import as_bad_file
from ..runs.rerun import TOLERANCE, Rerun, again, checked, compare
from ..runs.store import load_run
from ..runs.write import versions
from ..types import Finished
from .options import command, device_option, out_option, step_bar

FORMATS = ("hugging-face",)
SHOWN = 10  # differing tensors that are named


RUN = click.argument("run", metavar="RUN")


@command()
@RUN
@device_option
def rerun(run: str, device: str, as_json: bool) -> None:
    """Does a finished run again and compares the bytes."""
    record = load_run(run)
    family = checked(record)
    result = compare(record, list(step_bar(again(record, family, device), hidden=as_json)))
    if as_json:
        differing = {k: v if math.isfinite(v) else None for k, v in result.differing.items()}
        gap = result.score_gap if math.isfinite(result.score_gap) else None
        row = {**vars(result), "run": record.id, "agrees": result.agrees, "differing": differing}
        row |= {"score_gap": gap, "score_tolerance": TOLERANCE}
        print(json.dumps(row))
    else:
        for line in _lines(result):
            print(line)
    if not result.agrees:
        raise MlossError(f"run {record.id}: {_difference(result)}")


def _lines(result: Rerun) -> list[str]:
    """Lines of text on what was compared, and what of it differs."""
    compared = [
        (result.tensors, "tensors of the model"),
        (result.scores, "blocks' scores"),
        (result.judged, "counts of correct answers"),
    ]
    lines = [f"compared {', '.join(f'{n} {what}' for n, what in compared if n)}"]
    if result.scores:
        lines.append(
            f"scores are at most {result.score_gap:.1e} of their block's largest apart; up to "
            f"{TOLERANCE:.0e} is rounding (another number of threads)"
        )
    if result.agrees:
        agreed = (
            (result.tensors, "all bytes of the tensors"),
            (result.scores, "all scores"),
            (result.judged, "all counts"),
        )
        return [*lines, f"agree: {', '.join(what for n, what in agreed if n)}"]
    worst = sorted(result.differing.items(), key=lambda pair: -pair[1])
    lines += [f"differs by at most {gap:.3g}: {name}" for name, gap in worst[:SHOWN]]
    lines += [f"and {len(worst) - SHOWN} more"] * (len(worst) > SHOWN)
    return lines + [f"counted {a}, now {b}: {n}" for n, (a, b) in result.miscounted.items()]


def _difference(result: Rerun) -> str:
    words = []
    if result.differing:
        largest = max(result.differing.values())
        of = result.tensors + result.scores
        words.append(f"{len(result.differing)} of {of} tensors and blocks' scores differ")
        words.append(f"by at most {largest:.3g}")
    if result.miscounted:
        words.append(f"{len(result.miscounted)} of {result.judged} counts differ")
    return f"{', '.join(words)}; use the versions and the device of the run to compare"


@command()
@RUN
@out_option("The folder to write.", required=True)
@click.option(
    "--as", "format", default="hugging-face", metavar="NAME",
    help="hugging-face, the only one yet.  [default: hugging-face]",
)  # fmt: skip
def export(run: str, out: Path, format: str, as_json: bool) -> None:
    """Writes a run's model as a folder of another library, with its card."""
    if format not in FORMATS:
        raise UnknownName("format", format, FORMATS)
    check_output(out)
    record = load_run(run)
    if record.model is None:
        problem = "holds no merged model"
        raise BadFile("run", run, problem, "choose a finished merge that left one model")
    family = load(record.metadata["recipe"]["family"])
    with as_bad_file(record.id):
        tensors = load_file(record.model)
    if {name: tuple(t.shape) for name, t in tensors.items()} != family.model.shapes():
        problem = f"does not fit the family {family.name} as it is now"
        raise BadFile("run", run, problem, "bring the family back that it was merged from")
    text = model_card(record, transformers=True)
    write_folder(out, tensors, family.model, record.metadata, text)
    row = {"run": record.id, "written": str(out), "tensors": len(tensors)}
    print(json.dumps(row) if as_json else f"exported {record.id} -> {out}")


def write_card(out: Path, finished: Finished) -> None:
    """Writes the card beside the file that `merge --card` has written."""
    provenance = f"Merged on {finished.device}"
    text = card(finished.metadata, accuracies={}, versions=versions(), provenance=provenance)
    path = out.with_suffix(".md")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        problem = f"cannot be written ({error})"
        raise BadFile("card", path, problem, "free space or go elsewhere") from error
