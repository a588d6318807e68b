"""Plain merges to measure the family with: simple average, task arithmetic, TIES, DARE and the ensemble."""

import numpy as np
import torch
from torch.nn.functional import normalize

from .model import embed, make_clip

State = dict[str, torch.Tensor]
DARE_SEED = 3


def differences(base: State, sources: list[State]) -> list[State]:
    """Task vectors in fp32."""
    return [
        {name: source[name].float() - base[name].float() for name in base} for source in sources
    ]


def add(base: State, delta: State, scale: float) -> State:
    """base + scale * delta, in fp32."""
    return {name: base[name].float() + scale * delta[name] for name in base}


def mean(vectors: list[State]) -> State:
    """The mean task vector: the simple average, and task arithmetic when scaled."""
    return {name: torch.stack([vector[name] for vector in vectors]).mean(0) for name in vectors[0]}


def _trim(values: torch.Tensor, keep: float) -> torch.Tensor:
    """Zero all but the floor(keep * n) largest magnitudes, at least one; equals at the threshold stay."""
    kept = max(1, int(keep * values.numel()))
    threshold = values.abs().flatten().kthvalue(values.numel() - kept + 1).values
    return torch.where(values.abs() >= threshold, values, 0.0)


def _elect(stack: torch.Tensor) -> torch.Tensor:
    """Mean over the sources that agree with the sign of the sum; zero where none does."""
    sign = torch.where(stack.sum(0) >= 0, 1.0, -1.0)
    agree = (stack * sign) > 0
    return (stack * agree).sum(0) / agree.sum(0).clamp(min=1)


def ties(vectors: list[State], keep: float) -> State:
    """TIES: trim every tensor, elect signs, merge what agrees."""
    return {
        name: _elect(torch.stack([_trim(vector[name], keep) for vector in vectors]))
        for name in vectors[0]
    }


def dare(vectors: list[State], keep: float) -> State:
    """DARE: keep entries at random, rescale, then elect and merge."""
    generator = torch.Generator().manual_seed(DARE_SEED)

    def dropped(values: torch.Tensor) -> torch.Tensor:
        return values * (torch.rand(values.shape, generator=generator) < keep) / keep

    return {
        name: _elect(torch.stack([dropped(vector[name]) for vector in vectors]))
        for name in vectors[0]
    }


def tower_of(state: State) -> torch.nn.Module:
    """An image tower with these weights, in fp32."""
    tower = make_clip().visual
    tower.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return tower


Pictures = dict[str, tuple[np.ndarray, np.ndarray]]


def embeddings(state: State, pictures: Pictures) -> State:
    """Unit embeddings a task by the tower with these weights."""
    tower = tower_of(state)
    return {name: embed(tower, images) for name, (images, _) in pictures.items()}


def answers(embedded: State, heads: State, pictures: Pictures) -> dict[str, np.ndarray]:
    """Whether the answer is right, picture by picture, a task."""
    hits = {}
    for name, (_, labels) in pictures.items():
        hits[name] = (embedded[name] @ heads[name].T).argmax(1).numpy() == labels
    return hits


def ensemble(members: list[State]) -> State:
    """Mean of the members' unit embeddings, made unit again."""
    return {
        name: normalize(torch.stack([m[name] for m in members]).mean(0), dim=-1)
        for name in members[0]
    }


def norm(vector: State) -> float:
    """Euclidean norm of all tensors together."""
    return float(torch.cat([tensor.float().flatten() for tensor in vector.values()]).norm())
