"""EMR-Merging (Huang et al., NeurIPS 2024): one unified task vector, masks and scales per task."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ..architecture import ViTConfig
from ..checkpoints.image_tower import Checkpoint
from ..errors import BadValue
from ..tensor_cache import read
from ..trim import TaskVectors, elected_sign
from ..types import BlockMerged, MergeRecipe
from ..vit import Tower

Weights = dict[str, Tensor]


class TaskModels:
    """EMR-Merging's model of each task, base + scale_i * (mask_i * unified); the last is cached.

    A task's mask, where t_i * unified > 0, and its scale, sum |t_i| / sum |mask_i * unified| over
    the whole model, come from its source's file when the task's model is built: memory does not
    grow with the tasks.

    Args:
        base: the base's weights on the device.
        sources: by name, each the name of its task.
    """

    def __init__(self, family: ViTConfig, base: Weights, sources: Mapping[str, Checkpoint]):
        self.family, self.base, self.sources = family, base, sources
        self.unified: Weights = {}
        self._built: tuple[str, Tower] | None = None
        self._lock = threading.Lock()

    def prepare(self, recipe: MergeRecipe) -> Iterator[BlockMerged]:
        """Computes the unified task vector, one event per block; required before `features`."""
        alpha = torch.tensor(recipe.alpha, device=self._device)
        start = time.perf_counter()
        self._unify(self.family.outer_names(), alpha)
        for block in range(self.family.blocks):
            self._unify(self.family.block_names(block), alpha)
            yield BlockMerged(block=block, kept=1.0, seconds=time.perf_counter() - start)
            start = time.perf_counter()

    def features(self, images: Float[Tensor, "n 3 h w"], task: str) -> Float[Tensor, "n embed"]:
        """Image embeddings of the task's model, not normalised.

        Raises:
            BadValue: the task's own source is not merged, so that it has neither mask nor scale.
        """
        if task not in self.sources:
            problem = f"has no mask: EMR-Merging merged {', '.join(self.sources)}"
            raise BadValue(
                "task", task, problem, "merge its own source too, or take another method"
            )
        with self._lock:  # threads that embed images of one task share its model
            if self._built is None or self._built[0] != task:
                self._built = None  # before the next one takes as much
                self._built = task, Tower(self.family, self.weights(task))
            tower = self._built[1]
        return tower.features(images)

    def _unify(self, names: Collection[str], alpha: Tensor) -> None:
        stored = read(list(self.sources.values()), names, self._device)
        for name in names:
            vectors = TaskVectors(self.base[name], stored[name])
            self.unified[name] = vectors.merged(lambda t, rows: unified_(t, alpha))

    def weights(self, task: str) -> Weights:
        """The weights of the task's model, computed anew."""
        wide = torch.float32 if self._device.type == "mps" else torch.float64
        own = ours = 0.0
        weights = {}
        for name, unified in self.unified.items():
            stored = self.sources[task].read([name])[name]
            vector = stored.to(self._device) - self.base[name]
            own += float(vector.abs().sum(dtype=wide))
            masked = unified * vector.sign_().mul_(unified).gt_(0)
            ours += float(masked.abs().sum(dtype=wide))
            weights[name] = masked
        scale = own / ours if ours else 0.0  # nothing agrees: the base itself
        # In place: no more than one tower is made.
        return {name: masked.mul_(scale).add_(self.base[name]) for name, masked in weights.items()}

    @property
    def _device(self) -> torch.device:
        return next(iter(self.base.values())).device


def unified_(
    vectors: Float[Tensor, "sources *shape"], alpha: Float[Tensor, " sources"]
) -> Float[Tensor, "*shape"]:
    """EMR's unified task vector: the elected sign with the largest agreeing magnitude.

    The sign is that of sum(alpha_i t_i), zero counting as positive; only sources of a weight count,
    and entries are zero where none agrees.

    The vectors are overwritten.
    """
    t = vectors.flatten(1)
    sign = elected_sign(t, alpha)
    largest = t.mul_(sign).clamp_(min=0).mul_(alpha.gt(0)[:, None]).amax(0)
    return largest.mul_(sign).view(vectors.shape[1:])
