"""The adapter_config.json of a LoRA adapter as peft writes it: scales, ranks, what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .files import FormatError

MERGE_FIRST = "merge it into its base with peft's merge_and_unload first"
# Under these A and B mean something else than a sum onto the layer's own weights.
VARIANTS = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication",
    "monteclora_config", "target_parameters", "use_bdlora", "use_qalora",
)  # fmt: skip
# Starts of A and B that leave the base's weights as they were; others (PiSSA, OLoRA) move them.
STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
DEFAULT = 8  # of rank and alpha in peft
LARGEST = 1e30  # of a scale; what is larger is no number of a training
MOST_PATTERNS = 1000
LONGEST_PATTERN = 200
MOST_REPEATS = 3  # in a pattern: each multiplies the steps that it can take


@dataclass(frozen=True)
class AdapterConfig:
    """How a LoRA adapter's matrices are scaled, and what they were trained on.

    Args:
        alpha: of layers that no pattern names.
        ranks: all that layers may have.
        alphas: of layers by their names in the base; the first pattern that fits counts.
        stabilised: whether the scale is alpha over the root of the rank (rsLoRA).
        dora: whether each layer has a vector of its rows' magnitudes.
        trained_as: the class of the model in training, e.g. "CLIPVisionModel"; may be empty.
        base: the name of the base; may be empty.
    """

    alpha: float
    ranks: frozenset[int]
    alphas: tuple[tuple[re.Pattern[str], float], ...]
    stabilised: bool
    dora: bool
    trained_as: str
    base: str

    def scale(self, layer: str, rank: int) -> float:
        """The factor on B @ A of a layer."""
        fitting = (alpha for pattern, alpha in self.alphas if pattern.match(layer))
        alpha = next(fitting, self.alpha)
        return alpha / math.sqrt(rank) if self.stabilised else alpha / rank


def adapter_config(value: Any) -> AdapterConfig:
    """Reads what adapter_config.json holds; raises FormatError naming what cannot be read."""
    if not isinstance(value, Mapping):
        raise FormatError("has an adapter_config.json that is no JSON object")
    kind = value.get("peft_type")
    if kind != "LORA":
        problem = (
            f"has peft_type {str(kind)[:40]} in its adapter_config.json, and only LORA is read"
        )
        raise FormatError(problem, MERGE_FIRST)
    for key in VARIANTS:
        if value.get(key):
            raise FormatError(f"is a variant of LoRA that is not read: {key}", MERGE_FIRST)
    start = value.get("init_lora_weights")
    if not any(start is plain or (plain and start == plain) for plain in STARTS):
        problem = f"has init_lora_weights {str(start)[:40]!r}, which may have moved the base, too"
        remedy = "save it with path_initial_model_for_weight_conversion, or merge it with peft"
        raise FormatError(problem, remedy)
    patterns = value.get("rank_pattern") or {}
    ranks = patterns.values() if isinstance(patterns, Mapping) else ["no table"]
    about = value.get("auto_mapping")
    return AdapterConfig(
        alpha=_number("lora_alpha", value.get("lora_alpha", DEFAULT)),
        ranks=frozenset(map(_rank, [value.get("r", DEFAULT), *ranks])),
        alphas=tuple(_alphas(value.get("alpha_pattern") or {})),
        stabilised=_flag(value, "use_rslora"),
        dora=_flag(value, "use_dora"),
        trained_as=str(about.get("base_model_class", "")) if isinstance(about, Mapping) else "",
        base=str(value.get("base_model_name_or_path") or ""),
    )


def _flag(value: Mapping[str, Any], key: str) -> bool:
    flag = value.get(key)
    if flag not in (None, True, False):
        raise FormatError(f"has {key} {str(flag)[:40]} in its adapter_config.json", "use true")
    return bool(flag)


def _rank(value: Any) -> int:
    if type(value) is not int or value < 1:
        problem = f"has rank {str(value)[:40]} in its adapter_config.json"
        raise FormatError(problem, "give a whole number from 1")
    return value


def _number(key: str, value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < LARGEST:
        raise FormatError(
            f"has {key} {str(value)[:40]} in its adapter_config.json", "give a number"
        )
    return float(value)


def _alphas(patterns: Any) -> Iterator[tuple[re.Pattern[str], float]]:
    """Patterns of layers' names with their alpha, as peft matches them: at a name's end."""
    if not isinstance(patterns, Mapping) or len(patterns) > MOST_PATTERNS:
        problem = f"has an alpha_pattern that is no table of up to {MOST_PATTERNS} entries"
        raise FormatError(problem, "give alphas by layer")
    for text, alpha in patterns.items():
        # A pattern comes from a file: one that could run for ages is not begun.
        repeats = sum(map(text.count, "*+?{"))
        if len(text) > LONGEST_PATTERN or repeats > MOST_REPEATS or re.search(r"\)[*+?{]", text):
            problem = f"has an alpha_pattern too intricate to be read: {text[:80]}"
            raise FormatError(problem, "name the layers one by one")
        try:
            pattern = re.compile(rf"(.*\.)?({text})$")
        except (re.error, OverflowError, RecursionError) as error:
            problem = f"has an alpha_pattern that is no regular expression: {text[:80]}"
            raise FormatError(problem, "name the layers one by one") from error
        yield pattern, _number("alpha_pattern", alpha)
