"""A tower that is trained: its tensors are views of two vectors, so a step is a few kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from ..architecture import BLOCKS, ViTConfig
from ..parallel import thread_map
from ..vit import Tower
from .settings import Finetune

MOMENTUM = 0.9  # SGD's
BETAS, EPS = (0.9, 0.999), 1e-8  # AdamW's
CLIPPED = 1.0  # norm of the gradient
PIECE = 8  # pictures that are worth a thread of their own
SMALL = 1 << 24  # parameters whose gradient each thread may hold once
GROUPS = ("decayed", "plain")


class TrainedTower(Tower):
    """A tower whose stream stays in fp32 where its products are in half precision."""

    def mlp(
        self, block: int, x: Float[Tensor, "n t width"], inputs: Float[Tensor, "n t width"]
    ) -> Float[Tensor, "n t width"]:
        """The stream after the block; a sum in place would take the product's precision."""
        return x + self.linear(self.hidden(block, inputs), f"{BLOCKS}{block}.mlp.c_proj")


@dataclass(frozen=True)
class Gradient:
    """The mean loss of a batch, its gradient by group, and the gradient's norm before clipping."""

    loss: float
    groups: dict[str, Float[Tensor, " _"]]
    norm: float

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Student:
    """The image tower while it is trained, and its optimizer.

    Args:
        base: its tensors in fp32, on the device; left as they are.
        head: unit rows, on the device.
        scale: what cosine similarities are multiplied by.
    """

    def __init__(
        self,
        settings: Finetune,
        model: ViTConfig,
        base: Mapping[str, Tensor],
        head: Float[Tensor, "c d"],
        scale: float,
    ):
        self.settings, self.model, self.base = settings, model, base
        self.head, self.scale, self.device = head, scale, head.device
        self.groups: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = dict(base)
        names = trained_names(settings, model)
        # Gains, biases and other vectors are not pulled towards zero.
        matrices = [name for name in names if base[name].ndim > 1]
        vectors = [name for name in names if base[name].ndim < 2]
        self.names = {"decayed": matrices, "plain": vectors}
        for group, members in self.names.items():
            parts = [base[name].flatten() for name in members]
            flat = torch.cat(parts) if parts else torch.zeros(0, device=self.device)
            self.groups[group] = flat
            pieces = flat.split([len(part) for part in parts]) if parts else ()
            for name, piece in zip(members, pieces, strict=True):
                leaf = piece.view(base[name].shape).detach()
                self.weights[name] = leaf.requires_grad_()
        self.optimizer = self._optimizer()

    def _optimizer(self) -> torch.optim.Optimizer:
        parameters = [
            {"params": [self.groups[group]], "weight_decay": decay}
            for group, decay in zip(GROUPS, (self.settings.decay, 0.0), strict=True)
        ]
        rate = self.settings.rate
        if self.settings.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=rate, momentum=MOMENTUM)
        return torch.optim.AdamW(parameters, lr=rate, betas=BETAS, eps=EPS)

    @property
    def tower(self) -> Tower:
        """The tower as it is now."""
        return TrainedTower(self.model, self.weights)

    def gradient(self, pixels: Float[Tensor, "n 3 h w"], labels: Int64[Tensor, " n"]) -> Gradient:
        """The gradient of the batch's mean loss."""
        leaves = [self.weights[name] for group in GROUPS for name in self.names[group]]
        total = len(labels)

        def piece(part: tuple[Tensor, Tensor]) -> tuple[float, tuple[Tensor, ...]]:
            with torch.enable_grad():
                loss = F.cross_entropy(self.logits(part[0]), part[1], reduction="sum") / total
                return float(loss.detach()), torch.autograd.grad(loss, leaves)

        pieces = self._pieces(total)
        parts = list(zip(pixels.tensor_split(pieces), labels.tensor_split(pieces), strict=True))
        results = list(thread_map(piece, parts, self.device))
        sums = list(results[0][1])
        for _, gradients in results[1:]:
            sums = [a + b for a, b in zip(sums, gradients, strict=True)]
        groups = self._by_group(sums)
        norm = math.hypot(*(float(g.norm()) for g in groups.values()))
        return Gradient(sum(loss for loss, _ in results), groups, norm)

    def logits(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Scaled cosine similarities to the head's rows; products in bf16 on CUDA."""
        half = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            features = self.tower.features(pixels).float()
        return self.scale * F.normalize(features, dim=-1) @ self.head.T

    def step(self, gradient: Gradient, step: int) -> float:
        """Takes the step of that number; returns its learning rate."""
        rate = self.settings.rate_at(step)
        factor = min(1.0, CLIPPED / max(gradient.norm, 1e-12))
        for group, entry in zip(GROUPS, self.optimizer.param_groups, strict=True):
            entry["lr"] = rate
            self.groups[group].grad = gradient.groups[group] * factor
        self.optimizer.step()
        return rate

    def distances(self) -> tuple[list[float], float]:
        """||W - W_base|| / ||W_base|| of each block, and of what lies outside."""
        blocks = [self._distance(self.model.block_names(b)) for b in range(self.model.blocks)]
        return blocks, self._distance(self.model.outer_names())

    def state(self) -> dict[str, Tensor]:
        """What a resumed training needs: weights and the optimizer's tensors, on the CPU."""
        state = {f"weights.{group}": flat for group, flat in self.groups.items()}
        for group, flat in self.groups.items():
            for name, tensor in self.optimizer.state.get(flat, {}).items():
                state[f"{name}.{group}"] = torch.as_tensor(tensor)
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes up the state of another student of the same settings and base."""
        for group, flat in self.groups.items():
            flat.copy_(state[f"weights.{group}"])
            ending = f".{group}"
            own = {n.removesuffix(ending): t for n, t in state.items() if n.endswith(ending)}
            own.pop("weights")
            # AdamW counts its steps on the CPU, wherever the rest is.
            self.optimizer.state[flat] = {
                name: t.clone() if name == "step" else t.to(self.device) for name, t in own.items()
            }

    def _by_group(self, gradients: list[Tensor]) -> dict[str, Tensor]:
        groups, done = {}, 0
        for group, names in self.names.items():
            own = gradients[done : done + len(names)]
            done += len(names)
            flat = [gradient.flatten() for gradient in own]
            groups[group] = torch.cat(flat) if flat else torch.zeros_like(self.groups[group])
        return groups

    def _distance(self, names: Mapping[str, object]) -> float:
        base, moved = 0.0, 0.0
        for name in names:
            base += float(self.base[name].square().sum())
            moved += float((self.weights[name].detach() - self.base[name]).square().sum())
        return math.sqrt(moved / base) if base else 0.0

    def _pieces(self, total: int) -> int:
        """How many threads share a batch: threads with whole pieces wait only at the end."""
        size = sum(map(len, self.groups.values()))
        if self.device.type != "cpu" or size > SMALL:
            return 1
        return max(1, min(torch.get_num_threads(), total // PIECE))


def trained_names(settings: Finetune, model: ViTConfig) -> list[str]:
    """Names of the tensors that are trained, in the order of `shapes`."""
    blocks = range(model.blocks) if settings.blocks is None else settings.blocks
    names = list(model.outer_names()) if settings.outside == "trained" else []
    return names + [name for block in blocks for name in model.block_names(block)]
