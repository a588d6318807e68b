"""A naive second opinion: M-Loss, the trims and the merges in plain NumPy loops and float64.

Written from the paper (Sections 3 to 5, Algorithm 1) and from the project's rulings, without looking at the
library, so that the two can be wrong only independently. It is slow and it is meant to be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction

import numpy as np

Array = np.ndarray
State = Mapping[str, Array]
Weights = Sequence[float] | None

LEAKY_SLOPE = 0.01
LN_EPS = 1e-5
BLOCKS = "visual.transformer.resblocks."

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _f64(values: Array) -> Array:
    return np.asarray(values, dtype=np.float64)


def _alphas(weights: Weights, count: int) -> list[float]:
    """The merging weights alpha; 1/q each when none are given (Remark 1)."""
    alphas = [1.0 / count] * count if weights is None else [float(w) for w in weights]
    assert len(alphas) == count, f"{len(alphas)} weights for {count} sources"
    return alphas


# --- M-Loss -----------------------------------------------------------------------------------------------------


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))  # never overflows
    return np.where(x >= 0, 1.0 / (1.0 + small), small / (1.0 + small))


def activation(name: str) -> Callable[[Array], Array]:
    """The activation sigma of Eq. 1, by name."""
    return {
        "relu": lambda x: np.maximum(x, 0.0),
        "leaky_relu": lambda x: np.where(x >= 0, x, LEAKY_SLOPE * x),
        "gelu": lambda x: 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))),
        "gelu_tanh": lambda x: (
            0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
        ),
        "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
        "silu": lambda x: x * _sigmoid(x),
    }[name]


def _merged_and_ensembled(
    h: Array, token: int, act_name: str, alphas: Sequence[float]
) -> tuple[Array, Array]:
    """One token's sigma(alpha . h) and alpha . sigma(h), each of shape (nodes,): the two sides of Eqs. 3 and 4."""
    sigma = activation(act_name)
    mixed = np.zeros(h.shape[2])
    ensembled = np.zeros(h.shape[2])
    for source in range(h.shape[0]):
        mixed += alphas[source] * h[source, token]
        ensembled += alphas[source] * sigma(h[source, token])
    return sigma(mixed), ensembled


def node_mloss(
    h: Array, act_name: str, weights: Weights = None, normalised: bool = False, eps: float = 1e-4
) -> Array:
    """Node M-Loss, Eq. 4 (normalised: Eq. 7), per token, then the mean over tokens. h: (sources, tokens, nodes)."""
    h = _f64(h)
    alphas = _alphas(weights, h.shape[0])
    total = np.zeros(h.shape[2])
    for token in range(h.shape[1]):
        merged, ensembled = _merged_and_ensembled(h, token, act_name, alphas)
        loss = np.abs(merged - ensembled)
        total += loss / (np.abs(merged) + eps) if normalised else loss
    return total / h.shape[1]


def node_squared(h: Array, act_name: str, weights: Weights = None) -> Array:
    """What the authors' released code ranks nodes by: the square of each token's gap, then the mean over tokens."""
    h = _f64(h)
    alphas = _alphas(weights, h.shape[0])
    total = np.zeros(h.shape[2])
    for token in range(h.shape[1]):
        merged, ensembled = _merged_and_ensembled(h, token, act_name, alphas)
        total += (merged - ensembled) ** 2
    return total / h.shape[1]


def layer_mloss(
    h: Array, act_name: str, weights: Weights = None, normalised: bool = False, eps: float = 1e-4
) -> float:
    """Layer M-Loss, Eq. 3 (normalised: Eq. 6), per token, then the mean over tokens. h: (sources, tokens, nodes)."""
    h = _f64(h)
    alphas = _alphas(weights, h.shape[0])
    total = 0.0
    for token in range(h.shape[1]):
        merged, ensembled = _merged_and_ensembled(h, token, act_name, alphas)
        loss = math.sqrt(float(np.sum((merged - ensembled) ** 2)))
        total += loss / (math.sqrt(float(np.sum(merged**2))) + eps) if normalised else loss
    return total / h.shape[1]


def second_order(h: Array, act_name: str, weights: Weights = None) -> tuple[Array, Array, Array]:
    """Means over tokens of abs(sigma''(alpha . h)), of the weighted variance over the sources, and of half their
    product. The second derivative is taken by differences of the function itself. h: (sources, tokens, nodes)."""
    h = _f64(h)
    alphas = _alphas(weights, h.shape[0])
    sigma = activation(act_name)
    step = 1e-2
    curvature, variance, product = np.zeros((3, h.shape[2]))
    for token in range(h.shape[1]):
        mean = sum(a * h[source, token] for source, a in enumerate(alphas))
        spread = sum(a * (h[source, token] - mean) ** 2 for source, a in enumerate(alphas))
        around = {i: sigma(mean + i * step) for i in (-2, -1, 0, 1, 2)}
        bend = np.abs(
            -around[-2] + 16 * around[-1] - 30 * around[0] + 16 * around[1] - around[2]
        ) / (12 * step**2)
        curvature += bend / h.shape[1]
        variance += spread / h.shape[1]
        product += bend * spread / 2 / h.shape[1]
    return curvature, variance, product


def keep_rates(scores: Array, keep: float, variation: float) -> Array:
    """Keep rates k_j = k - e * rank_j (Algorithm 1, line 15): the lowest score keeps k, the highest k - e."""
    nodes = len(scores)
    order = sorted(range(nodes), key=lambda j: (float(scores[j]), j))  # equal scores by node index
    rates = np.empty(nodes)
    for place, j in enumerate(order):
        rank = place / (nodes - 1) if nodes > 1 else 0.0
        rates[j] = keep - variation * rank
    return rates


def reversed_keep_rates(scores: Array, keep: float, variation: float) -> Array:
    """The control: the same rates handed out from the other end, so that the highest score keeps k, the lowest k - e."""
    nodes = len(scores)
    order = sorted(range(nodes), key=lambda j: (float(scores[j]), j))
    rates = np.empty(nodes)
    for place, j in enumerate(reversed(order)):
        rates[j] = keep - variation * (place / (nodes - 1) if nodes > 1 else 0.0)
    return rates


# --- trim, elect, merge -----------------------------------------------------------------------------------------


def trim(values_1d: Array, rate: float) -> Array:
    """Zeroes all but the floor(rate * n) largest magnitudes, at least 1 (line 19); ties at the threshold stay.

    A rate is a rounded decimal: one that falls short of a whole number by 2^-50 of n or less is meant to reach it.
    """
    values = _f64(values_1d)
    if values.size == 0:
        return values.copy()
    share = (Fraction(float(rate)) + Fraction(1, 2**50)) * values.size
    kept = min(max(math.floor(share), 1), values.size)
    magnitudes = np.abs(values)
    threshold = np.sort(magnitudes)[values.size - kept]
    return np.where(magnitudes >= threshold, values, 0.0)


def trim_rows(matrix: Array, rates: Sequence[float] | Array) -> Array:
    """Trims row j, the LCP of node j (Definition 3.2), at its own rate k_j (lines 18 to 20)."""
    assert len(rates) == len(matrix)
    trimmed = np.zeros(np.shape(matrix))
    for j in range(len(matrix)):
        trimmed[j] = trim(matrix[j], float(rates[j]))
    return trimmed


def trim_tensor(tensor: Array, rate: float) -> Array:
    """Plain TIES trim: the whole tensor is one long row."""
    return trim(np.reshape(tensor, -1), rate).reshape(np.shape(tensor))


def elect_and_merge(task_vectors: Sequence[Array], weights: Weights = None) -> Array:
    """TIES' disjoint mean of trimmed task vectors (line 22 as ruled).

    The sign is that of sum alpha_i t_i, exactly zero counting as positive; the result is the weighted mean over the
    sources that agree with it, zero where none does. Votes carry alpha_i / max(alpha), so equal weights vote exactly.
    """
    alphas = _alphas(weights, len(task_vectors))
    vectors = [_f64(t) for t in task_vectors]
    vote = np.zeros(vectors[0].shape)
    for alpha, t in zip(alphas, vectors, strict=True):
        vote = vote + (alpha / max(alphas)) * t
    elected = np.where(vote >= 0.0, 1.0, -1.0)
    total = np.zeros(vote.shape)
    mass = np.zeros(vote.shape)
    for alpha, t in zip(alphas, vectors, strict=True):
        agrees = t * elected > 0.0  # a zero entry agrees with nobody
        total = total + np.where(agrees, alpha * t, 0.0)
        mass = mass + np.where(agrees, alpha, 0.0)
    return np.where(mass > 0.0, total / np.where(mass > 0.0, mass, 1.0), 0.0)


def task_vector(base: Array, source: Array) -> Array:
    """t_i = source - base (line 7), subtracted in float32, then widened."""
    return _f64(np.subtract(np.asarray(source, np.float32), np.asarray(base, np.float32)))


# --- merging methods without data -------------------------------------------------------------------------------


def simple_average(
    base: State, sources: Sequence[State], weights: Weights = None
) -> dict[str, Array]:
    """Simple averaging (Section 2.1): sum alpha_i theta_i / sum alpha_i. The base only lends its names."""
    alphas = _alphas(weights, len(sources))
    return {
        n: sum(a * _f64(s[n]) for a, s in zip(alphas, sources, strict=True)) / sum(alphas)
        for n in base
    }


def task_arithmetic(
    base: State, sources: Sequence[State], weights: Weights = None, scaling: float = 1.0
) -> dict[str, Array]:
    """Task arithmetic (Section 2.1): base + lambda * sum alpha_i t_i; alpha_i = 1/q is the paper's lambda / q."""
    alphas = _alphas(weights, len(sources))
    merged = {}
    for name in base:
        vectors = [task_vector(base[name], source[name]) for source in sources]
        merged[name] = _f64(base[name]) + scaling * sum(
            a * t for a, t in zip(alphas, vectors, strict=True)
        )
    return merged


def ties_tensor(
    base: State, sources: Sequence[State], weights: Weights, keep: float, scaling: float, name: str
) -> Array:
    """One tensor merged by plain TIES: trim at rate keep, elect, merge, times lambda, onto the base."""
    trimmed = [trim_tensor(task_vector(base[name], s[name]), keep) for s in sources]
    return _f64(base[name]) + scaling * elect_and_merge(trimmed, weights)


def ties(
    base: State, sources: Sequence[State], weights: Weights, keep: float, scaling: float = 1.0
) -> dict[str, Array]:
    """TIES (Section 2.3), tensor by tensor."""
    return {name: ties_tensor(base, sources, weights, keep, scaling, name) for name in base}


def dare(
    base: State,
    sources: Sequence[State],
    weights: Weights,
    keep: float,
    scaling: float,
    masks: Sequence[State],
) -> dict[str, Array]:
    """DARE (Section 2.3): entries drawn by masks[i][name] rescaled by 1 / keep, then elected and merged as in TIES."""
    merged = {}
    for name in base:
        dropped = []
        for source, mask in zip(sources, masks, strict=True):
            t = task_vector(base[name], source[name])
            dropped.append(np.where(mask[name], t / keep, 0.0))
        merged[name] = _f64(base[name]) + scaling * elect_and_merge(dropped, weights)
    return merged


def elect_only(
    base: State, sources: Sequence[State], weights: Weights = None, scaling: float = 1.0
) -> dict[str, Array]:
    """TIES without its first step: whole task vectors, elected and merged."""
    merged = {}
    for name in base:
        vectors = [task_vector(base[name], source[name]) for source in sources]
        merged[name] = _f64(base[name]) + scaling * elect_and_merge(vectors, weights)
    return merged


def ties_global(
    base: State, sources: Sequence[State], weights: Weights, keep: float, scaling: float = 1.0
) -> dict[str, Array]:
    """TIES with each source's whole task vector trimmed as one long row."""
    names = list(base)
    trimmed: list[dict[str, Array]] = []
    for source in sources:
        vectors = [task_vector(base[name], source[name]) for name in names]
        row = trim(np.concatenate([np.reshape(v, -1) for v in vectors]), keep)
        parts, start = {}, 0
        for name, vector in zip(names, vectors, strict=True):
            parts[name] = row[start : start + vector.size].reshape(vector.shape)
            start += vector.size
        trimmed.append(parts)
    return {
        name: _f64(base[name]) + scaling * elect_and_merge([t[name] for t in trimmed], weights)
        for name in names
    }


def emr(base: State, sources: Sequence[State], weights: Weights = None) -> list[dict[str, Array]]:
    """EMR-Merging (Huang et al., NeurIPS 2024): the model of each source's task, in the sources' order.

    Elect: the sign of sum alpha_i t_i (exactly zero counts as positive), and with it the largest magnitude among the
    sources of that sign, those without weight left out. Mask: where t_i has the unified sign. Rescale: sum |t_i| over
    sum |masked|, both over the whole model; nothing is added where nothing is left.
    """
    alphas = _alphas(weights, len(sources))
    vectors = [{name: task_vector(base[name], s[name]) for name in base} for s in sources]
    unified = {}
    for name in base:
        vote = sum((a / max(alphas)) * v[name] for a, v in zip(alphas, vectors, strict=True))
        sign = np.where(vote >= 0.0, 1.0, -1.0)
        largest = np.zeros(np.shape(base[name]))
        for alpha, vector in zip(alphas, vectors, strict=True):
            if alpha > 0.0:
                largest = np.maximum(
                    largest, np.where(vector[name] * sign > 0.0, np.abs(vector[name]), 0.0)
                )
        unified[name] = sign * largest
    models = []
    for vector in vectors:
        masked = {
            name: np.where(np.sign(vector[name]) * np.sign(unified[name]) > 0.0, unified[name], 0.0)
            for name in base
        }
        own = sum(float(np.sum(np.abs(vector[name]))) for name in base)
        left = sum(float(np.sum(np.abs(masked[name]))) for name in base)
        scale = own / left if left > 0.0 else 0.0
        models.append({name: _f64(base[name]) + scale * masked[name] for name in base})
    return models


# --- the vision tower -------------------------------------------------------------------------------------------
# A stream is an array (images, tokens, width); the class token comes first.


def layer_norm(state: State, name: str, x: Array) -> Array:
    """LayerNorm over the last axis, eps 1e-5."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + LN_EPS) * _f64(state[f"{name}.weight"]) + _f64(
        state[f"{name}.bias"]
    )


def linear(state: State, name: str, x: Array) -> Array:
    """H(x) = W x + b (Eq. 1)."""
    return x @ _f64(state[f"{name}.weight"]).T + _f64(state[f"{name}.bias"])


def embed(state: State, pixels: Array) -> Array:
    """Patch convolution, class token, positions and ln_pre: pixels NCHW to the stream entering block 0."""
    kernel = _f64(state["visual.conv1.weight"])
    width, _, patch, _ = kernel.shape
    rows, columns = pixels.shape[2] // patch, pixels.shape[3] // patch
    stream = np.zeros((len(pixels), 1 + rows * columns, width))
    for n, image in enumerate(_f64(pixels)):
        stream[n, 0] = state["visual.class_embedding"]
        for r in range(rows):
            for c in range(columns):
                window = image[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]
                stream[n, 1 + r * columns + c] = kernel.reshape(width, -1) @ window.reshape(-1)
    return layer_norm(state, "visual.ln_pre", stream + _f64(state["visual.positional_embedding"]))


def attention(state: State, name: str, x: Array, heads: int) -> Array:
    """Multi-head self-attention with fused q, k, v rows in in_proj."""
    width = x.shape[-1]
    size = width // heads
    mixed = np.zeros(x.shape)
    for n, image in enumerate(x):
        qkv = image @ _f64(state[f"{name}.in_proj_weight"]).T + _f64(state[f"{name}.in_proj_bias"])
        for head in range(heads):
            q, k, v = (
                qkv[:, p * width + head * size : p * width + (head + 1) * size] for p in range(3)
            )
            logits = q @ k.T / math.sqrt(size)
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            mixed[n, :, head * size : (head + 1) * size] = (
                odds / odds.sum(axis=1, keepdims=True) @ v
            )
    return linear(state, f"{name}.out_proj", mixed)


def attention_half(state: State, block: int, x: Array, heads: int) -> Array:
    """x + attention(ln_1(x)): the residual stream in the middle of a block."""
    return x + attention(
        state, f"{BLOCKS}{block}.attn", layer_norm(state, f"{BLOCKS}{block}.ln_1", x), heads
    )


def mlp_input(state: State, block: int, middle: Array) -> Array:
    """ln_2 of the mid-block stream: what enters c_fc."""
    return layer_norm(state, f"{BLOCKS}{block}.ln_2", middle)


def mlp_half(state: State, block: int, middle: Array, act_name: str) -> Array:
    """middle + c_proj(sigma(c_fc(ln_2(middle)))): the stream leaving a block."""
    h = linear(state, f"{BLOCKS}{block}.mlp.c_fc", mlp_input(state, block, middle))
    return middle + linear(state, f"{BLOCKS}{block}.mlp.c_proj", activation(act_name)(h))


def depth(state: State) -> int:
    """The number of residual blocks."""
    return 1 + max(
        int(name[len(BLOCKS) :].split(".")[0]) for name in state if name.startswith(BLOCKS)
    )


def features(state: State, pixels: Array, heads: int, act_name: str) -> Array:
    """The image embeddings (images, embed_dim), not length-normalised: proj of ln_post of the class token."""
    x = embed(state, pixels)
    for block in range(depth(state)):
        x = mlp_half(state, block, attention_half(state, block, x, heads), act_name)
    return layer_norm(state, "visual.ln_post", x[:, 0]) @ _f64(state["visual.proj"])


# --- M-TIES and M-DARE -------------------------------------------------------------------------------------------


def dropped_rows(vector: Array, draws: Array, rates: Sequence[float] | Array) -> Array:
    """M-DARE's rows: an entry of row j stays where its draw is below k_j, divided by k_j; at k_j = 0 none stays."""
    kept = np.zeros(np.shape(vector))
    for j in range(len(vector)):
        if rates[j] > 0.0:
            kept[j] = np.where(draws[j] < rates[j], _f64(vector[j]) / float(rates[j]), 0.0)
    return kept


def m_ties(
    base: State,
    sources: Sequence[State],
    weights: Weights,
    pixels: Array,
    heads: int,
    act_name: str,
    keep: float,
    variation: float,
    blocks: Iterable[int],
    scaling: float = 1.0,
    *,
    inputs_from: str = "merged",
    squared: bool = False,
    ranks: str | Mapping[int, Array] = "m-loss",
    draws: Sequence[State] | None = None,
) -> tuple[dict[str, Array], dict[int, Array]]:
    """Algorithm 1 (M-TIES, or M-DARE) with the rulings: the merged state dict, and node scores (Eq. 4, or squared) of each chosen block.

    Options. inputs_from "pretrained": a copy of the base, which nothing merges into, feeds the measured layers. ranks
    "reversed", or a mapping of block to each node's rank, drawn by the caller: then nothing is measured. draws, one
    state of numbers in [0, 1) a source: M-DARE, which drops and rescales instead of trimming.
    """
    chosen = set(blocks)
    layers = depth(base)
    assert chosen <= set(range(layers)), f"blocks {sorted(chosen)} of {layers}"
    merged = {name: _f64(value) for name, value in base.items()}  # line 3
    scores: dict[int, Array] = {}

    def plain(name: str) -> Array:
        vectors = [task_vector(base[name], s[name]) for s in sources]
        if draws is None:
            left = [trim_tensor(v, keep) for v in vectors]
        else:
            left = [
                np.where(d[name] < keep, v / keep, 0.0) for v, d in zip(vectors, draws, strict=True)
            ]
        return _f64(base[name]) + scaling * elect_and_merge(left, weights)

    for name in base:  # everything outside the blocks first
        if not name.startswith(BLOCKS):
            merged[name] = plain(name)
    feeder = merged if inputs_from == "merged" else dict(base)
    x = embed(feeder, pixels)

    for block in range(layers):  # line 4
        fc = f"{BLOCKS}{block}.mlp.c_fc"
        weight = f"{fc}.weight"
        for name in base:
            if name.startswith(f"{BLOCKS}{block}.") and name != weight:
                merged[name] = plain(name)
        middle = attention_half(feeder, block, x, heads)

        if block not in chosen:
            merged[weight] = plain(weight)
        else:
            if isinstance(ranks, str):
                # images x tokens, one row each; own weight, own bias
                inputs = mlp_input(feeder, block, middle).reshape(-1, middle.shape[-1])
                h = np.stack([linear(source, fc, inputs) for source in sources])
                measure = node_squared if squared else node_mloss
                scores[block] = measure(h, act_name, weights)  # lines 10 to 12
                rated = keep_rates if ranks == "m-loss" else reversed_keep_rates
                rates = rated(scores[block], keep, variation)  # lines 14 to 16
            else:
                places = ranks[block]
                rates = np.array([keep - variation * (r / (len(places) - 1)) for r in places])
            vectors = [task_vector(base[weight], s[weight]) for s in sources]
            if draws is None:
                left = [trim_rows(v, rates) for v in vectors]  # lines 18 to 20
            else:
                left = [
                    dropped_rows(v, d[weight], rates) for v, d in zip(vectors, draws, strict=True)
                ]
            merged[weight] = _f64(base[weight]) + scaling * elect_and_merge(
                left, weights
            )  # lines 22 and 23

        x = mlp_half(feeder, block, middle, act_name)  # lines 25 to 27: the block feeds the next
    return merged, scores


# --- compatibility ----------------------------------------------------------------------------------------------


def set_losses(h: Array, act_name: str, members: Sequence[int], alphas: Sequence[float]) -> Array:
    """Mean of Eq. 4 over the nodes, Eq. 3 and Eq. 6 of some of the sources. h: (sources, tokens, nodes)."""
    chosen = np.stack([h[i] for i in members])
    node = node_mloss(chosen, act_name, alphas)
    layer = layer_mloss(chosen, act_name, alphas)
    return np.array([node.mean(), layer, layer_mloss(chosen, act_name, alphas, normalised=True)])


def pretrained_pre_activations(
    base: State, sources: Sequence[State], pixels: Array, heads: int, act_name: str
) -> list[Array]:
    """Of every block: each source's c_fc on what the base's c_fc sees; (sources, images, tokens, nodes)."""
    pre_activations = []
    x = embed(base, pixels)
    for block in range(depth(base)):
        middle = attention_half(base, block, x, heads)
        inputs = mlp_input(base, block, middle)
        pre_activations.append(
            np.stack([linear(s, f"{BLOCKS}{block}.mlp.c_fc", inputs) for s in sources])
        )
        x = mlp_half(base, block, middle, act_name)
    return pre_activations


def sign_conflict(first: Array, second: Array, rate: float) -> tuple[int, int, float, float]:
    """Of one tensor's two trimmed task vectors: entries of both, those of opposite signs, and the same by abs(a b)."""
    counts = [0, 0, 0.0, 0.0]
    for a, b in zip(trim(first.reshape(-1), rate), trim(second.reshape(-1), rate), strict=True):
        if a == 0 or b == 0:
            continue
        counts[0] += 1
        counts[2] += abs(a * b)
        if (a > 0) != (b > 0):
            counts[1] += 1
            counts[3] += abs(a * b)
    return counts[0], counts[1], counts[2], counts[3]
