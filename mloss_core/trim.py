"""Trim, elect, merge: the steps of TIES on task vectors, as pure tensor functions, piece by piece.

One kernel trims rows; a whole tensor is one long row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .parallel import thread_map

# Entries of a piece, all sources together: few enough for a core's cache, enough to be worth their
# calls.
PIECE = 1 << 19
# Entries of several sources that are made at once and kept, and whose thresholds are found without
# threads of ours, whose short calls would wait for Python's lock; of larger tensors, no more than
# pieces are made.
SMALL = 1 << 21
# Relative to a row's length: above the rounding of a rate in [0, 1] and of its product (2^-52),
# below the distance of any decimal rate of six digits from the next whole number, to 1e9 entries.
ROUNDING = 2**-50
# What no byte is: it keeps two names apart that are one after the other.
END_OF_NAME = 256
# Entries from which on a threshold is looked for where a sample says that it is, and how many
# standard deviations beyond that.
LONG, DEVIATIONS = 1 << 12, 3


@dataclass(frozen=True)
class TaskVectors:
    """The task vectors of one tensor, as rows, made a piece at a time; to be merged once.

    Memory does not grow with the sources: of a large tensor, nothing but a piece of each source is
    ever in fp32 at once. Small tensors are made whole.

    Args:
        base: in fp32, on the device.
        stored: each source's tensor as it is stored (mapped).
        thresholds: each source's least magnitude that is kept, where its whole task vector
            decides it (`global_threshold`); None where this tensor decides.
        ordered: the same vectors, where somebody keeps them.
        kept: to which the number of entries kept of each row, of all sources, is added; None counts
            nothing.
        factors: on each task vector; None leaves them as they are.
    """

    base: Float[Tensor, "*shape"]
    stored: Sequence[Tensor]
    thresholds: Sequence[float] | None = None
    ordered: SortedMagnitudes | None = None
    kept: Int[Tensor, " rows"] | None = None
    factors: Sequence[float] | None = None

    def part(self, sources: slice, rows: slice) -> Float[Tensor, "sources rows length"]:
        """Task vectors of these sources in these rows."""
        if self.ordered is not None:
            return self.ordered.vectors[sources, rows].clone()
        if self._whole is not None:
            return self._whole[sources, rows]
        return self._vectors(sources, rows)

    @functools.cached_property
    def _whole(self) -> Tensor | None:
        small = self.base.numel() * len(self.stored) <= SMALL and self.ordered is None
        return self._vectors(slice(None), slice(None)) if small else None

    def _vectors(self, sources: slice, rows: slice, space: Tensor | None = None) -> Tensor:
        base, tensors = rows_of(self.base)[rows], self.stored[sources]
        vectors = base.new_empty(len(tensors), *base.shape) if space is None else space
        for vector, tensor in zip(vectors, tensors, strict=True):
            torch.sub(rows_of(tensor)[rows].to(base.device), base, out=vector)
        if self.factors is not None:
            vectors *= vectors.new_tensor(self.factors[sources])[:, None, None]
        return vectors

    def pieces(self) -> Iterator[slice]:
        """Ranges of rows that make up pieces."""
        count, length = rows_of(self.base).shape
        few = max(1, PIECE // (length * len(self.stored)))
        size = few if self.base.device.type == "cpu" else count
        return (slice(start, start + size) for start in range(0, count, size))

    def merged(
        self,
        step: Callable[[Float[Tensor, "sources rows length"], slice], Float[Tensor, "rows length"]],
    ) -> Float[Tensor, "*shape"]:
        """What `step` makes of every piece, which it may overwrite, put together."""
        out = torch.empty_like(rows_of(self.base))

        def place(rows: slice) -> None:
            out[rows] = step(self.part(slice(None), rows), rows)

        _ = self._whole  # made before the threads ask for it
        for _ in thread_map(place, self.pieces(), out.device):
            pass
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
        if self.thresholds is not None:
            return self.base.new_tensor(self.thresholds)[:, None].expand(-1, count)
        if rates is not None:
            kept = kept_counts(rates, length)
        else:  # one long row
            kept = kept_counts(np.array([keep]), count * length)
        if self.ordered is None:
            limits = self._limits(kept)
        elif rates is not None:
            limits = self.ordered.of_rows(kept)
        else:
            limits = self.ordered.of_whole(int(kept[0]))[:, None]
        return limits.expand(-1, count)

    def _limits(self, kept: Int[np.ndarray, " parts"]) -> Float[Tensor, "sources parts"]:
        """The least of so many largest magnitudes of each part: a row, or all of them as one. Of a
        large tensor found by several threads."""
        if self._whole is not None:
            return _thresholds(self._whole.abs(), kept)
        rows, numbers = rows_of(self.base), range(len(self.stored))
        share = math.ceil(len(numbers) / torch.get_num_threads())

        def of_share(sources: range) -> Tensor:
            # One workspace for all of them: not all that each took anew would be used again, so
            # that memory would grow with their number.
            space = rows.new_empty(1, *rows.shape)
            vectors = (self._vectors(slice(i, i + 1), slice(None), space) for i in sources)
            return torch.cat([_thresholds(vector.abs_(), kept) for vector in vectors])

        shares = (numbers[first : first + share] for first in numbers[::share])
        return torch.cat(list(thread_map(of_share, shares, rows.device)))


def rows_of(tensor: Tensor) -> Tensor:
    """A tensor as rows; a vector, or one number, is a single one."""
    return tensor.reshape(len(tensor), -1) if tensor.ndim > 1 else tensor.reshape(1, -1)


def kept_counts(rates: Float[np.ndarray, " rows"], length: int) -> Int[np.ndarray, " rows"]:
    """Entries a row of that length keeps: the rate's share rounded down, at least one.

    A rate is the nearest double of a decimal, or a difference of such: what falls short of a whole
    number by that rounding alone (.29 of 100) counts as the whole number.
    """
    share = np.asarray(rates, dtype=np.float64) * length
    return np.clip(np.floor(share + ROUNDING * length).astype(np.int64), 1, length)


def trim_(
    rows: Float[Tensor, "*rows length"],
    limits: Float[Tensor, "*rows"],
    kept: Int[Tensor, " last"] | None = None,
) -> Float[Tensor, "*rows length"]:
    """Zeroes, in place, what is smaller in magnitude than its row's limit (TIES, step 1).

    Equal magnitudes at the threshold are all kept.

    Args:
        kept: to which each row's number of entries kept is added; None counts nothing.
    """
    # Comparing in place gives ones and zeros as floats, at a fraction of a Boolean mask's time.
    mask = rows.abs().ge_(limits[..., None])
    if kept is not None:
        kept += mask.sum(-1).long().sum(0)  # fp32 counts a row's ones exactly, and fast
    return rows.mul_(mask)


def _thresholds(
    magnitude: Float[Tensor, "sources rows length"], kept: Int[np.ndarray, " parts"]
) -> Float[Tensor, "sources parts"]:
    """The kept[p]-th largest magnitude of each source's part p: a row, or all of them as one;
    leaves the magnitudes in disorder."""
    counts = np.tile(kept, len(magnitude))
    return thresholds_(magnitude.view(len(counts), -1), counts).view(-1, len(kept))


def thresholds_(
    magnitude: Float[Tensor, "rows length"], counts: Int[np.ndarray, " rows"]
) -> Float[Tensor, " rows"]:
    """The counts[r]-th largest magnitude of each row r; leaves the rows in disorder."""
    length = magnitude.shape[1]
    place = length - counts
    if magnitude.device.type != "cpu":
        index = torch.from_numpy(place).to(magnitude.device)
        return magnitude.sort(dim=1).values.gather(1, index[:, None])[:, 0]
    # NumPy's vectorised partition and sort are many times faster than torch's on the CPU.
    values = magnitude.numpy()
    if length >= LONG:
        rows = zip(values, place, strict=True)
        return torch.from_numpy(np.array([_of_place(row, int(at)) for row, at in rows]))
    if (place == place[0]).all():
        values.partition(place[0], axis=1)
    else:
        values.sort(axis=1)
    return torch.from_numpy(values[np.arange(len(values)), place])


def _of_place(values: Float[np.ndarray, " n"], place: int) -> np.float32:
    """The entry at that place of a row's order; may leave the row in disorder.

    Of a long row, the place of one value is counted, and a sorted sample says how far from it the
    entry lies: one or two in a hundred are between, among which it is looked for in turn. Where
    the sample misled, all are partitioned.
    """
    if len(values) >= LONG:
        step = int(len(values) ** (1 / 3)) | 1  # odd: it meets every column of a matrix
        sample = np.sort(values[::step])
        middle = min(place // step, len(sample) - 1)
        below = values < sample[middle]
        ahead = place - int(np.count_nonzero(below))
        spread = DEVIATIONS * math.sqrt(abs(ahead) / step + 1)
        end = middle + round(ahead / step + math.copysign(spread, ahead))
        if ahead >= 0:
            between = (values <= sample[end]) ^ below if end < len(sample) else ~below
        else:
            between = (values < sample[end]) ^ below if end >= 0 else below
        found = values.compress(between)
        left = ahead if ahead >= 0 else ahead + len(found)
        if 0 <= left < len(found) < len(values):
            return _of_place(found, left)
    values.partition(place)
    return values[place]


def random_masks(
    shape: tuple[int, ...],
    sources: Sequence[str],
    keep: float | Float[np.ndarray, " rows"],
    seed: int,
    name: str,
) -> Bool[Tensor, "sources *shape"]:
    """DARE's masks, one per source: each entry is kept with probability `keep`, its row's or all's.

    Drawn on the CPU from the seed, the tensor's name and the source's, so that neither the device
    nor the order of tensors and sources matters, nor which other sources there are.
    """
    masks = np.empty((len(sources), *shape), dtype=bool)
    # Rates are rounded as a single one is: with equal rates the masks are those of one rate.
    least = np.float32(keep)
    for mask, source in zip(masks, sources, strict=True):
        entropy = [seed, *name.encode(), END_OF_NAME, *source.encode()]
        draws = np.random.default_rng(entropy).random(shape, dtype=np.float32)
        np.less(draws, least if least.ndim == 0 else least[:, None], out=mask)
    return torch.from_numpy(masks)


def elect_and_merge_(
    vectors: Float[Tensor, "sources *shape"], alpha: Float[Tensor, " sources"]
) -> Float[Tensor, "*shape"]:
    """Sign election and disjoint mean of trimmed task vectors (TIES, steps 2 and 3).

    The elected sign is that of sum(alpha_i t_i), zero counting as positive; the result is
    sum(alpha_i t_i) / sum(alpha_i) over the sources that agree, zero where none does. The vectors
    are overwritten.
    """
    t = vectors.flatten(1)
    sign = elected_sign(t, alpha)
    total = alpha @ t.mul_(sign).clamp_(min=0)
    weight = alpha @ t.gt_(0)  # ones and zeros, see trim_
    # Where nobody agrees, total is zero.
    merged = sign * total / weight.clamp_(min=torch.finfo(t.dtype).tiny)
    return merged.view(vectors.shape[1:])


def elected_sign(
    t: Float[Tensor, "sources n"], alpha: Float[Tensor, " sources"]
) -> Float[Tensor, " n"]:
    """The sign of sum(alpha_i t_i), zero counting as positive."""
    # The vote is exact for equal weights: they become ones, and doubles add without rounding.
    wide = torch.float32 if t.device.type == "mps" else torch.float64
    vote = (alpha / alpha.max()).to(wide) @ t.to(wide)
    return vote.ge_(0).mul_(2).sub_(1).to(t.dtype)


@dataclass(frozen=True)
class SortedMagnitudes:
    """Task vectors as rows, and their magnitudes from small to large, sorted when first asked for.

    Args:
        vectors: in fp32, on the device; never written to.
    """

    vectors: Float[Tensor, "sources rows length"]

    def of_whole(self, count: int) -> Float[Tensor, " sources"]:
        """The count-th largest magnitude of each source's whole tensor."""
        return self._whole[:, self._whole.shape[1] - count]

    def of_rows(self, counts: Int[np.ndarray, " rows"]) -> Float[Tensor, "sources rows"]:
        """The counts[r]-th largest magnitude of each source's row r."""
        place = torch.from_numpy(self.vectors.shape[2] - counts).to(self.vectors.device)
        index = place[None, :, None].expand(len(self.vectors), -1, 1)
        return self._rows.gather(2, index)[..., 0]

    @functools.cached_property
    def _whole(self) -> Float[Tensor, "sources n"]:
        return _sorted(self.vectors.flatten(1))

    @functools.cached_property
    def _rows(self) -> Float[Tensor, "sources rows length"]:
        return _sorted(self.vectors)


def _sorted(vectors: Float[Tensor, "sources *rest"]) -> Float[Tensor, "sources *rest"]:
    """Magnitudes in order along the last dimension."""
    magnitude = vectors.abs()
    if magnitude.device.type != "cpu":
        return magnitude.sort(dim=-1).values
    # NumPy's vectorised sort is many times faster than torch's on the CPU; a source a thread.
    list(thread_map(lambda source: source.numpy().sort(axis=-1), magnitude, magnitude.device))
    return magnitude


Read = Callable[[Collection[str]], Mapping[str, Tensor]]


def global_threshold(base: Mapping[str, Tensor], read: Read, keep: float) -> float:
    """The least magnitude kept by a global trim, over all tensors of a source's task vector.

    Takes one task vector's memory, so that sources are done one after the other; found on the CPU,
    so that it is the same for every device.

    Args:
        base: in fp32.
        read: gives a source's tensors as they are stored, by name.
        keep: share of all entries that is kept, rounded down but at least one entry.
    """
    total = sum(tensor.numel() for tensor in base.values())
    magnitude = torch.empty(1, total)
    start = 0
    for name, tensor in base.items():
        stop = start + tensor.numel()
        vector = magnitude[0, start:stop].view(tensor.shape)
        torch.sub(read([name])[name], tensor.cpu(), out=vector).abs_()
        start = stop
    return float(thresholds_(magnitude, kept_counts(np.array([keep]), total)))
