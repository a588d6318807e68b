"""Accuracy of anything that embeds images, always with its count."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ..data.calibration import preprocess
from ..data.tasks import Task
from ..errors import BadTensor
from ..families.family import Family
from ..intervals import of_mean_share
from ..parallel import thread_map
from ..types import Accuracy, MergedModel, TaskEvaluated
from ..vit import Tower

KEPT = 128  # models whose features an Evaluator keeps
STEP = 64  # images that a source embeds between two events: a place to stop
PIECE = 32  # images that one thread embeds at once, where several tasks' are embedded side by side
PIXELS = 1 << 23  # floats of images at once: a whole test set in fp32 may be larger than memory


def hits(
    features: Float[Tensor, "n d"], head: Float[Tensor, "c d"], labels: Int64[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Whether the class of the highest cosine similarity is the right one, image by image."""
    similarity = F.normalize(features, dim=-1) @ F.normalize(head, dim=-1).T
    return similarity.argmax(1).cpu().numpy() == labels


def test_order(task: Task) -> Int64[np.ndarray, " n"]:
    """A fixed random order of the test images: the first n of it stand for the whole."""
    return np.random.default_rng(0).permutation(len(task.images))


class Evaluator:
    """Evaluates models on one split of a family's tasks; keeps images and features in memory.

    Features are kept under a key that names the model's content, in the order of `test_order`,
    and only extended when more images are asked for: nothing is embedded twice, whoever asks.
    For one thread at a time.
    """

    def __init__(self, family: Family, device: torch.device, split: str = "test"):
        self.family, self.device, self.split = family, device, split
        self.heads = family.heads(device)
        self._tasks: dict[str, Task] = {}
        self._features: dict[str, dict[str, Tensor]] = {}  # by model and task, last used last
        self._built: tuple[str, MergedModel] | None = None  # the last model that embedded

    def task(self, name: str) -> Task:
        """The task's images in `test_order`, read once."""
        if name not in self._tasks:
            task = self.family.task(name, self.split)
            order = test_order(task)
            shuffled = {"images": task.images[order], "labels": task.labels[order]}
            if len(self.heads[name]) != len(task.classes):
                problem = f"{name} has {len(self.heads[name])} rows"
                remedy = f"give one per class: {len(task.classes)}"
                raise BadTensor(
                    f"heads of {self.family.name}", "heads.safetensors", problem, remedy
                )
            self._tasks[name] = dataclasses.replace(task, **shuffled)
        return self._tasks[name]

    def pixels(self, name: str, start: int, stop: int | None) -> Float[Tensor, "n 3 h w"]:
        """Preprocessed images of a task, from start to stop."""
        return preprocess(self.task(name).images[start:stop], self.family.model, self.device)

    def features(
        self, key: str, model: Callable[[], MergedModel], name: str, images: int | None = None
    ) -> Float[Tensor, "n d"]:
        """Features of a task's first images, computed as far as they are not known.

        Args:
            key: names the model's content, e.g. a hash.
            model: builds it; called only if something is to be computed.
            images: how many; None means all.
        """
        of_model = self._features[key] = self._features.pop(key, {})
        if len(self._features) > KEPT:
            del self._features[next(iter(self._features))]
        total = len(self.task(name).images)
        want = total if images is None else min(images, total)
        cached = of_model.get(name)
        have = 0 if cached is None else len(cached)
        if have < want:
            embedder = self._model(key, model)
            size = max(1, PIXELS // (3 * self.family.model.image_size**2))
            parts = [] if cached is None else [cached]
            for start in range(have, want, size):
                pixels = self.pixels(name, start, min(start + size, want))
                parts.append(embedder.features(pixels, name))
            cached = of_model[name] = torch.cat(parts)
        assert cached is not None
        return cached[:want]

    def of_file(self, source: str | None, name: str, images: int | None = None) -> Tensor:
        """Features through a source's file (None: the base)."""
        checkpoint = self.family.source(source) if source else self.family.base()
        build = lambda: Tower(self.family.model, checkpoint.load(self.device))  # noqa: E731
        return self.features(checkpoint.sha256, build, name, images)

    def embed(
        self, key: str, build: Callable[[], MergedModel], name: str, images: int | None = None
    ) -> Iterator[tuple[float, int, int]]:
        """Embeds a task's first images, a few at a time.

        Yields seconds, images embedded so far and in all; once at least, the last time when all
        are.

        Args:
            key, build: of the model, as in `features`.
        """
        total = len(self.task(name).images)
        want = total if images is None else min(images, total)
        have = len(self._features.get(key, {}).get(name, ()))
        for stop in [*range(have + STEP, want, STEP), want]:
            start = time.perf_counter()
            if have < want:
                self.extend(key, self._model(key, build), {name: stop})
            yield time.perf_counter() - start, stop, want

    def _model(self, key: str, build: Callable[[], MergedModel]) -> MergedModel:
        """The model under that key: the last one, or built anew."""
        if self._built is None or self._built[0] != key:
            self._built = None  # before the next one takes as much
            self._built = (key, build())
        return self._built[1]

    def extend(self, key: str, model: MergedModel, wanted: Mapping[str, int]) -> None:
        """Makes a model's features known of the first images of several tasks, side by side.

        Args:
            key: names the model's content, as in `features`.
            wanted: how many images of each task.
        """
        self._built = (key, model)
        of_model = self._features.setdefault(key, {})
        pieces = []
        for name, images in wanted.items():
            stop = min(images, len(self.task(name).images))
            starts = range(len(of_model.get(name, ())), stop, PIECE)
            pieces += [(name, start, min(start + PIECE, stop)) for start in starts]
        features = thread_map(
            lambda piece: model.features(self.pixels(*piece), piece[0]), pieces, self.device
        )
        for (name, _, _), new in zip(pieces, features, strict=True):
            of_model[name] = torch.cat([of_model[name], new]) if name in of_model else new

    def forget(self, key: str) -> None:
        """Drops what is known of a model that nobody will ask for again."""
        self._features.pop(key, None)

    def ensembled(
        self, name: str, sources: Sequence[str], alpha: Sequence[float], images: int | None = None
    ) -> Float[Tensor, "n d"]:
        """The ensemble's embeddings of a task's first images: the weighted mean of unit ones.

        Each member's say is its cosine similarities, whatever its norms.
        """
        parts = zip(alpha, sources, strict=True)
        units = [w * F.normalize(self.of_file(s, name, images), dim=-1) for w, s in parts]
        return torch.stack(units).sum(0)

    def judged(
        self,
        label: str,
        name: str,
        features: Float[Tensor, "n d"],
        start: float,
        block: int | None = None,
    ) -> TaskEvaluated:
        """The event for features of a task's first images, begun at `start`."""
        labels = self.task(name).labels[: len(features)]
        right = hits(features, self.heads[name], labels)
        seconds = time.perf_counter() - start
        return TaskEvaluated(model=label, task=name, block=block, hits=right, seconds=seconds)


def mean_accuracy(rates: Mapping[str, Bool[np.ndarray, " n"]]) -> tuple[float, float, float]:
    """Unweighted mean of the tasks' accuracies and its 95 % interval (tasks fixed)."""
    return mean_of({t: Accuracy(correct=int(h.sum()), total=len(h)) for t, h in rates.items()})


def mean_of(accuracies: Mapping[str, Accuracy]) -> tuple[float, float, float]:
    """The same from the tasks' counts; raises BadValue where there are none."""
    return of_mean_share([(a.correct, a.total) for a in accuracies.values()])
