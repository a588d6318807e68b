"""LoRA adapters of peft on their base: base + scale B @ A, a layer at a time, as it is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .adapter_config import MERGE_FIRST, AdapterConfig
from .files import FormatError
from .hugging_face import IMAGE, place
from .lazy_tensor import Stored
from .naming import LEFT_OUT, TEXT_TOWER, WRAPPERS

LORA = "lora"  # the dialect
FLOATS = ("F16", "BF16", "F32")
SAME_BASE = "use adapters that were trained on this base"
SAVE_AGAIN = "save it again with peft's save_pretrained"
# What a key ends with: A, B or a vector of magnitudes (DoRA), with an adapter's name or without.
ENDING = re.compile(
    r".+\.lora_(?:([AB])(?:\.[^.]+)?\.weight|(magnitude_vector)(?:\.[^.]+){0,2})", re.DOTALL
)
# Classes of image towers alone, whose names do not say what they are of.
BARE_HUGGING_FACE = ("CLIPVisionModel", "CLIPVisionTransformer")
BARE_OPEN_CLIP = "VisionTransformer"


@dataclass(frozen=True)
class Region:
    """The part of a tensor of the base that a layer's own tensor is.

    Args:
        name: the base's tensor, by our names.
        third: of the rows, where it is q, k or v; None is all.
        transposed: whether the base holds it with rows and columns exchanged.
    """

    name: str
    third: int | None = None
    transposed: bool = False

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """The layer's shape in a tensor of the base of that shape."""
        if self.third is not None:
            return (whole[0] // 3, *whole[1:])
        return whole[::-1] if self.transposed else whole

    def of(self, tensor: Tensor) -> Tensor:
        """The layer's part of the base's tensor, as a view."""
        if self.third is not None:
            return tensor.chunk(3)[self.third]
        return tensor.T if self.transposed else tensor


@dataclass(frozen=True)
class LowRank:
    """A product of two matrices that is added, and magnitudes that rows then get (DoRA)."""

    down: Stored
    up: Stored
    scale: float
    magnitudes: Stored | None

    def apply_(self, weight: Tensor) -> None:
        """Changes a layer's weights, as peft merges them."""
        weight += (self.up.fetch().float() @ self.down.fetch().float()).mul_(self.scale)
        if self.magnitudes is not None:
            weight *= (self.magnitudes.fetch().float() / weight.norm(dim=1))[:, None]


@dataclass(frozen=True)
class Replaced:
    """A tensor that was trained whole."""

    values: Stored

    def apply_(self, weight: Tensor) -> None:
        """Puts the values in the place of a layer's own."""
        weight.copy_(self.values.fetch())


Changes = tuple[tuple[Region, LowRank | Replaced], ...]
Keyed = tuple[str, Stored]  # a tensor with its name in the file, for messages


def expanded(
    tensors: Mapping[str, Stored], config: AdapterConfig, base: Mapping[str, Stored]
) -> dict[str, Stored]:
    """The tensors that an adapter changes, in fp32, by our names.

    Args:
        tensors: the adapter's, by the names in its file.
        base: by our names.

    Raises:
        FormatError: naming a tensor that is of no layer, does not fit, or lacks its counterpart.
    """
    layers, whole = _sorted(tensors, config)
    changes: dict[str, Changes] = {}
    for name, (key, values) in whole.items():
        region = _region(name, key, base)
        _check_shape(key, values, region.shape(base[region.name].shape))
        changes[region.name] = (*changes.get(region.name, ()), (region, Replaced(values)))
    for layer, parts in layers.items():
        key = next(iter(parts.values()))[0]
        region = _region(f"{layer}.weight", key, base)
        change = _low_rank(parts, config, region.shape(base[region.name].shape))
        changes[region.name] = (*changes.get(region.name, ()), (region, change))
    if not changes:
        raise FormatError("changes no layer of the image tower", "use an adapter of it")
    return {
        name: Stored(base[name].shape, "F32", partial(_changed, base[name], steps))
        for name, steps in changes.items()
    }


def _changed(base: Stored, steps: Changes) -> Tensor:
    tensor = base.fetch().to(torch.float32, copy=True)
    for region, change in steps:
        change.apply_(region.of(tensor))
    return tensor


def _sorted(
    tensors: Mapping[str, Stored], config: AdapterConfig
) -> tuple[dict[str, dict[str, Keyed]], dict[str, Keyed]]:
    """Parts of layers by kind, and tensors saved whole, by name; without the text tower's."""
    layers: dict[str, dict[str, Keyed]] = {}
    whole: dict[str, Keyed] = {}
    for key, tensor in tensors.items():
        name = _bare(key.rpartition(".lora_")[0] or key, config, key)
        if name is None:
            continue
        if name.endswith(".attn") or ".attn.base_layer." in key:
            # Up to 0.21 at least, peft adds the output projection's product twice, in training,
            # too (huggingface/peft#3774); a file does not tell whether its peft did.
            problem = f"holds {_short(key)}, of torch's attention, which peft's versions read apart"
            raise FormatError(problem, f"{MERGE_FIRST}, by the version that trained it")
        ending = ENDING.fullmatch(key)
        if ending is None and ".lora_" in key:
            raise FormatError(f"holds {_short(key)}, which is not read", MERGE_FIRST)
        if tensor.dtype not in FLOATS:
            problem = f"has {_short(key)} of dtype {tensor.dtype}"
            raise FormatError(problem, f"use {', '.join(FLOATS)}")
        group = layers.setdefault(name, {}) if ending else whole
        kind = (ending[1] or ending[2]) if ending else name
        if kind in group:
            problem = f"holds two tensors of {_short(name)}: {_short(key)}"
            raise FormatError(problem, "keep one adapter in the file")
        group[kind] = key, tensor
    return layers, whole


def _bare(name: str, config: AdapterConfig, key: str) -> str | None:
    """A name without what peft and wrappers put into it; None where the image tower has no part.

    Raises:
        FormatError: it may be of either tower.
    """
    parts = [part for part in name.split(".") if part != "base_layer"]
    if "original_module" in parts:  # beside modules_to_save, and out of use
        return None
    if "modules_to_save" in parts:
        at = parts.index("modules_to_save")
        del parts[at : at + 1 + (len(parts) - at > 2)]  # with the adapter's name
    while len(parts) > 1 and parts[0] in WRAPPERS | {"base_model"}:
        del parts[0]
    bare = ".".join(parts)
    if config.trained_as == BARE_OPEN_CLIP and parts[0] != "visual":
        return f"visual.{bare}"
    if parts[0] in ("encoder", "embeddings", "pre_layrnorm", "post_layernorm"):
        if config.trained_as not in BARE_HUGGING_FACE:
            problem = f"does not tell whether {_short(key)} is of the image tower"
            remedy = "write the model's class into auto_mapping of its adapter_config.json"
            raise FormatError(problem, remedy)
        bare = f"{IMAGE.hf_prefix}{bare}"
    left_out = bare in LEFT_OUT or f"{bare}.weight" in LEFT_OUT or bare.startswith(TEXT_TOWER)
    return None if left_out else bare


def _region(name: str, key: str, base: Mapping[str, Stored]) -> Region:
    """Where a tensor lies in the base; raises FormatError if nowhere."""
    ours, third = place(name, IMAGE)
    if ours not in base:
        raise FormatError(f"holds {_short(key)}, which is of no layer of its base", SAME_BASE)
    transposed = name == IMAGE.projection[0] and len(base[ours].shape) == 2
    return Region(ours, third, transposed)


def _low_rank(parts: Mapping[str, Keyed], config: AdapterConfig, shape: tuple[int, ...]) -> LowRank:
    """A layer's change, of its parts by kind; raises FormatError if they do not fit its shape."""
    wanted = ("A", "B", "magnitude_vector") if config.dora else ("A", "B")
    for kind in (kind for kind in wanted if kind not in parts):
        key = next(iter(parts.values()))[0]
        raise FormatError(f"has {_short(key)}, but no lora_{kind} beside it", SAVE_AGAIN)
    (key, down), (up_key, up) = parts["A"], parts["B"]
    if len(down.shape) != 2 or len(shape) != 2:
        problem = f"has {_short(key)} of shape {down.shape}, which is of no linear layer"
        raise FormatError(problem, MERGE_FIRST)
    rank = down.shape[0]
    if rank not in config.ranks:
        ranks = ", ".join(map(str, sorted(config.ranks)[:10]))
        problem = f"has {_short(key)} of rank {rank}, its adapter_config.json {ranks}"
        raise FormatError(problem, "fetch both files again")
    _check_shape(key, down, (rank, shape[1]))
    _check_shape(up_key, up, (shape[0], rank))
    magnitudes = parts.get("magnitude_vector")
    if magnitudes and not config.dora:
        problem = f"has {_short(magnitudes[0])}, but no use_dora in its adapter_config.json"
        raise FormatError(problem, "fetch both files again")
    if magnitudes:
        _check_shape(*magnitudes, (shape[0],))
    layer = key.removeprefix("base_model.model.").rpartition(".lora_A")[0]
    return LowRank(down, up, config.scale(layer, rank), magnitudes[1] if magnitudes else None)


def _check_shape(key: str, tensor: Stored, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        problem = f"has {_short(key)} of shape {tensor.shape}, where its base needs {shape}"
        raise FormatError(problem, SAME_BASE)


def _short(key: str) -> str:
    """A name from a file, short enough for a message; its end says most."""
    return key if len(key) <= 120 else f"...{key[-117:]}"
