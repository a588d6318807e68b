"""Weights in quantised files: they are no numbers on their own, and never read as such."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .files import FormatError
from .lazy_tensor import Stored

FULL = "take the full-precision model that it was made from"
UNPACK = f"{FULL}, or load it with transformers, call dequantize() on it, and then save_pretrained"
# Ends of names that only a tool's quantised files have.
TOOLS = (
    (r"\.SCB", "bitsandbytes in 8 bits", UNPACK),
    (r"\.(?:nested_)?(?:absmax|quant_map)", "bitsandbytes in 4 bits", UNPACK),
    (r"\.quant_state\.bitsandbytes__\w+", "bitsandbytes in 4 bits", UNPACK),
    (r"\.(?:qweight|qzeros|g_idx)", "GPTQ or AWQ", FULL),
    (r"\.weight_(?:packed|scale|scale_inv|zero_point)", "compressed-tensors or in FP8", FULL),
    (r"\.W_q", "HQQ", FULL),
    (r"\.weight\._(?:data|scale)", "quanto", FULL),
    (r"\.(?:_packed_params\.\w+|zero_point)", "torch", f"{FULL}, by its state dict"),
)


def check_not_quantised(tensors: Mapping[str, Stored]) -> None:
    """Raises FormatError naming the tool and a tensor that tells it."""
    for ending, tool, remedy in TOOLS:
        told = next((name for name in tensors if re.search(f"{ending}$", name)), None)
        if told is not None:
            raise FormatError(f"is quantised by {tool}, as {told[-100:]} tells", remedy)
    narrow = (name for name, tensor in tensors.items() if tensor.dtype.startswith("F8"))
    if (told := next(narrow, None)) is not None:
        raise FormatError(f"is quantised: {told[-100:]} has dtype {tensors[told].dtype}", FULL)
