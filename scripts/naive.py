"""TIES as one would write it first: a tensor at a time from mapped files, torch.kthvalue.

    python scripts/naive.py FAMILY_FOLDER OUT.safetensors

As a process it hashes nothing, checks nothing, and imports torch and safetensors alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

SOURCES = 8


def ties(
    base: Mapping[str, Tensor], sources: Sequence[Callable[[str], Tensor]], keep: float = 0.2
) -> dict[str, Tensor]:
    """The merged tensors.

    Args:
        sources: each gives its tensor of a name.
    """
    merged = {}
    for name, ours in base.items():
        vectors = []
        for source in sources:
            t = source(name).float() - ours
            flat = t.abs().flatten()
            limit = flat.kthvalue(flat.numel() - max(1, int(keep * flat.numel())) + 1).values
            vectors.append(torch.where(t.abs() >= limit, t, 0.0))
        stacked = torch.stack(vectors)
        sign = torch.where(stacked.sum(0) >= 0, 1.0, -1.0)
        agree = stacked * sign > 0
        merged[name] = ours + (stacked * agree).sum(0) / agree.sum(0).clamp(min=1)
    return merged


def main() -> None:
    """Merges the first sources of a family's folder into a file."""
    folder, out = map(Path, sys.argv[1:])
    base = safe_open(folder / "base.safetensors", framework="pt")
    files = sorted((folder / "sources").glob("*.safetensors"))[:SOURCES]
    sources = [safe_open(file, framework="pt").get_tensor for file in files]
    save_file(ties({name: base.get_tensor(name).float() for name in base.keys()}, sources), out)


if __name__ == "__main__":
    main()
