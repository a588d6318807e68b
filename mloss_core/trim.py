"""Trim, elect, merge: the steps of TIES on stacked task vectors, as pure tensor functions.

One kernel trims rows; a whole tensor is one long row.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Entries of one piece in `elect_and_merge`: its temporaries stay in a core's cache.
PIECE = 1 << 15


def kept_counts(rates: Float[np.ndarray, " rows"], length: int) -> Int[np.ndarray, " rows"]:
    """Entries a row of that length keeps: the rate's share rounded down, at least one."""
    return np.clip(np.floor(np.asarray(rates) * length).astype(np.int64), 1, length)


def trim_(
    rows: Float[Tensor, "rows length"], counts: Int[np.ndarray, " rows"]
) -> Float[Tensor, "rows length"]:
    """Zeroes, in place, all but the counts[r] largest magnitudes of row r (TIES, step 1).

    Equal magnitudes at the threshold are all kept.
    """
    magnitude = rows.abs()
    # Comparing in place gives ones and zeros as floats, at a fraction of a Boolean mask's time.
    return rows.mul_(magnitude.ge_(thresholds(magnitude, counts)[:, None]))


def thresholds(
    magnitude: Float[Tensor, "rows length"], counts: Int[np.ndarray, " rows"]
) -> Float[Tensor, " rows"]:
    """The counts[r]-th largest magnitude of each row r."""
    length = magnitude.shape[1]
    place = length - counts
    if magnitude.device.type != "cpu":
        index = torch.from_numpy(place).to(magnitude.device)
        return magnitude.sort(dim=1).values.gather(1, index[:, None])[:, 0]
    # NumPy's vectorised partition and sort are many times faster than torch's on the CPU.
    values = magnitude.numpy()
    if (place == place[0]).all():
        return torch.from_numpy(np.partition(values, place[0], axis=1)[:, place[0]])
    return torch.from_numpy(np.sort(values, axis=1)[np.arange(len(values)), place])


def random_masks(
    shape: tuple[int, ...], sources: int, keep: float, seed: int, name: str
) -> Bool[Tensor, "sources *shape"]:
    """DARE's masks, one a source: each entry is kept with probability `keep`.

    Drawn from the seed and the tensor's name on the CPU, so that neither device nor order matters.
    """
    entropy = [seed, *name.encode()]
    draws = np.random.default_rng(entropy).random((sources, *shape), dtype=np.float32)
    return torch.from_numpy(draws < keep)


def elect_and_merge(
    vectors: Float[Tensor, "sources *shape"], alpha: Float[Tensor, " sources"]
) -> Float[Tensor, "*shape"]:
    """Sign election and disjoint mean of trimmed task vectors (TIES, steps 2 and 3).

    The elected sign is that of sum(alpha_i t_i), zero counting as positive; the result is
    sum(alpha_i t_i) / sum(alpha_i) over the sources that agree, zero where none does.
    """
    flat = vectors.flatten(1)
    merged = torch.empty_like(flat[0])
    size = PIECE if flat.device.type == "cpu" else flat.shape[1]
    for piece, out in zip(flat.split(size, dim=1), merged.split(size), strict=True):
        out.copy_(_elect_and_merge(piece, alpha))
    return merged.view(vectors.shape[1:])


def _elect_and_merge(t: Tensor, alpha: Tensor) -> Tensor:
    """`elect_and_merge` of one piece."""
    # The vote is exact for equal weights: they become ones, and doubles add without rounding.
    wide = torch.float32 if t.device.type == "mps" else torch.float64
    vote = (alpha / alpha.max()).to(wide) @ t.to(wide)
    sign = vote.ge_(0).mul_(2).sub_(1).to(t.dtype)
    agreeing = (t * sign).clamp_(min=0)
    total = alpha @ agreeing
    weight = alpha @ agreeing.gt_(0)  # ones and zeros, see trim_
    # Where nobody agrees, total is zero.
    return sign * total / weight.clamp_(min=torch.finfo(t.dtype).tiny)
