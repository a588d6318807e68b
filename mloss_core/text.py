"""CLIP's text tower from a checkpoint of any dialect, as open_clip builds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from . import dialects
from .checkpoint import FLOATS
from .dialects import FormatError
from .errors import BadTensor
from .text_config import GIVE, text_config

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

    with dialects.as_bad_file(name, path):
        stored = dialects.contents(dialects.file_ids(path)).text
        config = dialects.read_config(path) or {}
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


def _audit(stored: Mapping[str, dialects.Stored], expected: Mapping[str, torch.Tensor]) -> None:
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
