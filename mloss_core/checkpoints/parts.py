"""The models in a checkpoint: found by the names of their image towers, and one of them chosen."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .files import FormatError
from .lazy_tensor import Stored
from .state_dict import HOLDERS, StateDict, dotted

# Names that only an image tower has, after what wrappers put before them.
TOWER = re.compile(
    r"((?:.*\.)?)(?:visual\.(?:class_embedding|positional_embedding|proj|"
    r"(?:conv1|ln_pre|ln_post|transformer)\..*)|"
    r"vision_model\.(?:embeddings|pre_layrnorm|post_layernorm|encoder)\..*)",
    re.DOTALL,
)
# The same of an image tower alone.
BARE = re.compile(
    r"((?:.*\.)?)(?:(?<!embeddings\.)class_embedding|ln_pre\.weight|"
    r"embeddings\.patch_embedding\.weight)",
    re.DOTALL,
)
# Words that say nothing of which model it is.
PLAIN_WORDS = {
    *HOLDERS, "clip", "clip_model", "clipmodel", "_orig_mod", "base_model", "image_encoder",
    "encoder", "backbone", "net", "network",
}  # fmt: skip
WRAPPED = ("module", "_orig_mod")  # by torch, whatever is in it
# Words for a mean of the model over its training.
AVERAGES = {"ema", "swa", "average", "averaged", "avg", "teacher", "target", "momentum", "shadow"}
MOST = 64  # models in a state dict: each name is compared with the start of each


@dataclass(frozen=True)
class Part:
    """A model in a checkpoint.

    Args:
        name: what leads to it, without dots at the end; may be empty.
        tensors: by their names without that.
        held: the state dict that it lies in.
        beside: names in the same state dict that are of no model.
    """

    name: str
    tensors: Mapping[str, Stored]
    held: StateDict
    beside: tuple[str, ...]

    @property
    def label(self) -> str:
        """Its name without the words that are put before every model."""
        words = self.name.split(".")
        telling = [word for word in words if word not in PLAIN_WORDS]
        while len(words) > 1 and words[-1] in WRAPPED:
            del words[-1]
        return ".".join(telling) or words[-1] or "the one without a prefix"

    @property
    def words(self) -> set[str]:
        """The parts of its name between dots, and the words in them in small letters."""
        return {*self.name.split("."), *re.split("[^a-z0-9]+", self.name.lower())}

    @property
    def is_plain(self) -> bool:
        """Whether its name says nothing of which model it is."""
        return set(self.name.split(".")) <= PLAIN_WORDS | {""}


def parts(dicts: Mapping[str, StateDict]) -> list[Part]:
    """The models in these state dicts, by their place; none where no name is an image tower's."""
    return [part for place, held in dicts.items() for part in _parts(place, held)]


def _parts(place: str, held: StateDict) -> list[Part]:
    names = {dotted(place, name): name for name in held.tensors}
    towers = (TOWER.fullmatch(name) or BARE.fullmatch(name) for name in names)
    starts = list(dict.fromkeys(match[1] for match in towers if match))
    if len(starts) > MOST:
        raise FormatError(f"holds {len(starts)} models", "keep one model in the file")
    of: dict[str, dict[str, Stored]] = {start: {} for start in starts}
    beside = []
    for name, key in names.items():
        inner = max((start for start in starts if name.startswith(start)), key=len, default=None)
        if inner is None:
            beside.append(key)
        else:
            of[inner][name.removeprefix(inner)] = held.tensors[key]
    return [
        Part(start.removesuffix("."), tensors, held, tuple(beside)) for start, tensors in of.items()
    ]


def chosen(models: Sequence[Part], wanted: str) -> tuple[Part, str]:
    """One of a file's models, and what is to be said of the choice; empty where there was none.

    Without a wish it is the only one that is no average of others, or the only one by a name that
    every training script uses.

    Args:
        wanted: its name, or a word of it; empty: none.

    Raises:
        FormatError: no model is called so, or it cannot be told which is meant.
    """
    labels = ", ".join(model.label for model in models)[:400]
    if wanted:
        exact = [model for model in models if wanted in (model.label, model.name)]
        fitting = exact or [model for model in models if {wanted, wanted.lower()} & model.words]
        if len(fitting) != 1:
            problem = f"holds {len(fitting) or 'no'} models called {wanted[:80]!r}"
            raise FormatError(problem, f"choose from {labels}" if len(models) > 1 else ONLY)
        return fitting[0], ""
    if len(models) == 1:
        return models[0], ""
    own = [model for model in models if not model.words & AVERAGES]
    if len(own) > 1:
        own = [model for model in own if model.is_plain]
    if len(own) != 1:
        problem = f"holds {len(models)} models, and does not tell which is meant: {labels}"
        raise FormatError(problem, f"choose one with {HOW}")
    return own[0], (
        f"holds {len(models)} models ({labels}), and {own[0].label} is taken; another with {HOW}"
    )


HOW = "python -m mloss_core convert --part NAME, or [part] in family.toml"
ONLY = "leave the choice out: it holds one model"
