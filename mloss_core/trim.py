"""Trim, elect, merge: the steps of TIES on task vectors, as pure tensor functions, piece by piece.

One kernel trims rows; a whole tensor is one long row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Entries of a piece of one source: all sources' pieces stay in a core's cache together.
PIECE = 1 << 15
# Entries whose thresholds are found at once: many small tensors, or one large.
GROUP = 1 << 22


@dataclass(frozen=True)
class Vectors:
    """The task vectors of one tensor, as rows, made a piece at a time; to be merged once.

    Memory does not grow with the sources: of a large tensor, nothing but a piece of each source is
    ever in fp32 at once. Small tensors are made whole.

    Args:
        base: in fp32, on the device.
        theirs: each source's tensor as it is stored (mapped).
    """

    base: Float[Tensor, "*shape"]
    theirs: Sequence[Tensor]

    def part(self, sources: slice, rows: slice) -> Float[Tensor, "sources rows length"]:
        """Task vectors of these sources in these rows."""
        if self._whole is not None:
            return self._whole[sources, rows]
        return self._made(sources, rows)

    @functools.cached_property
    def _whole(self) -> Tensor | None:
        small = self.base.numel() * len(self.theirs) <= GROUP
        return self._made(slice(None), slice(None)) if small else None

    def _made(self, sources: slice, rows: slice) -> Tensor:
        stored = torch.stack([rows_of(t)[rows] for t in self.theirs[sources]])
        return stored.to(self.base.device, torch.float32).sub_(rows_of(self.base)[rows])

    def pieces(self) -> Iterator[slice]:
        """Ranges of rows that make up pieces."""
        count, length = rows_of(self.base).shape
        size = max(1, PIECE // length) if self.base.device.type == "cpu" else count
        return (slice(start, start + size) for start in range(0, count, size))

    def merged(
        self,
        step: Callable[[Float[Tensor, "sources rows length"], slice], Float[Tensor, "rows length"]],
    ) -> Float[Tensor, "*shape"]:
        """What `step` makes of every piece, which it may overwrite, put together."""
        out = torch.empty_like(rows_of(self.base))
        for rows in self.pieces():
            out[rows] = step(self.part(slice(None), rows), rows)
        return out.view(self.base.shape)

    def limits(
        self, keep: float, rates: Float[np.ndarray, " rows"] | None = None
    ) -> Float[Tensor, "sources rows"]:
        """Magnitude from which an entry is kept (TIES, step 1), by source and row.

        Args:
            keep: share of the whole tensor that is kept.
            rates: of each row instead.
        """
        count, length = rows_of(self.base).shape
        size, found = max(1, GROUP // (count * length)), []
        for start in range(0, len(self.theirs), size):
            magnitude = self.part(slice(start, start + size), slice(None)).abs()
            sources = len(magnitude)
            if rates is None:
                counts = kept_counts(np.full(sources, keep), count * length)
                found.append(thresholds(magnitude.flatten(1), counts)[:, None].expand(-1, count))
            else:
                counts = np.tile(kept_counts(rates, length), sources)
                found.append(thresholds(magnitude.flatten(0, 1), counts).view(sources, count))
        return torch.cat(found)


def rows_of(tensor: Tensor) -> Tensor:
    """A tensor as rows; a vector, or one number, is a single one."""
    return tensor.reshape(len(tensor), -1) if tensor.ndim > 1 else tensor.reshape(1, -1)


def kept_counts(rates: Float[np.ndarray, " rows"], length: int) -> Int[np.ndarray, " rows"]:
    """Entries a row of that length keeps: the rate's share rounded down, at least one."""
    return np.clip(np.floor(np.asarray(rates) * length).astype(np.int64), 1, length)


def trim_(
    rows: Float[Tensor, "*rows length"], limits: Float[Tensor, "*rows"]
) -> Float[Tensor, "*rows length"]:
    """Zeroes, in place, what is smaller in magnitude than its row's limit (TIES, step 1).

    Equal magnitudes at the threshold are all kept.
    """
    # Comparing in place gives ones and zeros as floats, at a fraction of a Boolean mask's time.
    return rows.mul_(rows.abs().ge_(limits[..., None]))


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
    t = vectors.flatten(1)
    # The vote is exact for equal weights: they become ones, and doubles add without rounding.
    wide = torch.float32 if t.device.type == "mps" else torch.float64
    vote = (alpha / alpha.max()).to(wide) @ t.to(wide)
    sign = vote.ge_(0).mul_(2).sub_(1).to(t.dtype)
    agreeing = (t * sign).clamp_(min=0)
    total = alpha @ agreeing
    weight = alpha @ agreeing.gt_(0)  # ones and zeros, see trim_
    # Where nobody agrees, total is zero.
    merged = sign * total / weight.clamp_(min=torch.finfo(t.dtype).tiny)
    return merged.view(vectors.shape[1:])
