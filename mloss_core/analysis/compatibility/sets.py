"""Can these sources merge at all? What tells before anything is merged.

M-Loss of pairs, of the whole set and of the set without each source follows from one pass of the
base over the calibration images: the base's residual stream feeds every block, and each source's
own c_fc gives its pre-activations there (inputs of the pretrained model, as the authors' released
code takes them; in a merge they come from the partly merged model).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ...architecture import c_fc
from ...data.calibration import preprocess
from ...families.family import Family
from ...hardware import device as devices
from ...hardware.out_of_memory import reported_memory
from ...intervals import with_interval
from ...mloss import SetLosses, block_losses, some_tokens
from ...recipe import calibration_of, check
from ...tensor_cache import read
from ...types import CalibrationBatch, MergeRecipe
from ...vit import Tower

Members = tuple[int, ...]  # places of a set's sources among a recipe's


def losses_of_sets(
    recipe: MergeRecipe,
    family: Family,
    alphas: Float[np.ndarray, "sets q"],
    *,
    device: str = "auto",
    calibration: CalibrationBatch | None = None,
) -> Iterator[SetLosses]:
    """M-Loss (Eqs. 3, 4, 6) of sets of a recipe's sources, block by block, on the base's stream.

    Args:
        recipe: its sources, samples, tokens and seed are read.
        alphas: merging weights of each set over the recipe's sources, zero where not a member.
        calibration: exactly these images; None draws them as the recipe says.

    Raises:
        InputError: before any work, where the recipe or the files are wrong.
    """
    check(recipe, family)
    place = devices.choose(device)
    batch = calibration or calibration_of(recipe, family)
    assert batch is not None, "M-TIES reads images"
    with reported_memory(place.type):
        base, files = family.base(), [family.source(name) for name in recipe.sources]
        tower = Tower(family.model, base.load(place))
        images = preprocess(batch.images, family.model, place)
        start = time.perf_counter()
        for block, inputs in enumerate(tower.block_inputs(images)):
            names = (c_fc(block) + ".weight", c_fc(block) + ".bias")
            stored = read(files, names, place)
            layers = list(zip(*(stored[name] for name in names), strict=True))
            if recipe.tokens is not None:
                inputs = some_tokens(inputs, recipe.tokens, recipe.seed)
            losses = block_losses(inputs, layers, family.model.activation, alphas)
            seconds = time.perf_counter() - start
            yield SetLosses(block=block, per_image=losses.per_image, seconds=seconds)
            start = time.perf_counter()


def pairs(sources: int) -> list[Members]:
    """All pairs of so many sources."""
    return list(itertools.combinations(range(sources), 2))


def alphas_of(sets: Sequence[Members], alpha: Sequence[float]) -> Float[np.ndarray, "sets q"]:
    """Merging weights of sets: the members' own, divided by their sum; equal if all are zero."""
    rows = np.zeros((len(sets), len(alpha)))
    for row, members in zip(rows, sets, strict=True):
        row[list(members)] = [alpha[i] for i in members]
        if row.sum() == 0:
            row[list(members)] = 1
        row /= row.sum()
    return rows


def compatibility_sets(recipe: MergeRecipe) -> Float[np.ndarray, "sets q"]:
    """What `Compatibility` reads: all sources, all but each one, and all pairs in equal parts.

    Of two sources nothing is left out: one alone has no M-Loss.
    """
    q = len(recipe.sources)
    everyone = tuple(range(q))
    without = [tuple(j for j in everyone if j != i) for i in everyone] if q > 2 else []
    weighted = alphas_of([everyone, *without], recipe.alpha)
    return np.concatenate([weighted, alphas_of(pairs(q), [1.0] * q)])


@dataclass(frozen=True, kw_only=True)
class Compatibility:
    """The blocks that `losses_of_sets` has measured of `compatibility_sets`, as matrices and gains.

    A total is over the blocks measured: the mean of Eq. 4's, the sum of Eq. 3's or Eq. 6's.
    """

    sources: tuple[str, ...]
    blocks: tuple[SetLosses, ...]

    def per_image(self, measure: str, block: int | None) -> Float[np.ndarray, "sets images"]:
        """Every set's M-Loss of a block, or the total of all (None), image by image."""
        if block is not None:
            return next(b for b in self.blocks if b.block == block).of(measure)
        losses = np.stack([b.of(measure) for b in self.blocks])
        return losses.mean(0) if measure == "node" else losses.sum(0)

    def whole(self, measure: str, block: int | None = None) -> Float[np.ndarray, "3"]:
        """M-Loss of all sources: mean, and its 95 % interval over the calibration images."""
        return with_interval(self.per_image(measure, block)[0])

    def pair_matrix(
        self, measure: str, block: int | None = None, bound: int = 0
    ) -> Float[np.ndarray, "q q"]:
        """M-Loss of each pair in equal parts; zero on the diagonal.

        Args:
            bound: 0 for the means, 1 and 2 for the ends of their 95 % intervals over images.
        """
        q = len(self.sources)
        members = pairs(q)
        values = with_interval(self.per_image(measure, block)[-len(members) :])[bound]
        matrix = np.zeros((q, q))
        for (i, j), value in zip(members, values, strict=True):
            matrix[i, j] = matrix[j, i] = value
        return matrix

    def gains(self, measure: str, block: int | None = None) -> Float[np.ndarray, "3 q"] | None:
        """How much M-Loss falls when a source is left out, as a share of the whole's: its mean and
        95 % interval, paired over the calibration images; None of two sources."""
        q = len(self.sources)
        if q < 3:
            return None
        values = self.per_image(measure, block)[: q + 1]
        whole = values[0].mean()
        return with_interval((values[0] - values[1:]) / (whole if whole > 0 else 1.0))
