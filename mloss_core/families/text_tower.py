"""CLIP's text tower from a checkpoint of any dialect, as open_clip builds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..checkpoints import read as formats
from ..checkpoints.image_tower import FLOATS
from ..checkpoints.read import HEAD_WIDTH, FormatError
from ..errors import BadTensor

TEXTS = 256  # that are encoded at once: what fits beside the tower on a small machine
# open_clip wants an image tower beside the text tower; this one is never run.
UNUSED = {"image_size": 8, "patch_size": 8, "width": 64, "layers": 1}


@dataclass(frozen=True, eq=False)
class TextTower:
    """CLIP's text tower as an open_clip model with its config.

    Args:
        model: an open_clip.CLIP, whose image tower is of no use.
        config: what open_clip built it from.
    """

    model: nn.Module
    config: Mapping[str, Any]

    @property
    def embed_dim(self) -> int:
        """Width of the tower's embeddings."""
        return self.config["embed_dim"]

    def embeddings(
        self, classes: Sequence[str], templates: Sequence[str]
    ) -> Iterator[Float[Tensor, "c d"]]:
        """Yields a zero-shot head's rows, some classes at a time.

        A row is the mean of the unit embeddings of a class's prompts, of unit length again.

        Raises:
            BadTensor: the tower knows fewer tokens than open_clip's tokenizer.
        """
        import open_clip

        sizes = self.config["text_cfg"]
        tokenizer = open_clip.SimpleTokenizer(context_length=sizes["context_length"])
        if sizes["vocab_size"] < tokenizer.vocab_size:
            problem = f"has {sizes['vocab_size']} tokens, open_clip's tokenizer has more"
            raise BadTensor("text tower", "token_embedding.weight", problem, GIVE)
        step = max(1, TEXTS // len(templates))
        for start in range(0, len(classes), step):
            some = classes[start : start + step]
            columns = open_clip.build_zero_shot_classifier(
                self.model, tokenizer, some, templates, num_classes_per_batch=None
            )
            yield columns.T.contiguous()


def load_text(path: Path, name: str, activation: str) -> TextTower:
    """Loads the text tower of a file or folder, in fp32 on the CPU.

    Args:
        name: what messages call it.
        activation: the family's.

    Raises:
        BadFile: it cannot be read, or holds no text tower, a part of one, or one of another kind.
        BadTensor: it holds NaN or infinity.
    """
    import open_clip  # takes seconds, and all but heads do without it

    with formats.as_bad_file(name, path):
        stored = formats.contents(formats.file_ids(path)).text
        config = formats.read_config(path) or {}
        clip_config = text_config({key: t.shape for key, t in stored.items()}, config, activation)
        model = open_clip.CLIP(vision_cfg=UNUSED, **clip_config)  # pyright: ignore
        expected = {
            key: tensor
            for key, tensor in model.state_dict().items()
            if not key.startswith(("visual.", "logit_"))
        }
        _audit(stored, expected)
        tensors = {key: stored[key].fetch().float() for key in expected}
    odd = next((key for key, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if odd is not None:
        raise BadTensor(name, path.name, f"{odd} holds NaN or infinity", "fetch it again")
    model.load_state_dict(tensors, strict=False)
    return TextTower(model.eval(), clip_config)


def _audit(stored: Mapping[str, formats.Stored], expected: Mapping[str, torch.Tensor]) -> None:
    """Raises FormatError naming the first tensors that are missing, too many, or odd."""
    surplus = {key for key in stored.keys() - expected.keys() if not key.endswith("position_ids")}
    for problem, keys in (
        ("holds only a part of a text tower, without", expected.keys() - stored.keys()),
        ("holds more than CLIP's text tower:", surplus),
    ):
        if keys:
            shown = ", ".join(sorted(keys)[:10]) + (" ..." if len(keys) > 10 else "")
            raise FormatError(f"{problem} {shown}", GIVE)
    for key, tensor in expected.items():
        actual = stored[key]
        if actual.shape != tuple(tensor.shape):
            problem = f"has {key} of shape {actual.shape} instead of {tuple(tensor.shape)}"
            raise FormatError(problem, GIVE)
        if actual.dtype not in FLOATS:
            raise FormatError(f"has {key} of dtype {actual.dtype}", f"use {', '.join(FLOATS)}")


GIVE = 'write text = "FILE" into family.toml: a whole CLIP of this kind, or its text tower'
MATRICES = (
    "token_embedding.weight", "positional_embedding", "text_projection",
    "transformer.resblocks.0.mlp.c_fc.weight",
)  # fmt: skip
TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}


def text_config(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], activation: str
) -> dict[str, Any]:
    """The config of open_clip's text tower: `embed_dim`, `text_cfg` and `quick_gelu`.

    Args:
        config: a config.json of Hugging Face, or open_clip_config.json; {} is none.
        activation: the family's; what Hugging Face's config says of the text tower goes before it.

    Raises:
        FormatError: there is no text tower, only a part of one, or not one as CLIP's.
    """
    if not shapes:
        raise FormatError("holds no text tower", GIVE)
    for key in MATRICES:
        if key not in shapes:
            raise FormatError(f"holds only a part of a text tower, without {key}", GIVE)
        if len(shapes[key]) != 2 or 0 in shapes[key]:
            raise FormatError(f"has {key} of shape {shapes[key]}, which is no matrix", GIVE)
    sizes = (shapes[key] for key in MATRICES)
    (vocab_size, width), (context_length, _), (_, embed_dim), (nodes, _) = sizes
    heads, declared = _declared(config)
    heads = max(1, width // HEAD_WIDTH) if heads is None else heads
    if type(heads) is not int or heads < 1 or width % heads:
        raise FormatError(f"has a config of {heads} heads for a text tower of width {width}", GIVE)
    text_cfg = {
        "vocab_size": vocab_size,
        "context_length": context_length,
        "width": width,
        "heads": heads,
        "layers": sum(1 for key in shapes if key.endswith(".mlp.c_fc.weight")),
        "mlp_ratio": nodes / width,
    }
    quick_gelu = (declared or activation) == "quick_gelu"
    return {"embed_dim": embed_dim, "text_cfg": text_cfg, "quick_gelu": quick_gelu}


def _declared(config: Mapping[str, Any]) -> tuple[Any, str | None]:
    """Heads and activation of the text tower, each None where the config does not say it."""
    hf_config, model_cfg = config.get("text_config"), config.get("model_cfg")
    if isinstance(hf_config, Mapping):
        activation = hf_config.get("hidden_act", "quick_gelu")  # Hugging Face leaves out defaults
        if activation not in ("quick_gelu", "gelu"):
            raise FormatError(
                f"has a config of hidden_act {activation!r}, which is not CLIP's", GIVE
            )
        return hf_config.get("num_attention_heads"), activation
    text_cfg = model_cfg.get("text_cfg") if isinstance(model_cfg, Mapping) else None
    if not isinstance(text_cfg, Mapping):
        return None, None
    odd = sorted(str(key) for key in text_cfg.keys() - TEXT_KEYS)
    if odd:
        raise FormatError(f"has a text tower that is not CLIP's own: {', '.join(odd)[:80]}", GIVE)
    return text_cfg.get("heads"), None
