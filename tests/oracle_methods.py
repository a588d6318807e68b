"""A naive second opinion on the merging methods besides Algorithm 1's: NumPy, float64, loops.

Written from what is known of the methods' papers and released codes and from the project's
rulings, without looking at the library, so that the two can be wrong only independently. It is
slow and it is meant to be read.

D_i is source i minus the base. A source of merging weight alpha_i counts w_i = q alpha_i times:
once, where the weights are equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import numpy as np

from oracle import (
    BLOCKS,
    Array,
    State,
    Weights,
    activation,
    attention_half,
    depth,
    elect_and_merge,
    embed,
    layer_norm,
    linear,
    mlp_half,
    mlp_input,
    task_vector,
    trim,
)

EPS32 = float(np.finfo(np.float32).eps)
LINEARS = ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
Rule = Callable[[Sequence[Array], Sequence[float]], Array]  # matrices D_i, their weights alpha_i


def _f64(values: Array) -> Array:
    return np.asarray(values, dtype=np.float64)


def alphas(weights: Weights, count: int) -> list[float]:
    """The merging weights alpha; 1/q each when none are given."""
    return [1.0 / count] * count if weights is None else [float(w) for w in weights]


def task_vectors(base: State, sources: Sequence[State], norms: str = "own") -> list[dict]:
    """The D_i of all tensors. Norms "equal": each times the mean norm over its own norm."""
    vectors = [{name: task_vector(base[name], s[name]) for name in base} for s in sources]
    if norms == "equal":
        lengths = [norm(vector) for vector in vectors]
        mean = sum(lengths) / len(lengths)
        vectors = [
            {name: tensor * mean / length for name, tensor in vector.items()}
            for vector, length in zip(vectors, lengths, strict=True)
        ]
    return vectors


def norm(vector: State) -> float:
    """The length of a whole task vector, all tensors together."""
    return math.sqrt(sum(float(np.sum(np.square(tensor))) for tensor in vector.values()))


def polar(matrix: Array) -> Array:
    """P Q^T of the thin SVD P S Q^T: the nearest matrix of orthonormal columns or rows."""
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return left @ right


def kind(name: str) -> str:
    """Which of the four linear weights of a block a tensor is; empty for all others."""
    if not name.startswith(BLOCKS):
        return ""
    own = name[len(BLOCKS) :].partition(".")[2]
    return own if own in LINEARS else ""


def added(base: State, delta: Mapping[str, Array], scaling: float) -> dict[str, Array]:
    """The merged model: base + lambda * merged delta."""
    return {name: _f64(base[name]) + scaling * delta[name] for name in base}


def mean_of(vectors: Sequence[State], shares: Sequence[float], name: str) -> Array:
    """sum alpha_i D_i of one tensor."""
    return sum(a * v[name] for a, v in zip(shares, vectors, strict=True))


# --- rules of one matrix -------------------------------------------------------------------------


def counts(shares: Sequence[float]) -> list[float]:
    """How often each of q sources counts: w_i = q alpha_i."""
    return [len(shares) * a for a in shares]


def tsv_m(matrices: Sequence[Array], shares: Sequence[float]) -> Array:
    """TSV-M (Gargiulo et al., CVPR 2025): the first 1/q singular triples, made orthogonal."""
    rank = max(1, min(matrices[0].shape) // len(matrices))
    lefts, values, rights = [], [], []
    for matrix, count in zip(matrices, counts(shares), strict=True):
        left, value, right = np.linalg.svd(count * matrix, full_matrices=False)
        lefts.append(left[:, :rank])
        values.append(value[:rank])
        rights.append(right[:rank])
    return polar(np.hstack(lefts)) @ np.diag(np.hstack(values)) @ polar(np.vstack(rights))


def iso_c(matrices: Sequence[Array], shares: Sequence[float]) -> Array:
    """Iso-C (Marczak et al., ICML 2025): the sum with every singular value at their mean."""
    total = sum(w * m for w, m in zip(counts(shares), matrices, strict=True))
    left, values, right = np.linalg.svd(total, full_matrices=False)
    return values.mean() * (left @ right)


def iso_cts(matrices: Sequence[Array], shares: Sequence[float], common: float = 0.8) -> Array:
    """Iso-CTS (ibid.): common directions of the sum, and of each source what lies across them."""
    weighted = [w * m for w, m in zip(counts(shares), matrices, strict=True)]
    m, q = min(matrices[0].shape), len(matrices)
    own = round((m - math.floor(common * m)) / q)
    left, values, right = np.linalg.svd(sum(weighted), full_matrices=False)
    kept = m - own * q
    common_left = left[:, :kept]
    lefts, all_values, rights = [], [], []
    for matrix in weighted:
        residual = matrix - common_left @ (common_left.T @ matrix)
        u, s, v = np.linalg.svd(residual, full_matrices=False)
        lefts.append(u[:, :own])
        all_values.append(s[:own])
        rights.append(v[:own])
    lefts.append(common_left)
    all_values.append(values[:kept])
    rights.append(right[:kept])
    return np.hstack(all_values).mean() * (polar(np.hstack(lefts)) @ polar(np.vstack(rights)))


def wudi(
    matrices: Sequence[Array], shares: Sequence[float], steps: int = 300, rate: float = 1e-5
) -> Array:
    """WUDI (Cheng et al., ICML 2025): from the sum, steps of Adam towards the least
    sum w_i |(X - D_i) D_i^T|^2 / |D_i|^2."""
    weights = counts(shares)
    grams = [m.T @ m / np.sum(m**2) for m in matrices]
    x = sum(w * m for w, m in zip(weights, matrices, strict=True))
    first, second = np.zeros(x.shape), np.zeros(x.shape)
    for step in range(1, steps + 1):
        gradient = np.zeros(x.shape)
        for weight, matrix, gram in zip(weights, matrices, grams, strict=True):
            gradient += 2 * weight * (x - matrix) @ gram
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        unbiased = first / (1 - 0.9**step), second / (1 - 0.999**step)
        x = x - rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    return x


def wudi_closed(matrices: Sequence[Array], shares: Sequence[float]) -> Array:
    """The minimum of WUDI's objective: (sum w_i D_i G_i)(sum w_i G_i)^+, with
    G_i = D_i^T D_i / |D_i|^2."""
    size = matrices[0].shape[1]
    numerator, gram = np.zeros(matrices[0].shape), np.zeros((size, size))
    for weight, matrix in zip(counts(shares), matrices, strict=True):
        own = matrix.T @ matrix / np.sum(matrix**2)
        numerator += weight * matrix @ own
        gram += weight * own
    return numerator @ np.linalg.pinv(gram, rcond=size * EPS32, hermitian=True)


def ace_is_flagged(matrices: Sequence[Array]) -> bool:
    """Whether ACE sees task vectors of unequal size: gamma = var(log t) / mean(log t)^2 > 0.3."""
    logs = [math.log(float(np.trace(m.T @ m))) for m in matrices]
    mean = sum(logs) / len(logs)
    if len(logs) < 2:
        return False
    variance = sum((x - mean) ** 2 for x in logs) / (len(logs) - 1)
    return variance / mean**2 > 0.3


def ace(matrices: Sequence[Array], shares: Sequence[float], eps: float = 1e-2) -> Array:
    """ACE-Merging as released (2026): centred task vectors weighed by their own covariance."""
    if not any(np.any(m) for m in matrices):
        return np.zeros(matrices[0].shape)
    weights, flagged = counts(shares), ace_is_flagged(matrices)
    size = matrices[0].shape[1]
    traces = [float(np.trace(m.T @ m)) for m in matrices]
    centred, grams, regularised = [], [], []
    for matrix, trace in zip(matrices, traces, strict=True):
        centre = matrix - matrix.mean(axis=0)  # the mean over output rows is dropped
        gram = centre.T @ centre
        own_eps = eps
        if flagged:
            gram, own_eps = gram / trace, eps / trace
        centred.append(centre)
        grams.append(gram)
        regularised.append(gram + own_eps * np.eye(size))
    prior = sum(w * g for w, g in zip(weights, grams, strict=True)).mean(axis=0)
    if flagged:
        prior = prior / (sum(traces) / len(traces))
    a = sum(w * r for w, r in zip(weights, regularised, strict=True)) + np.outer(
        np.ones(size), prior
    )
    b = sum(w * c @ r for w, c, r in zip(weights, centred, regularised, strict=True))
    x = b @ np.linalg.inv(a)
    if flagged:
        mean = sum(w * r for w, r in zip(weights, regularised, strict=True)) / len(weights)
        residual = x.copy()
        for weight, centre, gram in zip(weights, centred, grams, strict=True):
            residual += weight * centre @ (gram - mean)
        left, values, right = np.linalg.svd(residual, full_matrices=False)
        k = math.floor(0.3 * len(values))
        if k:
            x = x + values[:k].mean() * (left[:, :k] @ right[:k])
    return x


def knots(matrices: Sequence[Array], shares: Sequence[float], keep: float = 0.2) -> Array:
    """KnOTS-TIES (Stoica et al., ICLR 2025): TIES of the V_i in [D_1 .. D_q] = U S [V_1 .. V_q]."""
    width = matrices[0].shape[1]
    left, values, right = np.linalg.svd(np.hstack(matrices), full_matrices=False)
    real = values >= math.sqrt(len(left) * EPS32) * values[0]
    left, values, right = left[:, real], values[real], right[real]
    parts = [right[:, i * width : (i + 1) * width] for i in range(len(matrices))]
    trimmed = [trim(part.reshape(-1), keep).reshape(part.shape) for part in parts]
    return left @ np.diag(values) @ elect_and_merge(trimmed, shares)


MATRIX_RULES: Mapping[str, Rule] = {
    "tsv-m": tsv_m,
    "iso-c": iso_c,
    "iso-cts": iso_cts,
    "wudi": wudi,
    "wudi-closed": wudi_closed,
    "ace": ace,
    "knots": knots,
}
# As published: what a rule treats as a matrix, and what becomes of the rest.
PUBLISHED = {name: ("all", "mean") for name in MATRIX_RULES}
PUBLISHED["wudi"] = PUBLISHED["wudi-closed"] = ("layers", "base")


def parts_of(name: str, tensor: Array, qkv: str) -> list[Array]:
    """The matrices that a tensor is made of: in_proj's queries, keys and values may be three."""
    if qkv == "split" and kind(name) == "attn.in_proj_weight":
        rows = len(tensor) // 3
        return [tensor[i * rows : (i + 1) * rows] for i in range(3)]
    return [tensor]


def treated(name: str, tensor: Array, matrices: str) -> bool:
    """Whether a rule sees a tensor: "all" of two dimensions, or the blocks' linear "layers"."""
    return tensor.ndim == 2 if matrices == "all" else kind(name) != ""


def by_matrices(
    rule: Rule,
    vectors: Sequence[State],
    weights: Weights,
    matrices: str = "all",
    rest: str = "mean",
    qkv: str = "stacked",
) -> dict[str, Array]:
    """The merged delta of a rule of matrices; sources of weight zero are no members."""
    shares = alphas(weights, len(vectors))
    members = [i for i, share in enumerate(shares) if share > 0]
    delta = {}
    for name, first in vectors[0].items():
        if treated(name, first, matrices):
            split = [parts_of(name, vectors[i][name], qkv) for i in members]
            merged = []
            for part in range(len(split[0])):
                merged.append(rule([s[part] for s in split], [shares[i] for i in members]))
            delta[name] = np.vstack(merged)
        elif rest == "mean":
            delta[name] = mean_of(vectors, shares, name)
        else:
            delta[name] = np.zeros(first.shape)
    return delta


# --- rules of entries ----------------------------------------------------------------------------


def consensus(vectors: Sequence[State], weights: Weights, factor: float = 0.4) -> dict[str, Array]:
    """Consensus TA (Wang et al., ICML 2024): the sum, where it matters to two sources or more."""
    times = counts(alphas(weights, len(vectors)))
    delta = {}
    for name in vectors[0]:
        own = [w * v[name] for w, v in zip(times, vectors, strict=True)]
        total = sum(own)
        agreeing = sum((np.abs(t) > factor * np.abs(total - t)).astype(int) for t in own)
        delta[name] = np.where(agreeing >= 2, total, 0.0)
    return delta


def pcb(vectors: Sequence[State], weights: Weights, keep: float) -> dict[str, Array]:
    """PCB-Merging (Du et al., NeurIPS 2024), the released script: each entry weighed by how it
    competes within its source and with those of the others, all tensors as one long row."""
    names = list(vectors[0])
    q, times = len(vectors), counts(alphas(weights, len(vectors)))
    rows = [np.concatenate([v[name].reshape(-1) for name in names]) for v in vectors]
    n = len(rows[0])
    clipped, scaled = [], []
    for row in rows:
        falling = np.sort(np.abs(row))[::-1]
        low = falling[max(1, round(n * 0.99)) - 1]
        high = falling[max(1, round(n * 0.01)) - 1]
        size = np.clip(np.abs(row), low, high)
        clipped.append(np.sign(row) * size)
        scaled.append((size - low) / (high - low))
    together = sum(np.sign(row) * size for row, size in zip(rows, scaled, strict=True))
    kept = min(max(math.floor((Fraction(keep) + Fraction(1, 2**50)) * n), 1), n)
    total, mass = np.zeros(n), np.zeros(n)
    for times_i, row, size in zip(times, clipped, scaled, strict=True):
        beta = np.exp(q * size**2) * np.tanh(row * together)
        threshold = np.sort(beta)[::-1][kept - 1]
        span = beta.max() - threshold
        shares = np.maximum(beta - threshold, 0.0) / (span if span > 0 else 1.0)
        total += times_i * row * shares
        mass += times_i * shares
    merged, delta, start = total / np.maximum(mass, 1e-12), {}, 0
    for name in names:
        tensor = vectors[0][name]
        delta[name] = merged[start : start + tensor.size].reshape(tensor.shape)
        start += tensor.size
    return delta


def inverse_norm(vectors: Sequence[State], weights: Weights) -> dict[str, Array]:
    """After NAN: sum c_i D_i, c_i proportional to alpha_i / |D_i|, |D_i| of the whole vector."""
    shares = alphas(weights, len(vectors))
    raw = [a / norm(v) for a, v in zip(shares, vectors, strict=True)]
    return {name: mean_of(vectors, [c / sum(raw) for c in raw], name) for name in vectors[0]}


def _across(merged: Array, new: Array, threshold: float) -> Array:
    """Of a new matrix what OPCM keeps: in the singular bases of the merge, all but the leading
    square and the diagonal."""
    left, values, right = np.linalg.svd(merged, full_matrices=True)
    shares = np.cumsum(values) / np.sum(values)
    rank = next(r for r, share in enumerate(shares) if share > threshold)
    inside = left.T @ new @ right.T
    for r in range(min(inside.shape)):
        inside[r, r] = 0.0
    inside[:rank, :rank] = 0.0
    return left @ inside @ right


def opcm(
    vectors: Sequence[State],
    weights: Weights,
    matrices: str = "layers",
    qkv: str = "stacked",
    threshold: float = 0.5,
) -> dict[str, Array]:
    """OPCM (Tang et al., NeurIPS 2025): sources in their order, each by what lies across the merge
    so far; at the end as long as a task vector is on average."""
    times = counts(alphas(weights, len(vectors)))
    delta = {name: times[0] * tensor for name, tensor in vectors[0].items()}
    for count, vector in zip(times[1:], vectors[1:], strict=True):
        for name in delta:
            new = count * vector[name]
            if treated(name, new, matrices):
                pairs = zip(parts_of(name, delta[name], qkv), parts_of(name, new, qkv), strict=True)
                delta[name] = np.vstack(
                    [old + _across(old, part, threshold) for old, part in pairs]
                )
            else:
                delta[name] = delta[name] + new
    wanted = sum(norm(v) for v in vectors) / len(vectors)
    length = norm(delta)
    return {name: tensor * wanted / length for name, tensor in delta.items()}


def svc(
    delta: State, vectors: Sequence[State], weights: Weights, qkv: str = "stacked"
) -> dict[str, Array]:
    """SVC on a merged, scaled delta: each singular value times gamma_r = q / sum_i max(1/q, s_ir),
    where s_ir says how often source i's own part of the direction is in the merge."""
    shares = alphas(weights, len(vectors))
    members = [v for v, share in zip(vectors, shares, strict=True) if share > 0]
    q, calibrated = len(members), {}
    for name, tensor in delta.items():
        if tensor.ndim != 2:
            calibrated[name] = tensor
            continue
        done = []
        for part, matrix in enumerate(parts_of(name, tensor, qkv)):
            left, values, right = np.linalg.svd(matrix, full_matrices=False)
            scaled = np.zeros(len(values))
            for r in range(len(values)):
                total = 0.0
                for member in members:
                    own = left[:, r] @ parts_of(name, member[name], qkv)[part]
                    length = float(own @ own)
                    s = float(values[r] * right[r] @ own) / length if length > 0 else 0.0
                    total += max(1.0 / q, s)
                scaled[r] = q / total * values[r]
            done.append(left @ np.diag(scaled) @ right)
        calibrated[name] = np.vstack(done)
    return calibrated


# --- what enters each layer ----------------------------------------------------------------------


def mixed_values(state: State, block: int, x: Array, heads: int) -> Array:
    """What enters out_proj: the heads' attention over the values of the stream entering a block."""
    plain = dict(state)
    name, width = f"{BLOCKS}{block}.attn.out_proj", x.shape[-1]
    plain[f"{name}.weight"], plain[f"{name}.bias"] = np.eye(width), np.zeros(width)
    return attention_half(plain, block, x, heads) - x


def normed(state: State, block: int, x: Array) -> Array:
    """What enters in_proj: ln_1 of the stream."""
    return layer_norm(state, f"{BLOCKS}{block}.ln_1", x)


def qkv_of(state: State, block: int, x: Array) -> Array:
    """Queries, keys and values of a stream, stacked as in_proj gives them."""
    name = f"{BLOCKS}{block}.attn.in_proj_"
    return normed(state, block, x) @ _f64(state[name + "weight"]).T + _f64(state[name + "bias"])


def pre_activations(state: State, block: int, middle: Array) -> Array:
    """What c_fc makes of the stream in the middle of a block."""
    return linear(state, f"{BLOCKS}{block}.mlp.c_fc", mlp_input(state, block, middle))


def block_inputs(
    state: State, block: int, x: Array, heads: int, act_name: str
) -> tuple[dict[str, Array], Array]:
    """What enters the four linear layers of a block, and the stream that leaves it."""
    middle = attention_half(state, block, x, heads)
    inputs = {
        "attn.in_proj_weight": normed(state, block, x),
        "attn.out_proj.weight": mixed_values(state, block, x, heads),
        "mlp.c_fc.weight": mlp_input(state, block, middle),
        "mlp.c_proj.weight": activation(act_name)(pre_activations(state, block, middle)),
    }
    return inputs, mlp_half(state, block, middle, act_name)


def rows_of(x: Array) -> Array:
    """All tokens of all images, one a row."""
    return x.reshape(-1, x.shape[-1])


def gram(x: Array, off_diagonal: float = 1.0) -> Array:
    """Mean of x x^T over tokens, off-diagonal entries times a factor."""
    rows = rows_of(x)
    total = rows.T @ rows / len(rows)
    return off_diagonal * total + (1 - off_diagonal) * np.diag(np.diag(total))


def regression(matrices: Sequence[Array], grams: Sequence[Array], shares: Sequence[float]) -> Array:
    """RegMean's solution: (sum w_i W_i G_i)(sum w_i G_i)^-1; the mean where no input points."""
    weights = counts(shares)
    mean = sum(w * _f64(m) for w, m in zip(weights, matrices, strict=True)) / sum(weights)
    left = sum(w * (_f64(m) - mean) @ g for w, m, g in zip(weights, matrices, grams, strict=True))
    values, axes = np.linalg.eigh(sum(w * g for w, g in zip(weights, grams, strict=True)))
    pointed = values > 1e-12 * values[-1]
    values, axes = values[pointed], axes[:, pointed]
    return mean + (left @ axes / values) @ axes.T


def regmean(
    base: State,
    sources: Sequence[State],
    weights: Weights,
    pixels: Sequence[Array],
    heads: int,
    act_name: str,
    off_diagonal: float = 0.95,
) -> dict[str, Array]:
    """RegMean (Jin et al., ICLR 2023): each layer by regression on the sources' own inputs."""
    shares = alphas(weights, len(sources))
    merged = {n: sum(a * _f64(s[n]) for a, s in zip(shares, sources, strict=True)) for n in base}
    streams = [embed(s, images) for s, images in zip(sources, pixels, strict=True)]
    for block in range(depth(base)):
        seen = []
        for i, source in enumerate(sources):
            inputs, streams[i] = block_inputs(source, block, streams[i], heads, act_name)
            seen.append(inputs)
        for layer in LINEARS:
            name = f"{BLOCKS}{block}.{layer}"
            grams = [gram(inputs[layer], off_diagonal) for inputs in seen]
            merged[name] = regression([s[name] for s in sources], grams, shares)
    last = [layer_norm(s, "visual.ln_post", x[:, 0]) for s, x in zip(sources, streams, strict=True)]
    _regress_projection(merged, sources, last, shares, off_diagonal)
    return merged


def _regress_projection(
    merged: dict[str, Array],
    sources: Sequence[State],
    inputs: Sequence[Array],
    shares: Sequence[float],
    off_diagonal: float,
) -> None:
    """The projection by regression: it is stored transposed."""
    name = "visual.proj"
    grams = [gram(x, off_diagonal) for x in inputs]
    merged[name] = regression([s[name].T for s in sources], grams, shares).T


def regmean_plus_plus(
    base: State,
    sources: Sequence[State],
    weights: Weights,
    pixels: Sequence[Array],
    heads: int,
    act_name: str,
    off_diagonal: float = 0.95,
) -> dict[str, Array]:
    """RegMean++ (Nguyen et al., 2025): the inputs of a block come through the merged blocks before
    it; inside it each source's own block runs. ln_post stays the base's."""
    shares = alphas(weights, len(sources))
    merged = {n: sum(a * _f64(s[n]) for a, s in zip(shares, sources, strict=True)) for n in base}
    for name in ("visual.ln_post.weight", "visual.ln_post.bias"):
        merged[name] = _f64(base[name])
    streams = [embed(merged, images) for images in pixels]
    for block in range(depth(base)):
        seen = [
            block_inputs(s, block, x, heads, act_name)[0]
            for s, x in zip(sources, streams, strict=True)
        ]
        for layer in LINEARS:
            name = f"{BLOCKS}{block}.{layer}"
            grams = [gram(inputs[layer], off_diagonal) for inputs in seen]
            merged[name] = regression([s[name] for s in sources], grams, shares)
        streams = [block_inputs(merged, block, x, heads, act_name)[1] for x in streams]
    last = [layer_norm(merged, "visual.ln_post", x[:, 0]) for x in streams]
    _regress_projection(merged, sources, last, shares, off_diagonal)
    return merged


def essential(matrices: Sequence[Array], inputs: Sequence[Array], shares: Sequence[float]) -> Array:
    """ESM's rule of one layer (2026, as released): TSV-M's construction on the directions in which
    a source's own inputs move the layer's outputs."""
    q, out = len(matrices), matrices[0].shape[0]
    directions, coordinates, lengths = [], [], []
    for matrix, x, count in zip(matrices, inputs, counts(shares), strict=True):
        moved = count * matrix
        change = rows_of(x) @ moved.T  # not centred
        _, values, axes = np.linalg.svd(change, full_matrices=False)
        energy = values**2 / max(1, len(change) - 1)
        real = int(np.sum(values > math.sqrt(out * EPS32) * values[0]))  # as in KnOTS
        rank = min(max(1, out // q), real)
        energy, kept = energy[:rank], axes[:rank].T
        length = math.sqrt(float(np.sum(moved**2)))
        own = kept.T @ moved * length**2
        stress = (energy / energy.mean()) ** 0.15
        stress = stress / stress.mean()
        directions.append(kept * stress)
        coordinates.append(stress[:, None] * own)
        lengths.append(length)
    p, a = np.hstack(directions), np.vstack(coordinates)
    a = a / (sum(lengths) / q) ** 2
    columns = np.sqrt(np.sum(a**2, axis=0))
    a = a * (columns / columns.mean()) ** 2
    sizes = [np.linalg.svd(m, compute_uv=False).mean() for m in (p, a)]
    return 2 * sizes[0] * polar(p) @ (sizes[1] * polar(a))


def esm(
    vectors: Sequence[State],
    sources: Sequence[State],
    weights: Weights,
    pixels: Sequence[Array],
    heads: int,
    act_name: str,
) -> dict[str, Array]:
    """ESM: its rule for in_proj, c_fc and c_proj, TSV-M for other matrices, the mean for the rest;
    then blocks that change more weigh more."""
    shares = alphas(weights, len(sources))
    delta = by_matrices(tsv_m, vectors, weights)
    members = [i for i, share in enumerate(shares) if share > 0]
    streams = {i: embed(sources[i], pixels[i]) for i in members}
    blocks = range(depth(sources[0]))
    for block in blocks:
        seen = {}
        for i in members:
            seen[i], streams[i] = block_inputs(sources[i], block, streams[i], heads, act_name)
        for layer in LINEARS:
            if layer != "attn.out_proj.weight":
                name = f"{BLOCKS}{block}.{layer}"
                delta[name] = essential(
                    [vectors[i][name] for i in members],
                    [seen[i][layer] for i in members],
                    [shares[i] for i in members],
                )
    for layer in LINEARS:
        names = [f"{BLOCKS}{block}.{layer}" for block in blocks]
        lengths = [math.sqrt(float(np.sum(delta[name] ** 2))) for name in names]
        for name, length in zip(names, lengths, strict=True):
            delta[name] = delta[name] * (length / (sum(lengths) / len(lengths))) ** 2
    return delta


# --- fit -----------------------------------------------------------------------------------------


def fitted(
    start: Array,
    vectors: Sequence[Array],
    inputs: Sequence[Array],
    outputs: Sequence[Array],
    shares: Sequence[float],
    ridge: float,
    strength: float,
) -> Array:
    """One layer, [weight | bias]: row by row the best steps along the sources' own task vectors,
    then ridge regression from there.

    Args:
        start: [W | b] of the merge that the fit starts from.
        vectors: the members' task vectors of [weight | bias].
        inputs, outputs: of each member, what enters the layer and what should leave it.
        strength: of both penalties: 64 over the images of a task.
    """
    size = start.shape[1]
    g, c = np.zeros((size, size)), np.zeros(start.shape)
    for share, x, y in zip(shares, inputs, outputs, strict=True):
        x, y = rows_of(x), rows_of(y)
        x = np.hstack([x, np.ones((len(x), 1))])
        g += share * x.T @ x / len(x)
        c += share * y.T @ x / len(x)
    along = [np.stack([v[j] for v in vectors]) for j in range(len(start))]  # D_j, q x (in + 1)
    hessians = [d @ g @ d.T for d in along]
    mean = np.mean([np.diag(h) for h in hessians])
    target = start.copy()
    for j, (d, hessian) in enumerate(zip(along, hessians, strict=True)):
        slope = d @ (c[j] - start[j] @ g)
        steps = np.linalg.solve(hessian + strength * 0.1 * mean * np.eye(len(d)), slope)
        target[j] = start[j] + steps @ d
    diagonal = np.diag(g)[:-1].mean()
    penalty = strength * ridge * diagonal * np.eye(size)
    return target + (c - target @ g) @ np.linalg.inv(g + penalty)


def fit(
    start: State,
    base: State,
    sources: Sequence[State],
    weights: Weights,
    pixels: Sequence[Array],
    heads: int,
    act_name: str,
    ridge: float = 10.0,
) -> dict[str, Array]:
    """Fit: the linear layers one after the other along the merge, to give what each source computes
    on its own task's images, so that what went wrong before is repaired."""
    shares = alphas(weights, len(sources))
    members = [i for i, share in enumerate(shares) if share > 0]
    merged = {name: _f64(tensor) for name, tensor in start.items()}
    own = {i: embed(sources[i], pixels[i]) for i in members}
    ours = {i: embed(merged, pixels[i]) for i in members}
    blocks = depth(base)
    strength = 64 / sum(shares[i] * len(pixels[i]) for i in members)

    def solve(weight: str, bias: str, inputs: dict[int, Array], outputs: dict[int, Array]) -> None:
        def augmented(state: State) -> Array:
            return np.hstack([_f64(state[weight]), _f64(state[bias])[:, None]])

        vectors = [
            np.hstack(
                [task_vector(base[weight], sources[i][weight]),
                 task_vector(base[bias], sources[i][bias])[:, None]]
            )
            for i in members
        ]  # fmt: skip
        solution = fitted(
            augmented(merged), vectors, [inputs[i] for i in members], [outputs[i] for i in members],
            [shares[i] for i in members], ridge, strength,
        )  # fmt: skip
        merged[weight], merged[bias] = solution[:, :-1], solution[:, -1]

    for block in range(blocks):
        name = f"{BLOCKS}{block}."
        chosen = slice(0, 1) if block == blocks - 1 else slice(None)  # the class token alone
        middle = {i: attention_half(sources[i], block, own[i], heads) for i in members}
        after = {i: mlp_half(sources[i], block, middle[i], act_name) for i in members}

        solve(
            name + "attn.in_proj_weight", name + "attn.in_proj_bias",
            {i: normed(merged, block, ours[i]) for i in members},
            {i: qkv_of(sources[i], block, own[i]) for i in members},
        )  # fmt: skip
        solve(
            name + "attn.out_proj.weight", name + "attn.out_proj.bias",
            {i: mixed_values(merged, block, ours[i], heads)[:, chosen] for i in members},
            {i: (middle[i] - ours[i])[:, chosen] for i in members},
        )  # fmt: skip
        ours = {i: attention_half(merged, block, ours[i], heads) for i in members}
        solve(
            name + "mlp.c_fc.weight", name + "mlp.c_fc.bias",
            {i: mlp_input(merged, block, ours[i])[:, chosen] for i in members},
            {i: pre_activations(sources[i], block, middle[i])[:, chosen] for i in members},
        )  # fmt: skip
        solve(
            name + "mlp.c_proj.weight", name + "mlp.c_proj.bias",
            {
                i: activation(act_name)(pre_activations(merged, block, ours[i]))[:, chosen]
                for i in members
            },
            {i: (after[i] - ours[i])[:, chosen] for i in members},
        )  # fmt: skip
        ours = {i: mlp_half(merged, block, ours[i], act_name) for i in members}
        own = after
    return merged


# --- SMILE ---------------------------------------------------------------------------------------


def routed(
    base: State, sources: Sequence[State], weight: str, bias: str, x: Array, rank: int = 128
) -> Array:
    """A linear layer of SMILE: each token is given the low-rank expert of the source whose leading
    direction it meets most."""
    experts, leading = [], []
    for source in sources:
        left, values, right = np.linalg.svd(
            task_vector(base[weight], source[weight]), full_matrices=False
        )
        kept = min(rank, len(values))
        experts.append(left[:, :kept] @ np.diag(values[:kept]) @ right[:kept])
        leading.append(right[0])
    out = x @ _f64(base[weight]).T + _f64(base[bias])
    for place in np.ndindex(x.shape[:-1]):
        scores = [abs(float(direction @ x[place])) for direction in leading]
        chosen = scores.index(max(scores))
        out[place] += experts[chosen] @ x[place]
        out[place] += task_vector(base[bias], sources[chosen][bias])
    return out


def smile_features(
    base: State,
    sources: Sequence[State],
    pixels: Array,
    heads: int,
    act_name: str,
    rank: int = 128,
) -> Array:
    """SMILE's image embeddings (Tang et al., 2024): the base but for the blocks' linear layers."""
    x = embed(base, pixels)
    width = x.shape[-1]

    def layer(block: int, weight: str, bias: str, inputs: Array) -> Array:
        name = f"{BLOCKS}{block}."
        return routed(base, sources, name + weight, name + bias, inputs, rank)

    for block in range(depth(base)):
        stacked = layer(block, "attn.in_proj_weight", "attn.in_proj_bias", normed(base, block, x))
        mixed = np.zeros(x.shape)
        size = width // heads
        for n, head in np.ndindex(len(x), heads):
            chosen = slice(head * size, (head + 1) * size)
            q, k, v = (stacked[n, :, p * width : (p + 1) * width][:, chosen] for p in range(3))
            logits = q @ k.T / math.sqrt(size)
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            mixed[n, :, chosen] = odds / odds.sum(axis=1, keepdims=True) @ v
        x = x + layer(block, "attn.out_proj.weight", "attn.out_proj.bias", mixed)
        h = layer(block, "mlp.c_fc.weight", "mlp.c_fc.bias", mlp_input(base, block, x))
        x = x + layer(block, "mlp.c_proj.weight", "mlp.c_proj.bias", activation(act_name)(h))
    return layer_norm(base, "visual.ln_post", x[:, 0]) @ _f64(base["visual.proj"])


# --- predictions ---------------------------------------------------------------------------------


def log_softmax(logits: Array) -> Array:
    """Logarithms of the softmax over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def logits(embedded: Array, head: Array) -> Array:
    """Cosine similarities with the head's rows, times the scale that the head carries."""
    unit = embedded / np.sqrt(np.sum(embedded**2, axis=-1, keepdims=True))
    return unit @ _f64(head).T


def entropy(scores: Array) -> float:
    """Mean entropy of the softmax of logits (images, classes)."""
    logs = log_softmax(scores)
    return float(-np.mean(np.sum(np.exp(logs) * logs, axis=-1)))


def distillation(expert: Array, merged: Array, temperature: float = 2.0) -> float:
    """Mean KL(expert || merged) of logits softened by a temperature; no factor of its square."""
    own, ours = log_softmax(expert / temperature), log_softmax(merged / temperature)
    return float(np.mean(np.sum(np.exp(own) * (own - ours), axis=-1)))


def trained(
    loss: Callable[[Sequence[float]], float],
    start: Sequence[float],
    steps: int,
    rate: float,
    decay: float = 0.0,
    rho: float = 0.0,
) -> list[float]:
    """Coefficients of the sources after steps of Adam on a loss, its gradient by differences.

    As in AdaMerging (Yang et al., ICLR 2024); with rho as in SAMerging, whose gradient is that at
    the point c + rho c^2 g / |c g| (adaptive SAM), the weights rebuilt there.
    """
    c = np.array(start, dtype=np.float64)
    first, second = np.zeros(len(c)), np.zeros(len(c))
    for step in range(1, steps + 1):
        gradient = slope(loss, c)
        length = math.sqrt(float(np.sum((c * gradient) ** 2)))
        if rho and length > 0:
            gradient = slope(loss, c + rho * c**2 * gradient / length)
        gradient = gradient + decay * c
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        unbiased = first / (1 - 0.9**step), second / (1 - 0.999**step)
        c = c - rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    return [float(value) for value in c]


def slope(loss: Callable[[Sequence[float]], float], at: Sequence[float], h: float = 1e-5) -> Array:
    """The gradient of a function of a few numbers, by central differences."""
    found = np.zeros(len(at))
    for i in range(len(at)):
        up, down = np.array(at, dtype=np.float64), np.array(at, dtype=np.float64)
        up[i] += h
        down[i] -= h
        found[i] = (loss(up) - loss(down)) / (2 * h)
    return found


def fisher_merge(
    base: State, sources: Sequence[State], weights: Weights, information: Sequence[State]
) -> dict[str, Array]:
    """The delta of Fisher merging (Matena and Raffel, NeurIPS 2022), given each source's diagonal:
    sum c_i F_i D_i / sum c_i F_i, with 1e-6 added to each entry and c_i = alpha_i / |F_i|."""
    shares = alphas(weights, len(sources))
    vectors = task_vectors(base, sources)
    times = [a / norm(f) for a, f in zip(shares, information, strict=True)]
    delta = {}
    for name in base:
        each = [t * (_f64(f[name]) + 1e-6) for t, f in zip(times, information, strict=True)]
        total = sum(e * v[name] for e, v in zip(each, vectors, strict=True))
        delta[name] = total / sum(each)
    return delta
