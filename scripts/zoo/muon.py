"""Muon in fp32. PyTorch's own orthogonalises in bfloat16, which processors without bf16 units only emulate."""

import torch

COEFFICIENTS = (3.4445, -4.775, 2.0315)  # the quintic of the original Muon
ITERATIONS = 5


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Newton-Schulz steps that push all singular values of stacked wide matrices to about one."""
    first, second, third = COEFFICIENTS
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = first * x + (second * gram + third * gram @ gram) @ x
    return x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; matrices of one shape are treated in one stack."""

    def __init__(
        self, matrices: list[torch.nn.Parameter], lr: float, momentum: float, weight_decay: float
    ):
        shapes = sorted({tuple(matrix.shape) for matrix in matrices})
        groups = [
            {"params": [matrix for matrix in matrices if tuple(matrix.shape) == shape]}
            for shape in shapes
        ]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            matrices, momentum = group["params"], group["momentum"]
            updates = []
            for matrix in matrices:
                state = self.state[matrix]
                velocity = state.setdefault("velocity", torch.zeros_like(matrix))
                velocity.lerp_(matrix.grad, 1 - momentum)
                updates.append(matrix.grad.lerp(velocity, momentum))
            stack = torch.stack(updates)
            tall = stack.shape[-2] > stack.shape[-1]
            flat = orthogonalise(stack.mT.contiguous() if tall else stack)
            stretch = max(1, stack.shape[-2] / stack.shape[-1]) ** 0.5
            for matrix, update in zip(matrices, flat.mT if tall else flat, strict=True):
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * stretch)
