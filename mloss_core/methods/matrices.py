"""Rules of whole matrices: singular vectors, and least squares without data.

Each takes the task vectors of one matrix (out x in, as torch stores a linear layer) one after the
other, so that memory does not grow with the sources. What is no matrix is averaged, or left to the
base. A source of merging weight alpha_i counts q alpha_i times; the published rules have equal
weights, where that is once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # pyright: ignore

from .. import trim
from ..errors import BadValue
from ..mloss import wide
from ..parallel import thread_map
from ..trim import TaskVectors
from ..types import MergeRecipe
from .method import Rule
from .rules import Alpha, Merged, counts, simple_average

Matrix = Float[Tensor, "out in"]
Square = Float[Tensor, "in in"]
LAYERS = ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
COMMON = 0.8  # Iso-CTS: share of the common directions (Marczak et al. 2025)
STEPS, RATE = 300, 1e-5  # WUDI: Adam's, in its authors' code
ACE_EPS, ACE_SPREAD, ACE_KEPT = 1e-2, 0.3, 0.3  # of ACE-Merging's released code


@dataclass(frozen=True)
class Deltas:
    """The task vectors of one matrix, made when asked for; sources of no weight are left out.

    Args:
        times: q alpha_i of each source.
        rows: of the tensor that make up the matrix.
    """

    vectors: TaskVectors
    times: Sequence[float]
    rows: slice

    @property
    def members(self) -> list[int]:
        """Sources that count."""
        return [i for i, times in enumerate(self.times) if times > 0]

    def plain(self, i: int) -> Matrix:
        """A source's task vector."""
        return self.vectors.part(slice(i, i + 1), self.rows)[0]

    def weighted(self, i: int) -> Matrix:
        """It as often as it counts."""
        return self.plain(i) * self.times[i]

    def __iter__(self) -> Iterator[Matrix]:
        """The weighted task vectors, one at a time."""
        return (self.weighted(i) for i in self.members)

    def each(self, step: Callable[[Matrix], tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
        """`step` of every weighted task vector, a thread each on a CPU."""
        _ = self.vectors.part(slice(0, 1), slice(0, 1))  # small tensors are made before threads ask
        device = self.vectors.base.device
        return list(thread_map(lambda i: step(self.weighted(i)), self.members, device))


Step = Callable[[Deltas, MergeRecipe], Matrix]


def of_matrices(step: Step, matrices: str = "all", rest: str = "mean") -> Rule:
    """The rule that merges matrices by `step`, and averages or drops the rest.

    Args:
        matrices: what its publication treats so: "all" tensors of two dimensions, or "layers", the
            linear layers of the blocks.
        rest: what its publication does with the others: their "mean", or the "base" alone.
    """

    def rule(
        vectors: TaskVectors, alpha: Alpha, recipe: MergeRecipe, name: str, rates=None
    ) -> Merged:
        chosen = matrices if recipe.matrices == "published" else recipe.matrices
        if not treated(name, vectors.base, chosen):
            left = rest if recipe.rest == "published" else recipe.rest
            if left == "base":
                return torch.zeros_like(vectors.base)
            return recipe.scaling * simple_average(vectors, alpha, recipe, name)
        times = counts(alpha)
        parts = parts_of(vectors.base, name, recipe.qkv)
        merged = [step(Deltas(vectors, times, rows), recipe) for rows in parts]
        return recipe.scaling * torch.cat(merged)

    return rule


def treated(name: str, tensor: Tensor, matrices: str) -> bool:
    """Whether a tensor counts as a matrix, by "all" or "layers"; see `of_matrices`."""
    return tensor.ndim == 2 and (matrices == "all" or name.endswith(LAYERS))


def parts_of(tensor: Tensor, name: str, qkv: str) -> list[slice]:
    """Rows of the matrices in a tensor: q, k and v apart where the recipe splits them."""
    if qkv != "split" or not name.endswith("attn.in_proj_weight"):
        return [slice(0, len(tensor))]
    third = len(tensor) // 3
    return [slice(start, start + third) for start in range(0, len(tensor), third)]


def svd(matrix: Matrix, full: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, V^T, thin unless `full`; see `decomposed`."""
    return cast(tuple, decomposed(lambda m: torch.linalg.svd(m, full_matrices=full), matrix))


def decomposed(how: Callable[[Matrix], Sequence[Tensor]], matrix: Matrix) -> tuple[Tensor, ...]:
    """A matrix's parts; made in doubles where LAPACK does not converge in its own precision, as
    happens now and then on an ordinary matrix.

    Raises:
        BadValue: it does not converge in doubles either.
    """
    failed = None
    for dtype in (matrix.dtype, wide(matrix)):
        try:
            return tuple(part.to(matrix.dtype) for part in how(matrix.to(dtype)))
        except LinAlgError as error:
            failed = error
    shape, remedy = " x ".join(map(str, matrix.shape)), "take a method without SVDs, as ties"
    problem = "of task vectors: LAPACK finds no singular values, in doubles either"
    raise BadValue("matrix", shape, problem, remedy) from failed


def polar(matrix: Matrix) -> Matrix:
    """The nearest matrix with orthonormal columns, or rows: U V^T of its SVD."""
    u, _, v = svd(matrix)
    return u @ v


def polars(left: Float[Tensor, "out r"], right: Float[Tensor, "s in"]) -> tuple[Tensor, Tensor]:
    """Both polar factors, a thread each on a CPU: LAPACK hardly gains from several."""
    first, second = thread_map(polar, (left, right), left.device)
    return first, second


def tsv_m(deltas: Deltas, recipe: MergeRecipe) -> Matrix:
    """polar([U_1 ...]) diag(S_1, ...) polar([V_1; ...]) of each source's min(out, in) / q largest
    singular triples (Gargiulo et al. 2025)."""
    rank = max(1, min(deltas.plain(0).shape) // len(deltas.members))

    def largest(delta: Matrix) -> tuple[Tensor, ...]:
        u, s, v = svd(delta)
        return u[:, :rank].clone(), s[:rank].clone(), v[:rank].clone()

    triples = deltas.each(largest)
    u, s, v = (torch.cat(parts, dim) for parts, dim in zip(zip(*triples, strict=True), (1, 0, 0),
                                                            strict=True))  # fmt: skip
    left, right = polars(u, v)
    return (left * s) @ right


def iso_c(deltas: Deltas, recipe: MergeRecipe) -> Matrix:
    """The sum of task vectors with all singular values at their mean (Marczak et al. 2025)."""
    u, s, v = svd(_sum(deltas))
    return s.mean() * (u @ v)


def iso_cts(deltas: Deltas, recipe: MergeRecipe) -> Matrix:
    """Iso-C on common directions and on each source's own beside them (Marczak et al. 2025)."""
    total, q = _sum(deltas), len(deltas.members)
    size = min(total.shape)
    own = round((size - int(size * COMMON)) / q)  # directions of each source
    u, s, v = svd(total)
    common = size - own * q
    u, s, v = u[:, :common], s[:common], v[:common]

    def residual(delta: Matrix) -> tuple[Tensor, ...]:
        left, values, right = svd(delta - u @ (u.T @ delta))
        return left[:, :own].clone(), values[:own].clone(), right[:own].clone()

    triples = [*deltas.each(residual), (u, s, v)] if own else [(u, s, v)]
    left = torch.cat([t[0] for t in triples], 1)
    values, right = (torch.cat([t[k] for t in triples]) for k in (1, 2))
    left, right = polars(left, right)
    return values.mean() * (left @ right)


def wudi(deltas: Deltas, recipe: MergeRecipe) -> Matrix:
    """argmin over X of sum_i ||(X - D_i) D_i^T||^2 / ||D_i||^2, by Adam from the sum, stopped early
    (Cheng et al. 2025).

    The gradient is 2 (X G - C), with both sums over the sources made once.
    """
    gram, cross = _interference(deltas)
    gram, cross = gram.to(deltas.vectors.base.dtype), cross.to(deltas.vectors.base.dtype)
    merged = _sum(deltas)
    first, second = torch.zeros_like(merged), torch.zeros_like(merged)
    rate = RATE if recipe.rate is None else recipe.rate
    for t in range(1, (recipe.steps or STEPS) + 1):
        gradient = (merged @ gram - cross).mul_(2)
        first.lerp_(gradient, 0.1)
        second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        scale = (second / (1 - 0.999**t)).sqrt_().add_(1e-8)
        merged -= rate / (1 - 0.9**t) * first / scale
    return merged


def wudi_closed(deltas: Deltas, recipe: MergeRecipe) -> Matrix:
    """The minimum of WUDI's objective: (sum_i D_i G_i) (sum_i G_i)^+, G_i = D_i^T D_i / ||D_i||^2.

    Ours; WUDI itself stops long before.
    """
    gram, cross = _interference(deltas)
    return (cross @ pseudo_inverse(gram)).to(deltas.vectors.base.dtype)


def _interference(deltas: Deltas) -> tuple[Square, Matrix]:
    """sum_i w_i G_i and sum_i w_i D_i G_i in doubles, w_i = q alpha_i, G_i = D_i^T D_i / ||D_i||^2;
    a task vector of zeros asks for nothing."""
    first = deltas.plain(0)
    gram = first.new_zeros((first.shape[1],) * 2, dtype=wide(first))
    cross = first.new_zeros(first.shape, dtype=wide(first))
    for i in deltas.members:
        delta = deltas.plain(i).to(wide(first))
        size = delta.square().sum()
        if size > 0:
            own = (delta.T @ delta).mul_(deltas.times[i] / size)
            gram += own
            cross += delta @ own
    return gram, cross


def pseudo_inverse(gram: Square, rtol: float | None = None) -> Square:
    """The inverse of a symmetric matrix on its directions above a share of the largest eigenvalue,
    which is what fp32's rounding leaves unless given."""
    tolerance = len(gram) * torch.finfo(torch.float32).eps if rtol is None else rtol
    return torch.linalg.pinv(gram, hermitian=True, rtol=tolerance)


def ace(deltas: Deltas, recipe: MergeRecipe) -> Matrix:
    """ACE-Merging as its released code computes it (docs/methods.md names where its paper differs).

    C_i is a task vector without its mean row; X = (sum C_i S_i) (sum S_i + 1 c^T)^-1 with
    S_i = C_i^T C_i + eps I and c the column means of sum C_i^T C_i.
    """
    first = deltas.plain(0)
    double = wide(first)
    sizes = {i: float(deltas.plain(i).square().sum()) for i in deltas.members}
    members = [i for i, size in sizes.items() if size > 0]  # nothing is asked by what is zero
    if not members:
        return torch.zeros_like(first)
    traces = torch.tensor([sizes[i] for i in members])
    logs = traces.clamp(min=torch.finfo(torch.float32).tiny).log()
    spread = len(members) > 1 and float(logs.var() / logs.mean() ** 2) > ACE_SPREAD
    size = first.shape[1]
    identity = torch.eye(size, dtype=double, device=first.device)
    covariance, cross = (first.new_zeros(n, size, dtype=double) for n in (size, first.shape[0]))
    rows = first.new_zeros(size, dtype=double)

    def centred(i: int) -> Matrix:
        delta = deltas.plain(i).to(double)
        return delta - delta.mean(0)

    def regularised(i: int, own: Matrix) -> tuple[Square, Square]:
        scatter, eps = own.T @ own, ACE_EPS
        if spread:
            scatter, eps = scatter / traces[i], ACE_EPS / float(traces[i])
        return scatter, scatter + eps * identity

    for place, i in enumerate(members):
        own = centred(i)
        scatter, ridged = regularised(place, own)
        times = deltas.times[i]
        covariance += times * ridged
        cross += times * (own @ ridged)
        rows += times * scatter.mean(0)
    prior = covariance + (rows / float(traces.mean()) if spread else rows)
    merged = cross @ _inverse(prior)
    if spread:
        mean, residual = covariance / len(members), merged.clone()
        for place, i in enumerate(members):
            own = centred(i)
            residual += deltas.times[i] * (own @ (regularised(place, own)[0] - mean))
        u, s, v = svd(residual)
        kept = int(ACE_KEPT * len(s))
        merged = merged + s[:kept].mean() * (u[:, :kept] @ v[:kept]) if kept else merged
    return merged.to(first.dtype)


def _inverse(matrix: Square) -> Square:
    inverse, singular = torch.linalg.inv_ex(matrix)
    return torch.linalg.pinv(matrix) if int(singular) else inverse


def knots(deltas: Deltas, recipe: MergeRecipe) -> Matrix:
    """TIES in common coordinates: U S ties(V_1, ..., V_q) with [D_1 | ... | D_q] = U S [V_1 ...]
    (Stoica et al. 2025).

    U and S come from sum D_i D_i^T; the sources' V_i are held at once.
    """
    first = deltas.plain(0)
    gram = first.new_zeros((first.shape[0],) * 2, dtype=wide(first))
    for i in deltas.members:
        delta = deltas.plain(i).to(gram.dtype)
        gram += delta @ delta.T
    values, u = torch.linalg.eigh(gram)
    spanned = values > values[-1] * len(gram) * torch.finfo(torch.float32).eps
    if not spanned.any():
        return torch.zeros_like(first)
    s, u = values[spanned].sqrt(), u[:, spanned]
    coordinates = [((u.T @ deltas.plain(i).to(gram.dtype)) / s[:, None]).to(first.dtype)
                   for i in deltas.members]  # fmt: skip
    common = TaskVectors(torch.zeros_like(coordinates[0]), coordinates)
    alpha = first.new_tensor([deltas.times[i] for i in deltas.members]) / len(deltas.members)
    limits = common.limits(recipe.keep)

    def step(t: Tensor, rows: slice) -> Tensor:
        return trim.elect_and_merge_(trim.trim_(t, limits[:, rows]), alpha)

    merged = common.merged(step).to(gram.dtype)
    return ((u * s) @ merged).to(first.dtype)


def _sum(deltas: Deltas) -> Matrix:
    total = torch.zeros_like(deltas.plain(0))
    for delta in deltas:
        total += delta
    return total


def calibrated(merged: Matrix, deltas: Deltas) -> Matrix:
    """SVC: each singular value of a merged task vector times gamma_r, which undoes what several
    sources count twice (see docs/methods.md).

    s_ir = <u_r^T M, u_r^T D_i> / ||u_r^T D_i||^2; gamma_r = q / sum_i max(1 / q, s_ir).
    """
    u, s, v = svd(merged)
    own, q, total = s[:, None] * v, len(deltas.members), torch.zeros_like(s)
    for i in deltas.members:
        projected = u.T @ deltas.plain(i)
        size = projected.square().sum(1).clamp_(min=torch.finfo(s.dtype).tiny)
        total += ((own * projected).sum(1) / size).clamp_(min=1 / q)
    return (u * (s * q / total)) @ v


def after_svc(rule: Rule) -> Rule:
    """A rule followed by SVC on the matrices of what it merged, lambda included."""

    def followed(
        vectors: TaskVectors, alpha: Alpha, recipe: MergeRecipe, name: str, rates=None
    ) -> Merged:
        untouched = dataclasses.replace(vectors, kept=None)  # a rule may overwrite what it reads
        merged = rule(vectors, alpha, recipe, name, rates)
        chosen = "all" if recipe.matrices == "published" else recipe.matrices
        if not treated(name, vectors.base, chosen) or not merged.count_nonzero():
            return merged
        times = counts(alpha)
        parts = parts_of(vectors.base, name, recipe.qkv)
        return torch.cat([calibrated(merged[r], Deltas(untouched, times, r)) for r in parts])

    return followed
