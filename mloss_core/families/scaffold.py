"""Creation of a family.toml for a folder of models, with comments on what to fill in."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from ..atomic_files import written
from ..checkpoints import read as formats
from ..checkpoints.image_tower import Checkpoint
from ..checkpoints.preprocessing import MEAN, STD
from ..data.benchmarks import alike
from ..data.calibration import owners_of
from ..data.tasks import read_npz
from ..errors import BadFile
from .layouts import TOML, Layout, layout

ASSUMED = "assumed to be CLIP's, for nothing beside the base tells them"


def scaffold(folder: Path) -> str:
    """Writes FOLDER/family.toml and returns its text; unknown settings stay comments.

    Raises:
        BadFile: the folder is missing or holds no models, or describes itself already.
    """
    if not folder.is_dir():
        raise BadFile("init", folder, "is no folder", "check the path")
    for name in ("family.json", TOML):
        if (folder / name).exists():
            raise BadFile("init", folder / name, "exists and is never overwritten", "edit it")
    parts = layout(folder)
    if parts.base is None and not parts.sources:
        raise BadFile("init", folder, "holds no models", "see docs/format.md")
    text = "\n".join([*_base_lines(parts, folder), "", *_source_lines(parts, folder)]) + "\n"
    with written(folder / TOML, "init") as aside:
        aside.write_text(text, encoding="utf-8")
    return text


def _base_lines(parts: Layout, folder: Path) -> list[str]:
    """Lines of family.toml on the base, its architecture and its activation."""
    if parts.base is None:
        names = ", ".join(path.name for path in parts.sources.values())
        return [
            f"# Which of these is the base could not be told: {names}",
            '# base = "FILE"',
            '# base = "ViT-B-32-quickgelu/openai"  # or such a name of open_clip; fetch brings it',
        ]
    base = Checkpoint.open(parts.base, "base")
    architecture = formats.architecture(base.shapes, base.config)
    lines = [
        f"# {architecture.blocks} blocks, width {architecture.width}, "
        f"{architecture.image_size} pixels, patches of {architecture.patch_size}, {base.dialect}",
        f"base = {_text(parts.base.relative_to(folder).as_posix())}",
    ]
    activation = [
        '# Could not be told: "quick_gelu" (OpenAI\'s CLIP and what was tuned from it) or "gelu".',
        '# activation = "quick_gelu"',
    ]
    if architecture.activation:
        activation = [f"activation = {json.dumps(architecture.activation)}"]
    lines += activation
    mean, std = base.normalisation or (MEAN, STD)
    told = "as the files beside the base say" if base.normalisation else ASSUMED
    return [*lines, f"# Of pixels, {told}:", f"mean = {list(mean)}", f"std = {list(std)}"]


def _source_lines(parts: Layout, folder: Path) -> list[str]:
    """Lines of family.toml on the sources, and on adding calibration images and tasks."""
    paths = ((name, path.relative_to(folder).as_posix()) for name, path in parts.sources.items())
    lines = [f"{_text(name)} = {_text(path)}" for name, path in paths]
    return [
        '# calibration = "FOLDER"  # any folder of pictures, or an .npz; default calibration.npz',
        *_pool_lines(parts),
        "",
        "[sources]",
        *lines,
        "",
        *_task_lines(parts, folder),
    ]


def _pool_lines(parts: Layout) -> list[str]:
    """A line on the sources of which a pool that lies there already holds no image."""
    if not parts.calibration.is_file():
        return []
    held = owners_of(read_npz(parts.calibration, "calibration", ("tasks",))["tasks"])
    missing = [name for name in parts.sources if name not in held]
    if not missing:
        return []
    return [
        f"# It holds no image of {', '.join(missing)}: name the tasks below that these were tuned "
        "on, or make it anew."
    ]


def _text(name: str) -> str:
    """A text as TOML writes it: as JSON does, but for letters beyond its first plane."""
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")


def _task_lines(parts: Layout, folder: Path) -> list[str]:
    """Lines of family.toml on adding tasks: test images and heads."""
    datasets, name = (
        {source: alike(source) for source in parts.sources},
        shlex.quote(folder.resolve().name),
    )
    lines = [
        f"# [[tasks]]\n# name = {_text(source)}\n# dataset = {json.dumps(dataset)}"
        for source, dataset in datasets.items()
        if dataset
    ]
    dataset_lines = [
        "# Datasets of torchvision, by the sources' names; fetch downloads them:",
        *lines,
    ]
    return [
        *(dataset_lines if lines else ()),
        "# A task with images in tasks/NAME.npz, or in tasks/NAME/test/CLASS/:",
        "# [[tasks]]",
        '# name = "NAME"',
        '# Then run (for heads of a base without text tower, write text = "FILE" at the top):',
        *(f"# python -m mloss_core {word} {name}" for word in ("fetch", "heads", "pool")),
    ]
