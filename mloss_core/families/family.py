"""Model families on disk: loading, and access to their parts.

A family is a folder under assets/zoo or $MLOSS_MODELS (default ./models), laid out as
docs/format.md says or as other tools leave it (`layouts`).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..architecture import ViTConfig
from ..checkpoints import read as formats
from ..checkpoints.image_tower import Checkpoint, read_through
from ..checkpoints.preprocessing import MEAN, STD
from ..data.benchmarks import benchmarks
from ..data.prompts import Prompts
from ..data.tasks import Task
from ..errors import BadFile, BadTensor, InputError, UnknownName
from ..text import normal
from . import download, heads, schema
from .folders import find
from .layouts import OWN, TOML, Layout, layout, unbroken
from .tasks import read_prompts, read_task

LOGIT_SCALE = 100.0  # of all CLIPs that OpenAI trained


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models in a folder: base, sources, heads, tasks and calibration images.

    Args:
        sources: names of the sources, in the order of the tasks where they have one.
        opened: checkpoints opened and audited so far, by source name, the base's None; shared by
            all who load this folder, and checked for changes by `refresh`.
    """

    model: ViTConfig
    folder: Path
    parts: Layout
    sources: tuple[str, ...]
    opened: dict[str | None, Checkpoint] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The folder's name, by which the family is chosen."""
        return normal(self.folder.name)

    @property
    def about(self) -> Mapping[str, Any]:
        """The content of family.json or family.toml."""
        return self.parts.about

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks, source tasks first."""
        return tuple(task["name"] for task in self.about["tasks"])

    def title(self, task: str) -> str:
        """A task's or source's name as shown to people."""
        return self._task(task).get("title", task)

    def own_task(self, source: str) -> str:
        """The task that a source was fine-tuned on, by the task's `sources` or by name.

        A source of which no task says so goes by its own name.
        """
        named = (t["name"] for t in self.about["tasks"] if source in t.get("sources", [t["name"]]))
        return next(named, source)

    def own_source(self, task: str, preferred: Iterable[str] = ()) -> str:
        """The first source that was fine-tuned on the task, preferred ones before others."""
        candidates = (*preferred, *self.sources)
        return next(source for source in candidates if self.own_task(source) == task)

    def own_tasks(self, sources: Iterable[str]) -> tuple[str, ...]:
        """The tasks that any of these sources was fine-tuned on, in their order."""
        wanted = {self.own_task(source) for source in sources}
        return tuple(task for task in self.tasks if task in wanted)

    def pool_tasks(self, sources: Iterable[str]) -> tuple[str, ...]:
        """The tasks by whose names the calibration pool holds pictures for these sources."""
        return tuple(dict.fromkeys(self.own_task(source) for source in sources))

    def kind(self, task: str) -> str:
        """ "source" if a source was fine-tuned on the task, else "out-of-domain"."""
        benchmark = benchmarks().get(self._task(task).get("dataset", ""))
        return self._task(task).get("kind", benchmark.kind if benchmark else "source")

    def _task(self, name: str) -> Mapping[str, Any]:
        return next((t for t in self.about["tasks"] if t["name"] == normal(name)), {})

    def recommended(self, method: str) -> dict[str, float]:
        """Recommended k, e and lambda of a method, tuned on validation images."""
        settings = self.about.get("recommended", {})
        common = {k: v for k, v in settings.items() if k in ("keep", "variation", "scaling")}
        return common | settings.get(method, {})

    def refresh(self) -> None:
        """Drops the opened checkpoints whose files have changed: one look at each file's stamp."""
        changed = [name for name, checkpoint in self.opened.items() if checkpoint.changed()]
        # Sources were audited against the base.
        for name in list(self.opened) if None in changed else changed:
            del self.opened[name]

    def base(self) -> Checkpoint:
        """The base model's image tower, opened and audited once."""
        if None not in self.opened:
            base = self._audited_base()
            base.check_finite()
            self.opened[None] = base
        return self.opened[None]

    def source(self, name: str) -> Checkpoint:
        """A source's image tower, opened and audited against the base once.

        Raises:
            UnknownName: there is no such source.
            BadTensor: its tensors differ from the base's.
        """
        name = normal(name)
        if name not in self.sources:
            raise UnknownName("sources", name, self.sources)
        if name not in self.opened:
            source = self._audited(name, self.base())
            source.check_finite()
            self.opened[name] = source
        return self.opened[name]

    def _audited(self, name: str, base: Checkpoint) -> Checkpoint:
        """A source, opened and audited against the base but for its values."""
        part = self.parts.part(name)
        source = Checkpoint.open(self.parts.sources[name], f"source {name}", base, part)
        source.check_config(base, self.model)
        source.audit(self.model.shapes(), base)
        return source

    def _audited_base(self) -> Checkpoint:
        base = _base(self.folder, self.parts)
        base.audit(self.model.shapes())
        return base

    def read_through(self, names: Iterable[str]) -> None:
        """Hashes the base and these sources and looks for NaN in them, several files at a time and
        each read once; what is wrong with one is left to whoever asks for it."""
        with contextlib.suppress(InputError):
            audited = dict(self.opened)
            chosen = [name for name in map(normal, names) if name in self.sources]
            if None not in audited:
                audited[None] = self._audited_base()
            for name in chosen:
                if name not in audited:
                    audited[name] = self._audited(name, audited[None])
            read_through(audited[name] for name in (None, *chosen))
            for name in [name for name in audited if name not in self.opened]:  # the base first
                audited[name].check_finite()
                self.opened[name] = audited[name]

    def heads(self, device: torch.device) -> dict[str, Tensor]:
        """Zero-shot head of each task: classes x embedding, from head_*.pt or heads.safetensors."""
        loose = {task: path for task, path in self.parts.heads.items() if task in self.tasks}
        matrices = {task: formats.read_head(path) for task, path in loose.items()}
        rest = [task for task in self.tasks if task not in matrices]
        if rest:
            path = unbroken(self.folder, heads.FILE, f"heads of {self.name}")
            matrices |= heads.read_heads(path, self.name, rest, self.prompts, self.text_file)
        for task, head in matrices.items():
            if head.ndim != 2 or head.shape[1] != self.model.embed_dim:
                problem = f"has shape {tuple(head.shape)}"
                remedy = f"give classes x {self.model.embed_dim}"
                raise BadTensor(f"heads of {self.name}", task, problem, remedy)
        return {task: matrices[task].to(device, torch.float32) for task in self.tasks}

    @property
    def logit_scale(self) -> float:
        """What cosine similarities are multiplied by where probabilities are wanted."""
        return float(self.about.get("logit_scale", LOGIT_SCALE))

    @property
    def text_file(self) -> Path | None:
        """The checkpoint whose text tower heads are made from."""
        return self.parts.text or self.parts.base

    def prompts(self, name: str) -> Prompts:
        """Class names and prompt templates of a task; raises BadFile if nothing tells them."""
        return read_prompts(self.folder, self._task(name))

    def task(self, name: str, split: str = "test") -> Task:
        """A task's images and labels; raises UnknownName, BadFile."""
        name = normal(name)
        if name not in self.tasks:
            raise UnknownName("tasks", name, self.tasks)
        labels = {"name": name, "title": self.title(name), "kind": self.kind(name)}
        size, skipped = self.model.image_size, self.about.get("skip", ())
        loose = name in self.parts.heads
        return read_task(self.folder, self._task(name), split, size, skipped, loose, **labels)

    @property
    def assumed(self) -> tuple[str, ...]:
        """What of the pixels' mean and std nothing tells, so that CLIP's are taken."""
        if self.parts.describes_all or self.base().normalisation is not None:
            return ()
        return tuple(name for name in ("mean", "std") if name not in self.about)

    @property
    def calibration_pool(self) -> Path:
        """The file, or folder of pictures, of unlabeled training images."""
        return self.parts.calibration


_LOADED: dict[Path, Family] = {}  # the latest of each folder, for the checkpoints it has opened


def load(name: str) -> Family:
    """The family of that name.

    Raises:
        BadValue: the name is a path.
        UnknownName: no family is called so.
        BadFile: its parts or its architecture cannot be told.
    """
    return at(find(name))


def at(folder: Path) -> Family:
    """The family in that folder; raises BadFile as `load` does."""
    parts = layout(folder)
    tasks, sources = task_names(folder, parts), set(parts.sources)
    for name in parts.about.get("part", {}):
        if name not in ("base", *sources):
            raise UnknownName(f"part of {TOML}", name, ("base", *sorted(sources)))
    ordered = [task for task in tasks if task in sources] + sorted(sources - set(tasks))
    model = _model(folder, parts)
    former = _LOADED.get(folder)
    same = former is not None and (former.parts, former.model) == (parts, model)
    opened = former.opened if former is not None and same else {}
    family = Family(model=model, folder=folder, parts=parts, sources=tuple(ordered), opened=opened)
    family.refresh()
    _LOADED[folder] = family
    return family


def task_names(folder: Path, parts: Layout) -> list[str]:
    """Names of a family's tasks; raises InputError where its description is invalid."""
    try:
        names = [task["name"] for task in parts.about["tasks"]]
    except (KeyError, TypeError) as error:
        problem = f"has tasks that cannot be read ({error!r})"
        raise BadFile(f"{OWN} or {TOML} of", folder, problem, "see docs/format.md") from error
    schema.check(parts.about, OWN if parts.describes_all else TOML)
    return names


def _base(folder: Path, parts: Layout) -> Checkpoint:
    if parts.base is None:
        listed = ", ".join(parts.sources) or "no model at all"
        problem = f"does not tell which file is its base; it has {listed}"
        raise BadFile("family", folder, problem, f'write base = "FILE" into its {TOML}')
    name = str(parts.about.get("base", ""))
    if not parts.base.exists() and download.pretrained(name):
        by_hand = download.base_by_hand(name, folder)
        remedy = f"run python -m mloss_core fetch {folder.name}, or {by_hand}"
        raise BadFile(f"base of family {folder.name}", name, "was not fetched yet", remedy)
    return Checkpoint.open(parts.base, f"base of family {folder.name}", part=parts.part("base"))


def _model(folder: Path, parts: Layout) -> ViTConfig:
    """The architecture that family.json gives, or that the base's tensors and config imply."""
    about = parts.about
    if parts.describes_all:
        return ViTConfig.from_config(folder.name, about)
    base = _base(folder, parts)
    overrides = {key: about[key] for key in ("num_attention_heads",) if key in about}
    architecture = formats.architecture(base.shapes, {**base.config, **overrides})
    activation = about.get("activation", architecture.activation)
    if activation not in ("quick_gelu", "gelu"):
        problem = f"has activation {activation!r}" if activation else "does not tell its activation"
        remedy = f'write activation = "quick_gelu" (OpenAI\'s CLIP) or "gelu" into its {TOML}'
        raise BadFile("family", folder, problem, remedy)
    fields: dict[str, Any] = dataclasses.asdict(architecture) | {"activation": activation}
    mean, std = _normalisation(folder, about, base)
    return ViTConfig(name=folder.name, mean=mean, std=std, **fields)


def _normalisation(
    folder: Path, about: Mapping[str, Any], base: Checkpoint
) -> formats.Normalisation:
    """Pixel mean and std of family.toml, else of the files beside the base, else CLIP's."""
    mean, std = base.normalisation or (MEAN, STD)
    try:
        return formats.normalisation(about.get("mean", mean), about.get("std", std))
    except (TypeError, ValueError) as error:
        problem = f"has a mean or std that is wrong: {error}"
        raise BadFile(TOML, folder / TOML, problem, "give three numbers each") from error
