"""Detection of a file's naming dialect, and translation to open_clip's names for both towers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .adapter_config import MERGE_FIRST
from .files import FormatError
from .folders import ADAPTER, ADAPTER_WEIGHTS
from .hugging_face import IMAGE, TEXT, renamed
from .lazy_tensor import Stored, transposed

# What wrappers put before names: DataParallel, torch.compile, Ilharco's ImageEncoder.
WRAPPERS = {"module", "model", "clip", "clip_model", "_orig_mod"}
# What a whole CLIP has beside its image tower.
TEXT_TOWER = ("transformer.", "token_embedding.", "ln_final.", "text.", "text_model.")
LEFT_OUT = {
    "positional_embedding", "text_projection", "text_projection.weight", "logit_scale",
    "logit_bias", "attn_mask", "input_resolution", "context_length", "vocab_size",
    "vision_model.embeddings.position_ids",
}  # fmt: skip
# What classifiers have beside it. Nothing else is left out, and this is said.
HEADS = ("classifier.", "classification_head.", "head.", "heads.", "fc.")
LISTED = 4  # names in what is said
# All that CLIP's own text tower consists of.
TEXT_PARTS = (
    "transformer.", "token_embedding.", "ln_final.", "positional_embedding", "text_projection",
)  # fmt: skip
# Names that only an image tower has, where they stand without `visual.`.
BARE_TOWER = {"class_embedding", "conv1.weight", "ln_pre.weight", "ln_post.weight"}
BARE_HUGGING_FACE = "embeddings.patch_embedding.weight"
PLAIN = "plain"


def to_open_clip_names(tensors: Mapping[str, Stored]) -> tuple[str, dict[str, Stored]]:
    """The dialect of a file's names, and its image tower's tensors by open_clip's names.

    What belongs to an image tower but is not in the table keeps a name of its own, so that the
    audit finds it. Files without any name of CLIP ("plain") keep all names.

    Raises:
        FormatError: a LoRA adapter without its config, or not merged, or two tensors of one name.
    """
    if any(".lora_" in name for name in tensors):
        if any(".base_layer." in name for name in tensors):
            raise FormatError("holds a model with a LoRA adapter beside its weights", MERGE_FIRST)
        problem = f"is a LoRA adapter without {ADAPTER} beside it"
        raise FormatError(problem, f"keep it as {ADAPTER_WEIGHTS[0]} in one folder with that file")
    bare = _unwrapped(tensors)
    if BARE_HUGGING_FACE in bare:
        bare = {_in_vision_model(name): tensor for name, tensor in bare.items()}
    if any(name.startswith("vision_model.") for name in bare):
        return "hugging_face", renamed(_image_tower(bare), IMAGE)
    if any(name.startswith("visual.") for name in bare):
        return "open_clip", _image_tower(bare)
    if BARE_TOWER & bare.keys():
        tower = {name: tensor for name, tensor in bare.items() if not is_head(name)}
        return "open_clip", {f"visual.{name}": tensor for name, tensor in tower.items()}
    return PLAIN, dict(tensors)


def text_tower(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The tensors of a file's text tower by our names, without `text.`; empty where it has none."""
    bare = _unwrapped(tensors)
    if any(name.startswith(TEXT.hf_prefix) for name in bare):
        kept = (TEXT.hf_prefix, TEXT.projection[0])
        hf_tensors = {name: tensor for name, tensor in bare.items() if name.startswith(kept)}
        return renamed(hf_tensors, TEXT)
    if BARE_TOWER & bare.keys():
        return {}  # an image tower alone has names that a text tower has, too
    tower = {
        name.removeprefix("text."): tensor
        for name, tensor in bare.items()
        if name.startswith((*TEXT_PARTS, "text."))
    }
    linear = tower.get("text_projection.weight")  # how open_clip keeps it beside a bias
    if linear is not None and len(linear.shape) == 2:
        tower["text_projection"] = transposed(tower.pop("text_projection.weight"))
    return tower


def _unwrapped(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Tensors by their names without the prefixes of wrapper modules."""
    bare: dict[str, Stored] = {}
    for whole, tensor in tensors.items():
        name = whole
        while "." in name and name.partition(".")[0] in WRAPPERS:
            name = name.partition(".")[2]
        if name in bare:
            remedy = "keep one model in the file"
            raise FormatError(f"holds two tensors of the name {name[:80]}", remedy)
        bare[name] = tensor
    return bare


def _in_vision_model(name: str) -> str:
    return name if name == IMAGE.projection[0] else f"{IMAGE.hf_prefix}{name}"


def _image_tower(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not is_left_out(name) and not is_head(name)
    }


def is_left_out(name: str) -> bool:
    """Whether a tensor is of a whole CLIP, but not of its image tower."""
    return name in LEFT_OUT or name.startswith(TEXT_TOWER)


def is_head(name: str) -> bool:
    """Whether a tensor is of a classifier on top of an image tower."""
    return name.startswith(HEADS)


def left_out(names: Sequence[str]) -> str:
    """What people are told of tensors that were left out; empty where there are none."""
    shown = ", ".join(name[:80] for name in names[:LISTED]) + (
        " ..." if len(names) > LISTED else ""
    )
    return f"has more than an image tower, which is left out: {shown}" if names else ""
