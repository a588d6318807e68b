"""Export of a merged image tower as a folder of transformers' CLIPVisionModelWithProjection."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..architecture import ViTConfig
from ..atomic_files import aside as beside
from ..atomic_files import check_output
from ..errors import BadFile
from .hugging_face import IMAGE, their_tensors
from .image_tower import savable
from .infer import EPSILON
from .read import KEY

WEIGHTS = "model.safetensors"
BICUBIC = 3  # as PIL numbers its filters


def write_folder(
    folder: Path,
    tensors: Mapping[str, Tensor],
    model: ViTConfig,
    metadata: Mapping[str, object],
    card: str,
) -> None:
    """Writes a Hugging Face folder, with configs and README.md, whole or not at all.

    Args:
        tensors: the image tower by our names.
        metadata: what the weights' file says of itself, under "mloss".
        card: the text of README.md.

    Raises:
        BadFile: the folder exists, its parent doesn't, or the disk is full.
    """
    check_output(folder)
    aside = beside(folder)
    try:
        aside.mkdir()
        for name, value in (
            ("config.json", config(model)),
            ("preprocessor_config.json", preprocessor(model)),
        ):
            (aside / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        (aside / "README.md").write_text(card, encoding="utf-8")
        # transformers reads no file that doesn't say that it is of torch.
        about = {"format": "pt", KEY: json.dumps(metadata, sort_keys=True)}
        save_file(savable(their_tensors(tensors, IMAGE)), aside / WEIGHTS, about)
        (aside / WEIGHTS).chmod(0o644)
        check_output(folder)
        aside.rename(folder)
    except (OSError, SafetensorError) as error:
        problem = f"cannot be written ({error})"
        raise BadFile("out", folder, problem, "free space or go elsewhere") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def config(model: ViTConfig) -> dict[str, Any]:
    """The tower's config.json, with the keys of transformers' CLIPVisionConfig."""
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "attention_dropout": 0.0,
        "dtype": "float32",
        "hidden_act": model.activation,
        "hidden_size": model.width,
        "image_size": model.image_size,
        "intermediate_size": model.nodes,
        "layer_norm_eps": EPSILON,
        "num_attention_heads": model.heads,
        "num_channels": 3,
        "num_hidden_layers": model.blocks,
        "patch_size": model.patch_size,
        "projection_dim": model.embed_dim,
    }


def preprocessor(model: ViTConfig) -> dict[str, Any]:
    """The family's preprocessor_config.json: its size, mean and std."""
    side = {"height": model.image_size, "width": model.image_size}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": model.image_size},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": side,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(model.mean),
        "image_std": list(model.std),
    }
