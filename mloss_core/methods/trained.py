"""Rules whose coefficients come from gradients on unlabeled images: Fisher, AdaMerging, SAMerging.

Nothing here asks for a gradient beyond one step: no event is yielded inside.
"""

from __future__ import annotations

import contextlib
import math
import time
import zipfile
from collections.abc import Callable, Generator, Iterator, Sequence
from uuid import uuid4

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from .. import trim
from ..errors import BadValue
from ..tensor_cache import room
from ..trim import TaskVectors
from ..types import Event, MergeRecipe, Trained
from ..vit import Tower
from .method import Models, OwnImages, Prepared, Weights
from .rules import Alpha, Merged, counts

FISHER_FLOOR = 1e-6  # of every entry, as in its published merging code
SAVED = 20  # steps between two states on disk: what a kill loses at the most
BATCH = 16  # images of each task in a step
ADA_STEPS, ADA_RATE, ADA_START = 500, 1e-3, 0.3
SAM_STEPS, SAM_RATE, SAM_DECAY, SAM_RHO = 1000, 1e-3, 5e-4, 0.07
TEMPERATURE = 2.0  # of SAMerging's distillation
BETAS, EPS = (0.9, 0.999), 1e-8  # Adam's
GRAPH = 1 << 27  # floats that a backward pass may hold of its activations

Coefficients = Float[Tensor, "sources tensors"]
# Logits of a batch of a task, the task's number, and which of its images they are -> loss.
Objective = Callable[[Tensor, int, np.ndarray], Tensor]


def fisher(
    models: Models, recipe: MergeRecipe, own: Sequence[OwnImages]
) -> Generator[Event, None, Prepared]:
    """W = sum_i w_i F_i W_i / sum_i w_i F_i per entry, w_i = alpha_i / ||F_i|| (Matena and Raffel
    2022): F_i is the mean over images of (d log p_y / d W)^2 in the source, y drawn from p.

    One image's gradient at a time, so that no cross terms of images enter.
    """
    base = models.base
    above = {name: torch.zeros_like(tensor) for name, tensor in base.items()}
    below = {name: torch.zeros_like(tensor) for name, tensor in base.items()}
    for i, images in enumerate(own):
        start = time.perf_counter()
        weights = models.sources[i].load(models.device)
        information = _information(models, recipe, weights, images, i)
        size = math.sqrt(sum(float(f.square().sum()) for f in information.values()))
        weight = recipe.alpha[i] / size if size else 0.0
        for name, f in information.items():
            f.add_(FISHER_FLOOR).mul_(weight)
            below[name] += f
            above[name] += f.mul_(weights[name] - base[name])
        yield Trained(step=i + 1, steps=len(own), loss=None, seconds=time.perf_counter() - start)

    def rule(v: TaskVectors, alpha: Alpha, recipe: MergeRecipe, name: str, rates=None) -> Merged:
        tiny = torch.finfo(v.base.dtype).tiny
        return recipe.scaling * (above[name] / below[name].clamp(min=tiny))

    return Prepared(rule=rule)


def _information(
    models: Models, recipe: MergeRecipe, weights: Weights, images: OwnImages, source: int
) -> Weights:
    """The diagonal of a source's Fisher information, mean over its task's images."""
    generator = np.random.default_rng([recipe.seed, source])
    leaves = {name: tensor.requires_grad_() for name, tensor in weights.items()}
    total = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    with torch.enable_grad():
        for image in images.pixels:
            logits = images.logits(Tower(models.config, leaves).features(image[None]))
            log_p = logits.log_softmax(1)[0]
            p = log_p.detach().exp().double().cpu().numpy()
            answer = int(generator.choice(len(p), p=p / p.sum()))
            gradients = torch.autograd.grad(log_p[answer], list(leaves.values()))
            for name, gradient in zip(leaves, gradients, strict=True):
                total[name].addcmul_(gradient, gradient, value=1 / len(images.pixels))
    for tensor in leaves.values():
        tensor.requires_grad_(False)
    return total


def adamerging(
    models: Models, recipe: MergeRecipe, own: Sequence[OwnImages]
) -> Generator[Event, None, Prepared]:
    """base_p + sum_i L_ip t_ip, with L that minimises the mean entropy of the predictions on
    unlabeled images by Adam (Yang et al. 2024, AdaMerging)."""

    def entropy(logits: Tensor, task: int, batch: np.ndarray) -> Tensor:
        log_p = logits.log_softmax(1)
        return -(log_p.exp() * log_p).sum(1).mean()

    trainer = _Trainer(models, recipe, own, entropy, ADA_START, recipe.rate or ADA_RATE)
    yield from trainer.train(recipe.steps or ADA_STEPS)
    return Prepared(rule=trainer.rule)


def samerging(
    models: Models, recipe: MergeRecipe, own: Sequence[OwnImages]
) -> Generator[Event, None, Prepared]:
    """The same coefficients by distillation: KL of each source's predictions, softened, to the
    merged model's, on a step of SAM that perturbs the coefficients (after SAMerging).

    The released code never rebuilds the weights between its two passes, so that its SAM does
    nothing; rho = 0 is that.
    """
    targets = []
    for source, images in zip(models.sources, own, strict=True):
        tower = Tower(models.config, source.load(models.device))
        logits = images.logits(tower.features(images.pixels))
        targets.append((logits / TEMPERATURE).log_softmax(1))

    def divergence(logits: Tensor, task: int, batch: np.ndarray) -> Tensor:
        ours = (logits / TEMPERATURE).log_softmax(1)
        return F.kl_div(ours, targets[task][batch], log_target=True, reduction="batchmean")

    rate = recipe.rate or SAM_RATE
    trainer = _Trainer(models, recipe, own, divergence, 0.0, rate, SAM_DECAY, recipe.rho)
    yield from trainer.train(recipe.steps or SAM_STEPS)
    return Prepared(rule=trainer.rule)


class _Trainer:
    """Trains one coefficient per source and tensor (or per source) by Adam.

    The gradient of a coefficient is the inner product of the merged weight's gradient with the task
    vector, so that task vectors need not be held, nor a graph through them.

    Args:
        start: of every coefficient.
        rho: radius of SAM's step, relative to each coefficient; 0 for none.
    """

    def __init__(
        self,
        models: Models,
        recipe: MergeRecipe,
        own: Sequence[OwnImages],
        objective: Objective,
        start: float,
        rate: float,
        decay: float = 0.0,
        rho: float = 0.0,
    ):
        self.models, self.recipe, self.own, self.objective = models, recipe, own, objective
        self.rate, self.decay, self.rho = rate, decay, rho
        self.names = list(models.base)
        shape = (len(models.sources), len(self.names))
        times = torch.tensor(counts(torch.tensor(recipe.alpha)))
        self.coefficients = (start * times[:, None]).expand(shape).clone().to(models.device)
        self.first, self.second = (torch.zeros_like(self.coefficients) for _ in range(2))
        self.good = self.coefficients
        self.room = room(models.config.shapes(), len(models.sources)) > 0
        self.kept: dict[str, Tensor] = {}
        self.order = np.random.default_rng(recipe.seed)
        self.curve: list[tuple[float, float]] = []  # loss and seconds of each step

    def train(self, steps: int) -> Generator[Trained, None, None]:
        """Takes so many steps; a loss that is no number ends it, with what was best before.

        Raises:
            BadValue: the first loss is no number.
        """
        yield from self._resumed(steps)
        for step in range(len(self.curve) + 1, steps + 1):
            start, last = time.perf_counter(), self.coefficients.clone()
            self.order = np.random.default_rng([self.recipe.seed, step])
            batches = [self._batch(images) for images in self.own]
            loss, gradient = self._gradient(self.coefficients, batches)
            if self.rho and math.isfinite(loss):
                _, gradient = self._gradient(self._perturbed(gradient), batches)
            problem = ""
            if not (math.isfinite(loss) and gradient.isfinite().all()):
                problem = f"leads to a loss that is no number at step {step}"
            else:
                self.good = last
                self._step(gradient + self.decay * self.coefficients, step)
                if not self.coefficients.isfinite().all():
                    problem = f"leads to coefficients that are no numbers at step {step}"
            if problem and step == 1:
                remedy = "check the sources, or lower the rate"
                raise BadValue("rate", f"{self.rate:g}", problem, remedy)
            if problem:
                self.coefficients = self.good
                yield self._trained(step, steps, loss, start, f"{problem}; kept step {step - 1}")
                return
            self.curve.append((loss, time.perf_counter() - start))
            if step % SAVED == 0 or step == steps:
                self._save()
            yield self._trained(step, steps, loss, start)

    def _resumed(self, steps: int) -> Iterator[Trained]:
        """What an earlier, interrupted training of the same recipe has done: its steps again as
        events, and its coefficients. A file that cannot be read counts as none."""
        path = self.models.state
        if path is None or not path.is_file():
            return
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as state:
                arrays = {name: state[name] for name in ("coefficients", "first", "second")}
                curve = [(float(loss), float(seconds)) for loss, seconds in state["curve"]]
            if any(a.shape != self.coefficients.shape for a in arrays.values()):
                return
            for name, array in arrays.items():
                setattr(self, name, torch.from_numpy(array).to(self.models.device))
            self.good, self.curve = self.coefficients, curve
        for step, (loss, seconds) in enumerate(self.curve, 1):
            yield Trained(step=step, steps=steps, loss=loss, seconds=seconds)

    def _save(self) -> None:
        """Writes the state aside, then renames it; a full disk only loses the resumption."""
        path = self.models.state
        if path is None:
            return
        aside = path.with_name(f"{path.name}.{uuid4().hex[:8]}.npz")
        arrays = {n: getattr(self, n).cpu().numpy() for n in ("coefficients", "first", "second")}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(aside, allow_pickle=False, curve=np.array(self.curve), **arrays)
            aside.replace(path)
        except OSError:
            aside.unlink(missing_ok=True)

    def rule(
        self, v: TaskVectors, alpha: Alpha, recipe: MergeRecipe, name: str, rates=None
    ) -> Merged:
        """sum_i L_ip t_ip of a tensor p."""
        coefficients, vectors = self.coefficients[:, self.names.index(name)], self._vectors(name)
        if v.kept is not None:
            plain = self.recipe.vectors == "plain"
            by_row = vectors.view(len(vectors), len(v.kept), -1)
            rows = by_row.shape[0] * by_row.shape[2]
            v.kept.add_(rows if plain else by_row.count_nonzero((0, 2)))
        return (coefficients @ vectors).view(v.base.shape)

    def _trained(self, step: int, steps: int, loss: float, start: float, note="") -> Trained:
        return Trained(
            step=step, steps=steps, loss=loss, seconds=time.perf_counter() - start, note=note,
            coefficients=self.by_block() if step % 10 == 0 or step in (1, steps) else None,
        )  # fmt: skip

    def by_block(self) -> Float[np.ndarray, "sources blocks"]:
        """Mean coefficient of each source in each block."""
        config, values = self.models.config, self.coefficients.cpu().numpy()
        places = [
            [self.names.index(name) for name in config.block_names(block)]
            for block in range(config.blocks)
        ]
        return np.stack([values[:, of_block].mean(1) for of_block in places], 1)

    def _batch(self, images: OwnImages) -> Int64[np.ndarray, " batch"]:
        size = min(BATCH, len(images.pixels))
        return self.order.permutation(len(images.pixels))[:size]

    def _vectors(self, name: str) -> Float[Tensor, "sources n"]:
        """The task vectors of a tensor, trimmed if they are to be; kept where there is room."""
        if name in self.kept:
            return self.kept[name]
        base = self.models.base[name]
        vectors = TaskVectors(base, self.models.stored({name: ()})[name])
        t = vectors.part(slice(None), slice(None)).clone()
        if self.recipe.vectors == "trimmed":  # AdaMerging++
            t = trim.trim_(t, vectors.limits(self.recipe.keep))
        t = t.flatten(1)
        if self.room:
            self.kept[name] = t
        return t

    def _gradient(
        self, coefficients: Coefficients, batches: Sequence[Int64[np.ndarray, " batch"]]
    ) -> tuple[float, Coefficients]:
        """The loss summed over the tasks, and its gradient; a few tasks' graph at a time."""
        leaves = {}
        for place, name in enumerate(self.names):
            base = self.models.base[name]
            added = (coefficients[:, place] @ self._vectors(name)).view(base.shape)
            leaves[name] = (base + added).requires_grad_()
        total, sums = 0.0, {name: torch.zeros_like(tensor) for name, tensor in leaves.items()}
        tower, model = Tower(self.models.config, leaves), self.models.config
        an_image = model.tokens * model.blocks * (16 * model.width + 4 * model.nodes)
        images = max(BATCH, GRAPH // an_image)
        for some in _groups([len(batch) for batch in batches], images):
            with torch.enable_grad():
                pixels = torch.cat([self.own[t].pixels[batches[t]] for t in some])
                parts = tower.features(pixels).split([len(batches[t]) for t in some])
                losses = []
                for task, features in zip(some, parts, strict=True):
                    logits = self.own[task].logits(features)
                    losses.append(self.objective(logits, task, batches[task]))
                loss = torch.stack(losses).sum()
                gradients = torch.autograd.grad(loss, list(leaves.values()))
            total += float(loss.detach())
            for name, gradient in zip(leaves, gradients, strict=True):
                sums[name] += gradient
        return total, self._of_coefficients(sums)

    def _of_coefficients(self, sums: Weights) -> Coefficients:
        """dL/dc_ip = <dL/dW_p, t_ip>."""
        products = [self._vectors(name) @ sums[name].flatten() for name in self.names]
        gradient = torch.stack(products, 1)
        if self.recipe.coefficients == "source":  # one for all tensors of a source
            gradient = gradient.sum(1, keepdim=True).expand_as(gradient).clone()
        return gradient

    def _perturbed(self, gradient: Coefficients) -> Coefficients:
        """SAM's adaptive point: c + rho c^2 g / ||c g||."""
        size = (self.coefficients.abs() * gradient).norm()
        if self.recipe.coefficients == "source":  # one number, repeated for every tensor
            size = size / math.sqrt(len(self.names))
        if not size > 0:
            return self.coefficients
        return self.coefficients + self.rho * self.coefficients.square() * gradient / size

    def _step(self, gradient: Coefficients, step: int) -> None:
        """Adam's."""
        self.first.lerp_(gradient, 1 - BETAS[0])
        self.second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        scale = (self.second / (1 - BETAS[1] ** step)).sqrt().add_(EPS)
        self.coefficients = self.coefficients - (
            self.rate / (1 - BETAS[0] ** step) * self.first / scale
        )


def _groups(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Consecutive tasks whose images together are at most so many, at least one task each."""
    groups: list[list[int]] = []
    for task, size in enumerate(sizes):
        if groups and sum(sizes[t] for t in groups[-1]) + size <= most:
            groups[-1].append(task)
        else:
            groups.append([task])
    return groups


def steps_of(published: int) -> Callable[[MergeRecipe], int]:
    """How many events the training of a recipe yields."""
    return lambda recipe: recipe.steps or published
