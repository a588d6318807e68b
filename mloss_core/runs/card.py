"""Model cards of merged models, in Markdown with Hugging Face's front matter."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import MlossError
from ..evaluation.evaluator import mean_of
from ..families.family import Family, load
from ..fields import FIELDS
from ..methods import METHODS
from ..text import markdown_table
from ..types import Accuracy
from .layout import as_bad_file
from .record import RunRecord

APART = ("family", "method", "sources", "weights")
MODELS = {
    "merged": "this model",
    "base": "base",
    "own": "the task's own source",
    "ties": "TIES, same k",
    "ensembling": "ensemble of the sources",
}
OPEN_CLIP = """```python
import torch
from safetensors.torch import load_file

# `clip` is the open_clip model whose image tower was merged, e.g. from open_clip.create_model(...)
tower = {name.removeprefix("visual."): t for name, t in load_file("FILE").items()}
clip.visual.load_state_dict(tower)
```"""
TRANSFORMERS = """```python
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

model = CLIPVisionModelWithProjection.from_pretrained("FOLDER")
images = CLIPImageProcessor.from_pretrained("FOLDER")
```"""


def model_card(run: RunRecord, *, transformers: bool = False) -> str:
    """The card of a run's merged model.

    Args:
        transformers: whether it stands in a folder that transformers loads.

    Raises:
        BadFile: the run's hits cannot be read, or its recipe is none.
    """
    with as_bad_file(run.id):  # metadata may hold values of any kind where a recipe has its own
        return card(
            run.metadata,
            accuracies=run.accuracies,
            versions=run.versions,
            provenance=f"Merged on {run.created[:10]} on {run.device}" if run.device else "",
            title=run.title,
            transformers=transformers,
        )


def card(
    metadata: Mapping[str, Any],
    *,
    accuracies: Mapping[str, Mapping[str, Accuracy]],
    versions: Mapping[str, str],
    provenance: str = "",
    title: str | None = None,
    transformers: bool = False,
) -> str:
    """The model card, in Markdown, of a merge that `recipe.provenance` describes.

    Args:
        accuracies: of each model on each task; empty where none were measured.
        versions: of Python and the libraries that did it.
    """
    recipe = metadata["recipe"]
    try:
        family = load(recipe["family"])
    except MlossError:  # a card is written also where the family has gone since
        family = None
    method = METHODS.get(recipe["method"])
    name = title or f"{method.title if method else recipe['method']} of {recipe['family']}"
    parts = [
        _front_matter(recipe, family, bool(accuracies), transformers),
        f"# {_plain(name)}",
        f"One CLIP image tower, merged from {len(recipe['sources'])} fine-tunes of one base by "
        f"{method.title if method else recipe['method']}"
        + (f" ({method.paper}). {method.explanation}" if method else "."),
        provenance
        and f"{provenance}, with mloss {metadata.get('version', 'of an unknown version')}.",
        "## Sources",
        _sources(metadata, family),
        "## Recipe",
        _recipe(recipe),
        "## Calibration",
        _calibration(metadata),
        "## Accuracies",
        _accuracies(accuracies, family),
        "## How to load it",
        TRANSFORMERS if transformers else OPEN_CLIP,
        "## Versions",
        _table(("software", "version"), versions.items())
        if versions
        else "Not recorded beyond the version of mloss.",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _front_matter(
    recipe: Mapping[str, Any], family: Family | None, evaluated: bool, transformers: bool
) -> str:
    """Hugging Face's front matter: YAML between dashes, with values written as JSON."""
    about = family.about if family else {}
    declared = about.get("license")
    fields: dict[str, Any] = {
        "license": declared if isinstance(declared, str) else "other",
        "library_name": "transformers" if transformers else "open_clip",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["clip", "merge", "model-merging", recipe["method"], recipe["family"]],
    }
    if not isinstance(declared, str):
        fields["license_name"] = "unknown"
    if isinstance(about.get("base_model"), str):
        fields |= {"base_model": about["base_model"], "base_model_relation": "merge"}
    if evaluated:
        fields["metrics"] = ["accuracy"]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _sources(metadata: Mapping[str, Any], family: Family | None) -> str:
    recipe = metadata["recipe"]
    names, hashes = recipe["sources"], metadata.get("sources", {})
    alpha = recipe.get("weights") or [1 / len(names)] * len(names)
    base = (family and family.about.get("base")) or "base"
    rows = [(f"{base} (the base)", "", metadata.get("base", "unknown"))]
    for name, weight in zip(names, alpha, strict=True):
        rows.append((name, f"{weight:.4g}", hashes.get(name, "unknown")))
    return _table(("model", "merging weight α", "SHA-256 of its file"), rows)


def _recipe(recipe: Mapping[str, Any]) -> str:
    rows = [("family", recipe["family"]), ("method", recipe["method"])]
    for key, value in recipe.items():
        if key not in APART:
            words = FIELDS[key].words(value) if key in FIELDS else ""
            rows.append((field_name(key), words or setting(value)))
    return _table(("setting", "value"), rows)


def field_name(key: str) -> str:
    """A recipe field as people read it; one that is not in the table goes by its own name."""
    if key not in FIELDS:  # of a newer version
        return key
    label = FIELDS[key].label
    return label[0].lower() + label[1:]


def setting(value: object) -> str:
    """A recipe field's value formatted for people."""
    if value is None:
        return "all"
    if isinstance(value, list | tuple):
        return ", ".join(map(setting, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _calibration(metadata: Mapping[str, Any]) -> str:
    digest, recipe = metadata.get("calibration"), metadata["recipe"]
    if not digest:
        return "None: the method reads no images."
    drawn = "given images"
    if "samples" in recipe:
        drawn = f"{recipe['samples']} unlabeled images, drawn with seed {recipe.get('seed')}"
    return f"M-Loss was measured on {drawn}; SHA-256 of their shape and bytes: `{digest}`."


def _accuracies(accuracies: Mapping[str, Mapping[str, Accuracy]], family: Family | None) -> str:
    """The Markdown table of every model's accuracy on every task, with Wilson's 95 % intervals."""
    models = [model for model in MODELS if model in accuracies]
    if not models:
        return "Not measured."
    tasks = list(accuracies[models[0]])
    rows = []
    for task in tasks:
        cells = [accuracies[model].get(task) for model in models]
        rows.append((family.title(task) if family else task, *map(_cell, cells)))
    means = [mean_of(accuracies[m]) if accuracies[m].keys() == set(tasks) else None for m in models]
    rows.append(("average", *(f"{_range(*mean)}" if mean else "" for mean in means)))
    table = _table(("task", *(MODELS[model] for model in models)), rows)
    said = "Accuracy on test images with 95 % interval (a task's is Wilson's) and correct / total."
    return f"{said}\n\n{table}"


def _cell(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return ""
    share = _range(accuracy.rate, *accuracy.interval())
    return f"{share}, {accuracy.correct} / {accuracy.total}"


def _range(mean: float, low: float, high: float) -> str:
    return f"{mean:.1%} ({low:.1%} to {high:.1%})"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    return markdown_table(heads, [[_plain(cell) for cell in row] for row in rows])


def _plain(value: object) -> str:
    """Text with Markdown's special characters escaped."""
    text = " ".join(str(value).split())
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", text)
