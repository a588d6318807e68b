"""The methods besides Algorithm 1's, whole models: the library against their naive oracle."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import oracle_methods as second
import pytest
import test_oracle
import torch
from safetensors.torch import load_file, save_file
from test_oracle import UNTIED, draws_of, state

import oracle
from mloss_core import METHODS, Family, Finished, MergeRecipe, run
from mloss_core.errors import BadValue
from mloss_core.families import family as zoo
from mloss_core.methods import layers, matrices, trained
from mloss_core.methods.method import Models, OwnImages
from mloss_core.recipe import calibration_of, images_of
from mloss_core.run import Merge
from mloss_core.trim import TaskVectors
from mloss_core.types import Trained
from tiny import write_family

demo = test_oracle.demo  # the fixture: three blocks of the embedded family

UNEQUAL = UNTIED["weights"]
MATRIX_RULES = tuple(second.MATRIX_RULES)
ENTRY_RULES = ("simple-average", "task-arithmetic", "ties", "elect", "dare", "consensus")
WHOLE_RULES = ("pcb", "inverse-norm", "opcm")
# Iso leaves all singular values equal: any basis is one of singular vectors, and SVC's outcome is
# decided by rounding.
CALIBRATED = (*(m for m in MATRIX_RULES if not m.startswith("iso")), *ENTRY_RULES)
CALIBRATED = (*CALIBRATED, "pcb", "inverse-norm")
FEW = {"wudi": {"steps": 20, "rate": 1e-3}}  # large steps, for them to matter
LOOKING = ("regmean", "regmean-plus-plus", "esm", "fit")
STARTS = ("iso-c", "tsv-m", "wudi-closed", "ties", "simple-average")


def family_in(folder: Path) -> Family:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOSS_MODELS", str(folder.parent))
        return zoo.load(folder.name)


@pytest.fixture(scope="module", params=[(0, torch.float16), (2, torch.float32)], ids=str)
def drawn(request, tmp_path_factory) -> Family:
    """Tiny families in half and in single precision."""
    return family_in(write_family(tmp_path_factory.mktemp("models") / "tiny", *request.param))


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Family:
    """A tiny family in single precision, whose models are not so sure of their answers."""
    folder = write_family(tmp_path_factory.mktemp("models") / "one", 4, torch.float32)
    about = json.loads((folder / "family.json").read_text())
    (folder / "family.json").write_text(json.dumps(about | {"logit_scale": 10.0}))
    return family_in(folder)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory) -> Family:
    """A tiny family whose task vectors are of very unequal norms."""
    folder = write_family(tmp_path_factory.mktemp("models") / "uneven", 3, torch.float32)
    base = load_file(folder / "base.safetensors")
    for path, factor in zip(sorted((folder / "sources").iterdir()), (0.2, 1, 2), strict=True):
        tuned = load_file(path)
        save_file({n: base[n] + factor * (tuned[n] - base[n]) for n in base}, path)
    return family_in(folder)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory) -> Family:
    """A tiny family with a source that was fine-tuned in its last block alone."""
    folder = write_family(tmp_path_factory.mktemp("models") / "frozen", 6, torch.float32)
    base, path = load_file(folder / "base.safetensors"), folder / "sources" / "bridges.safetensors"
    tuned = load_file(path)
    save_file({n: tuned[n] if "resblocks.2." in n else base[n] for n in base}, path)
    return family_in(folder)


@pytest.fixture(scope="module")
def alike(tmp_path_factory) -> Family:
    """A tiny family whose sources are all the same."""
    folder = write_family(tmp_path_factory.mktemp("models") / "alike", 5, torch.float32)
    first, *others = sorted((folder / "sources").iterdir())
    for path in others:
        path.write_bytes(first.read_bytes())
    return family_in(folder)


def recipe_for(family: Family, method: str, **changes) -> MergeRecipe:
    fields = {"sources": family.sources[:3], "keep": 0.4, "samples": 24, "scaling": 0.7}
    fields |= FEW.get(method, {})
    return MergeRecipe(family=family.name, method=method, **fields | changes)


def own_pixels(recipe: MergeRecipe, family: Family) -> list[np.ndarray]:
    """Each source's preprocessed calibration images."""
    batch = calibration_of(recipe, family)
    assert batch is not None
    mean, std = np.array(family.model.mean), np.array(family.model.std)
    return [
        ((images / 255.0 - mean) / std).transpose(0, 3, 1, 2)
        for images in images_of(recipe, family, batch).values()
    ]


def states(recipe: MergeRecipe, family: Family) -> tuple[oracle.State, list[oracle.State]]:
    """The base's and the sources' tensors."""
    files = [family.folder / "sources" / f"{source}.safetensors" for source in recipe.sources]
    return state(family.folder / "base.safetensors"), [state(path) for path in files]


def delta_by_oracle(recipe: MergeRecipe, base: oracle.State, vectors: list) -> oracle.State:
    """The merged delta of a method without images, before the factor lambda."""
    method, weights = recipe.method, recipe.weights
    shares = second.alphas(weights, len(vectors))
    if method in MATRIX_RULES:
        rule = second.MATRIX_RULES[method]
        matrices, rest = second.PUBLISHED[method]
        if method == "knots":
            rule = functools.partial(rule, keep=recipe.keep)
        if method == "wudi":
            rule = functools.partial(rule, steps=recipe.steps or 300, rate=recipe.rate or 1e-5)
        return second.by_matrices(
            rule,
            vectors,
            weights,
            matrices if recipe.matrices == "published" else recipe.matrices,
            rest if recipe.rest == "published" else recipe.rest,
            recipe.qkv,
        )
    match method:
        case "simple-average" | "task-arithmetic":
            return {name: second.mean_of(vectors, shares, name) for name in base}
        case "ties" | "elect":
            rate = recipe.keep if method == "ties" else 1.0
            trimmed = [{n: oracle.trim_tensor(t, rate) for n, t in v.items()} for v in vectors]
            return {
                name: oracle.elect_and_merge([t[name] for t in trimmed], weights) for name in base
            }
        case "dare":
            dropped = [
                {n: np.where(d[n] < recipe.keep, t / recipe.keep, 0.0) for n, t in v.items()}
                for v, d in zip(vectors, draws_of(recipe, base), strict=True)
            ]
            return {
                name: oracle.elect_and_merge([t[name] for t in dropped], weights) for name in base
            }
        case "consensus":
            return second.consensus(vectors, weights)
        case "pcb":
            return second.pcb(vectors, weights, recipe.keep)
        case "inverse-norm":
            return second.inverse_norm(vectors, weights)
        case "opcm":
            matrices = "layers" if recipe.matrices == "published" else recipe.matrices
            return second.opcm(vectors, weights, matrices, recipe.qkv)
    raise AssertionError(method)


def merged_by_oracle(recipe: MergeRecipe, family: Family) -> oracle.State:
    """The oracle's merged weights."""
    base, sources = states(recipe, family)
    model, weights, scaling = family.model, recipe.weights, recipe.scaling
    if recipe.method in LOOKING:  # at images
        seen = (weights, own_pixels(recipe, family), model.heads, model.activation)
        match recipe.method:
            case "regmean":
                return second.regmean(base, sources, *seen, recipe.off_diagonal)
            case "regmean-plus-plus":
                return second.regmean_plus_plus(base, sources, *seen, recipe.off_diagonal)
            case "esm":
                vectors = second.task_vectors(base, sources)
                return second.added(base, second.esm(vectors, sources, *seen), scaling)
            case "fit":
                start = merged_by_oracle(dataclasses.replace(recipe, method=recipe.start), family)
                return second.fit(start, base, sources, *seen, recipe.ridge)
    vectors = second.task_vectors(base, sources, recipe.norms)
    delta = delta_by_oracle(recipe, base, vectors)
    factor = 1.0 if recipe.method == "simple-average" else scaling
    if recipe.after == "svc":
        scaled = {name: factor * tensor for name, tensor in delta.items()}
        return second.added(base, second.svc(scaled, vectors, weights, recipe.qkv), 1.0)
    return second.added(base, delta, factor)


def finished(recipe: MergeRecipe, family: Family) -> dict[str, torch.Tensor]:
    """Our merged weights."""
    events = list(run(recipe, family, stages=(Merge(),), device="cpu"))
    assert isinstance(events[-1], Finished) and events[-1].weights is not None
    return events[-1].weights


def assert_close(
    ours: dict[str, torch.Tensor], theirs: oracle.State, base: oracle.State, tolerance: float
) -> None:
    """Each tensor's entries agree, relative to the largest that was added; nothing where none."""
    assert ours.keys() == theirs.keys()
    apart = {}
    for name, expected in theirs.items():
        assert ours[name].dtype == torch.float32 and ours[name].shape == expected.shape
        error = float(np.max(np.abs(ours[name].double().numpy() - expected)))
        largest = float(np.max(np.abs(expected - base[name])))
        rounding = 2e-7 * float(np.max(np.abs(expected)))  # of weights in single precision
        if not error <= tolerance * largest + (rounding if largest else 0.0):
            apart[name] = error / largest if largest else error
    assert apart == {}


def assert_agrees(recipe: MergeRecipe, family: Family, tolerance: float = 1e-4) -> None:
    base = state(family.folder / "base.safetensors")
    assert_close(finished(recipe, family), merged_by_oracle(recipe, family), base, tolerance)


# --- merges without images -----------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize("method", (*MATRIX_RULES, "consensus", *WHOLE_RULES))
def test_methods_without_images_agree(method, weights, drawn):
    assert_agrees(recipe_for(drawn, method, weights=weights), drawn)


def test_wudi_agrees_with_its_published_steps(drawn):
    assert_agrees(recipe_for(drawn, "wudi", steps=None, rate=None), drawn)


def diverging(monkeypatch, *types: torch.dtype) -> list[torch.dtype]:
    """Makes LAPACK fail on matrices of these types; returns the types of those it is given."""
    asked, really = [], torch.linalg.svd

    def svd(matrix, full_matrices=True):
        asked.append(matrix.dtype)
        if matrix.dtype in types:
            raise torch.linalg.LinAlgError("linalg.svd: The algorithm failed to converge")
        return really(matrix, full_matrices=full_matrices)

    monkeypatch.setattr(torch.linalg, "svd", svd)
    return asked


@pytest.mark.parametrize("method", ("tsv-m", "iso-cts", "opcm", "esm"))
def test_an_svd_that_does_not_converge_is_made_in_doubles(method, single, monkeypatch):
    asked = diverging(monkeypatch, torch.float32)
    assert_agrees(recipe_for(single, method), single)
    assert torch.float32 in asked and torch.float64 in asked


def test_an_svd_that_never_converges_is_said(single, monkeypatch):
    diverging(monkeypatch, torch.float32, torch.float64)
    with pytest.raises(BadValue, match=r"^matrix \d+ x \d+: .* in doubles either; take a method"):
        finished(recipe_for(single, "iso-c"), single)


@pytest.mark.parametrize("matrices, rest", [("all", "base"), ("layers", "mean")])
@pytest.mark.parametrize("method", MATRIX_RULES)
def test_rules_of_matrices_agree_whatever_they_treat(method, matrices, rest, single):
    changes = {"matrices": matrices, "rest": rest, "qkv": "split", "weights": UNEQUAL}
    assert_agrees(recipe_for(single, method, **changes), single)


@pytest.mark.parametrize("matrices", ["all", "layers"])
def test_opcm_agrees_with_q_k_v_split(matrices, drawn):
    assert_agrees(recipe_for(drawn, "opcm", qkv="split", matrices=matrices), drawn)


def test_opcm_goes_by_the_order_of_the_sources(single):
    recipe = recipe_for(single, "opcm", sources=("clouds", "apples", "bridges"))
    assert_agrees(recipe, single)
    other = finished(recipe_for(single, "opcm"), single)
    ours = finished(recipe, single)
    assert any(not torch.allclose(ours[name], other[name], atol=1e-4) for name in ours)


@pytest.mark.parametrize("keep", [0.01, 0.05, 1.0])
def test_pcb_agrees_whatever_it_keeps(keep, drawn):
    assert_agrees(recipe_for(drawn, "pcb", keep=keep, variation=0.0, scaling=1.2), drawn)


@pytest.mark.parametrize("keep", [0.05, 1.0])
def test_knots_agrees_whatever_it_keeps(keep, single):
    assert_agrees(recipe_for(single, "knots", keep=keep, variation=0.0), single)


@pytest.mark.parametrize("method", [m for m in (*MATRIX_RULES, *ENTRY_RULES) if m != "dare"])
def test_norms_made_equal_agree(method, uneven):
    """And at the same time two sources of unequal weights."""
    changes = {"norms": "equal", "sources": ("clouds", "apples"), "weights": (0.7, 0.3)}
    assert_agrees(recipe_for(uneven, method, **changes), uneven)


@pytest.mark.parametrize("method", (*MATRIX_RULES, "consensus", *WHOLE_RULES))
def test_task_vectors_of_unequal_norms_agree(method, uneven):
    assert_agrees(recipe_for(uneven, method, weights=UNEQUAL), uneven)


def test_ace_sees_that_norms_are_unequal(uneven, single):
    """So that the tests take both of its branches."""
    assert_agrees(recipe_for(uneven, "ace"), uneven)
    for family, flagged in ((uneven, True), (single, False)):
        vectors = second.task_vectors(*states(recipe_for(family, "ace"), family))
        for name in ("visual.proj", "visual.transformer.resblocks.0.mlp.c_fc.weight"):
            assert second.ace_is_flagged([vector[name] for vector in vectors]) == flagged


@pytest.mark.parametrize("method", (*MATRIX_RULES, "consensus", "opcm", "esm"))
def test_a_tensor_that_one_source_left_alone_is_merged(method, frozen):
    ours = finished(recipe_for(frozen, method), frozen)
    assert all(bool(tensor.isfinite().all()) for tensor in ours.values())


@pytest.mark.parametrize("method", CALIBRATED)
def test_svc_agrees(method, single):
    assert_agrees(recipe_for(single, method, after="svc", weights=UNEQUAL), single, 1e-3)


@pytest.mark.parametrize("method", ("simple-average", "ties", "tsv-m", "ace", "consensus"))
def test_svc_agrees_on_q_k_v_split_and_equal_norms(method, uneven):
    """SVC divides by small singular values: fp32's rounding, which differs by processor, reached
    1.2e-3 of a tensor."""
    split = {"qkv": "split"} if method in MATRIX_RULES else {}
    assert_agrees(recipe_for(uneven, method, after="svc", norms="equal", **split), uneven, 2e-3)


# --- merges that see what enters each layer ------------------------------------------------------


@pytest.mark.parametrize("weights", [None, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize("method", LOOKING)
def test_methods_that_look_at_images_agree(method, weights, drawn):
    scaling = {"scaling": 1.3} if method in ("esm", "fit") else {}
    assert_agrees(recipe_for(drawn, method, weights=weights, **scaling), drawn)


@pytest.mark.parametrize(
    "method, off_diagonal",
    [(m, d) for m in LOOKING for d in (0.5, 1.0) if d < 1 or m.startswith("regmean")],
)
@pytest.mark.parametrize("samples", [16, 7])
def test_they_agree_on_few_images(method, off_diagonal, samples, uneven):
    """Fewer tokens than a layer has inputs, and not as many of each source."""
    recipe = recipe_for(uneven, method, samples=samples, off_diagonal=off_diagonal)
    # Plain Gram matrices of so few tokens are ill-conditioned: they enlarge activations' rounding.
    assert_agrees(recipe, uneven, 1e-3 if off_diagonal == 1 else 1e-4)


@pytest.mark.parametrize("method", ("esm", "fit"))
def test_they_agree_with_two_sources_of_unequal_weights(method, single):
    changes = {"sources": ("clouds", "apples"), "weights": (0.7, 0.3), "samples": 16}
    assert_agrees(recipe_for(single, method, **changes), single)


@pytest.mark.parametrize("off_diagonal", [0.0, 0.9])
@pytest.mark.parametrize("method", ("regmean", "regmean-plus-plus"))
def test_regression_agrees_whatever_the_off_diagonal_factor(method, off_diagonal, single):
    assert_agrees(recipe_for(single, method, off_diagonal=off_diagonal), single)


@pytest.mark.parametrize("start", STARTS)
def test_the_fit_agrees_whatever_it_starts_from(start, single):
    changes = {"start": start, "weights": UNEQUAL, "scaling": 1.2, "samples": 15}
    assert_agrees(recipe_for(single, "fit", **changes), single)


@pytest.mark.parametrize("ridge", [0.01, 1000.0])
def test_the_fit_agrees_whatever_its_ridge(ridge, single):
    assert_agrees(recipe_for(single, "fit", ridge=ridge), single, 1e-3)


# Adam carries fp32's rounding through 300 steps; and a sign that KnOTS elects by a sum of nearly
# nothing, in coordinates that were divided by small singular values, may fall otherwise in fp32.
LOOSE = {"wudi": 2e-3, "knots": 0.05}


@pytest.mark.parametrize("method", (*MATRIX_RULES, "consensus", *WHOLE_RULES, *LOOKING))
def test_the_methods_agree_on_the_demo_family(method, demo):
    recipe = recipe_for(demo, method, keep=0.2, scaling=1.2, **UNTIED)
    assert_agrees(recipe, demo, LOOSE.get(method, 5e-4))


# --- SMILE ---------------------------------------------------------------------------------------


def models_of(recipe: MergeRecipe, family: Family) -> Models:
    cpu = torch.device("cpu")
    sources = [family.source(name) for name in recipe.sources]
    return Models(config=family.model, base=family.base().load(cpu), sources=sources, device=cpu)


def test_smile_embeds_as_the_oracle(drawn):
    recipe = recipe_for(drawn, "smile")
    several = METHODS["smile"].several
    assert several is not None
    model = several(models_of(recipe, drawn), recipe)
    assert list(model.prepare(recipe))
    base, sources = states(recipe, drawn)
    for task, pixels in zip(recipe.sources, own_pixels(looking(recipe), drawn), strict=True):
        ours = model.features(torch.from_numpy(pixels).float(), task).double().numpy()
        heads, act_name = drawn.model.heads, drawn.model.activation
        theirs = second.smile_features(base, sources, pixels, heads, act_name)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def looking(recipe: MergeRecipe) -> MergeRecipe:
    """The recipe of a method that draws images, the same otherwise."""
    return dataclasses.replace(recipe, method="regmean")


# --- coefficients that are trained, and Fisher ---------------------------------------------------


def own_images(recipe: MergeRecipe, family: Family) -> list[OwnImages]:
    pixels = own_pixels(recipe, family)
    return [
        OwnImages(pixels=torch.from_numpy(p).float(), head=torch.from_numpy(h).float())
        for p, h in zip(pixels, own_heads(recipe, family), strict=True)
    ]


def own_heads(recipe: MergeRecipe, family: Family) -> list[np.ndarray]:
    """Each source's zero-shot head, its rows as long as the logit scale."""
    heads = [h.double().numpy() for h in family.heads(torch.device("cpu")).values()]
    named = dict(zip(family.tasks, heads, strict=True))
    own = [named[family.own_task(source)] for source in recipe.sources]
    return [h / np.sqrt(np.sum(h**2, axis=1, keepdims=True)) * family.logit_scale for h in own]


def loss_by_oracle(recipe: MergeRecipe, family: Family):
    """The loss of coefficients, sources x tensors, summed over the tasks."""
    base, sources = states(recipe, family)
    vectors = second.task_vectors(base, sources)
    if recipe.vectors == "trimmed":
        vectors = [{n: oracle.trim_tensor(t, recipe.keep) for n, t in v.items()} for v in vectors]
    pixels, heads = own_pixels(recipe, family), own_heads(recipe, family)
    embed = functools.partial(
        oracle.features, heads=family.model.heads, act_name=family.model.activation
    )
    experts = [
        second.logits(embed(s, p), h) for s, p, h in zip(sources, pixels, heads, strict=True)
    ]

    def loss(coefficients: np.ndarray) -> float:
        merged = {
            name: base[name] + second.mean_of(vectors, coefficients[:, i], name)
            for i, name in enumerate(base)
        }
        total = 0.0
        for task, images in enumerate(pixels):
            scores = second.logits(embed(merged, images), heads[task])
            if recipe.method == "adamerging":
                total += second.entropy(scores)
            else:
                total += second.distillation(experts[task], scores)
        return total

    return loss, len(base)


@pytest.mark.parametrize(
    "method, changes, start, decay",
    [
        ("adamerging", {}, 0.3, 0.0),
        ("adamerging", {"vectors": "trimmed", "weights": UNEQUAL}, 0.3, 0.0),
        ("samerging", {"rho": 0.0}, 0.0, 5e-4),
        ("samerging", {"rho": 0.5}, 0.0, 5e-4),
    ],
    ids=str,
)
def test_coefficients_of_sources_are_trained_as_by_the_oracle(
    method, changes, start, decay, single
):
    recipe = recipe_for(
        single, method, coefficients="source", steps=4, rate=0.1, samples=6, **changes
    )
    loss, tensors = loss_by_oracle(recipe, single)
    found = second.trained(
        lambda c: loss(np.repeat(np.array(c)[:, None], tensors, axis=1)),
        [start * 3 * a for a in recipe.alpha],
        4,
        0.1,
        decay,
        recipe.rho if method == "samerging" else 0.0,
    )
    base, sources = states(recipe, single)
    vectors = second.task_vectors(base, sources)
    if recipe.vectors == "trimmed":
        vectors = [{n: oracle.trim_tensor(t, recipe.keep) for n, t in v.items()} for v in vectors]
    delta = {name: second.mean_of(vectors, found, name) for name in base}
    assert_close(finished(recipe, single), second.added(base, delta, 1.0), base, 1e-3)


def trainer_of(
    recipe: MergeRecipe, family: Family, objective, start: float = 0.3, rho: float = 0.0
) -> trained._Trainer:
    models, own = models_of(recipe, family), own_images(recipe, family)
    return trained._Trainer(models, recipe, own, objective, start, recipe.rate or 1e-3, 0.0, rho)


def entropy(logits: torch.Tensor, task: int, batch: np.ndarray) -> torch.Tensor:
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1).mean()


@pytest.mark.parametrize("vectors", ["plain", "trimmed"])
def test_gradients_of_coefficients_are_those_of_differences(vectors, single):
    recipe = recipe_for(single, "adamerging", samples=6, vectors=vectors)
    trainer = trainer_of(recipe, single, entropy)
    rng = np.random.default_rng(1)
    at = rng.uniform(0.1, 0.5, tuple(trainer.coefficients.shape))
    batches = [np.arange(len(images.pixels)) for images in trainer.own]
    value, gradient = trainer._gradient(torch.from_numpy(at).float(), batches)
    loss, tensors = loss_by_oracle(recipe, single)
    # The oracle's tensors are in the order of the file.
    order = [trainer.names.index(name) for name in states(recipe, single)[0]]
    assert value == pytest.approx(loss(at[:, order]), rel=1e-4)
    largest = float(gradient.abs().max())
    for source, place in zip(rng.integers(0, 3, 12), rng.permutation(tensors), strict=False):
        sides = []
        for step in (1e-4, -1e-4):
            moved = at.copy()
            moved[source, place] += step
            sides.append(loss(moved[:, order]))
        expected = (sides[0] - sides[1]) / 2e-4
        assert float(gradient[source, place]) == pytest.approx(expected, abs=2e-3 * largest)


def losses(recipe: MergeRecipe, family: Family) -> list[float]:
    events = run(recipe, family, stages=(Merge(),), device="cpu")
    return [event.loss for event in events if isinstance(event, Trained) and event.loss is not None]


@pytest.mark.parametrize("coefficients", ["tensor", "source"])
@pytest.mark.parametrize("method", ["adamerging", "samerging"])
def test_the_loss_falls_over_training(method, coefficients, single):
    changes = {"steps": 12, "rate": 0.02, "coefficients": coefficients}
    found = losses(recipe_for(single, method, **changes), single)
    assert len(found) == 12
    assert found[-1] < 0.98 * found[0]


def test_sam_looks_from_a_point_that_is_perturbed_relative_to_each_coefficient(single):
    recipe = recipe_for(single, "samerging", samples=6)
    trainer = trainer_of(recipe, single, entropy, rho=0.07)
    batches = [np.arange(len(images.pixels)) for images in trainer.own]
    trainer.coefficients = torch.rand_like(trainer.coefficients) - 0.5
    _, gradient = trainer._gradient(trainer.coefficients, batches)
    there = trainer._perturbed(gradient)
    scaled = (there - trainer.coefficients) / trainer.coefficients.abs()
    assert float(scaled.norm()) == pytest.approx(0.07, rel=1e-4)
    loss, _ = trainer._gradient(trainer.coefficients, batches)
    higher, elsewhere = trainer._gradient(there, batches)
    assert higher > loss
    assert not torch.allclose(elsewhere, gradient, rtol=1e-3)


def test_without_a_radius_sam_is_plain_distillation(single, monkeypatch):
    recipe = recipe_for(single, "samerging", samples=6, steps=4, rate=0.05)
    sam = finished(recipe, single)
    plain = finished(dataclasses.replace(recipe, rho=0.0), single)
    assert any(not torch.equal(sam[name], plain[name]) for name in sam)
    monkeypatch.setattr(trained._Trainer, "_perturbed", lambda self, g: self.coefficients)
    unmoved = finished(recipe, single)
    assert all(torch.equal(unmoved[name], plain[name]) for name in plain)


def test_a_loss_that_is_no_number_ends_training_with_the_last_good_coefficients(single):
    recipe = recipe_for(single, "adamerging", samples=6, rate=0.05)
    step = 0

    def breaks(logits: torch.Tensor, task: int, batch: np.ndarray) -> torch.Tensor:
        nonlocal step
        step += task == 0
        return entropy(logits, task, batch) * (float("nan") if step == 3 else 1.0)

    trainer = trainer_of(recipe, single, breaks)
    events = list(trainer.train(10))
    assert [event.step for event in events] == [1, 2, 3]
    assert events[-1].note and not any(event.note for event in events[:-1])
    good = trainer_of(recipe, single, entropy)
    assert list(good.train(1))  # the second loss was the last that was a number: that of one step
    assert torch.equal(trainer.coefficients, good.coefficients)
    with pytest.raises(BadValue):
        nan = trainer_of(recipe, single, lambda *_: torch.tensor(float("nan")) * _[0].sum())
        list(nan.train(10))


def test_fisher_information_is_that_of_differences(single):
    recipe = recipe_for(single, "fisher", samples=6)
    models, images = models_of(recipe, single), own_images(recipe, single)[1]
    weights = models.sources[1].load(torch.device("cpu"))
    information = trained._information(models, recipe, weights, images, 1)
    source = {name: tensor.double().numpy() for name, tensor in weights.items()}
    head, generator = images.head.double().numpy(), np.random.default_rng([recipe.seed, 1])
    heads, act_name = single.model.heads, single.model.activation

    def log_p(state: oracle.State, image: np.ndarray) -> np.ndarray:
        embedded = oracle.features(state, image[None], heads, act_name)
        return second.log_softmax(second.logits(embedded, head))[0]

    pixels = images.pixels.double().numpy()
    answers = []
    for image in pixels:
        p = np.exp(log_p(source, image))
        answers.append(int(generator.choice(len(p), p=p / p.sum())))
    rng = np.random.default_rng(0)
    for name, found in information.items():
        if rng.random() < 0.6:
            continue
        place = np.unravel_index(int(found.argmax()), found.shape)
        squares = []
        for image, answer in zip(pixels, answers, strict=True):
            sides = []
            for step in (1e-6, -1e-6):
                moved = dict(source)
                moved[name] = source[name].copy()
                moved[name][place] += step
                sides.append(log_p(moved, image)[answer])
            squares.append(((sides[0] - sides[1]) / 2e-6) ** 2)
        assert float(found[place]) == pytest.approx(np.mean(squares), rel=2e-3), name


@pytest.mark.parametrize("weights", [None, UNEQUAL], ids=["equal", "unequal"])
def test_fisher_merging_weighs_by_the_information(weights, single):
    recipe = recipe_for(single, "fisher", weights=weights, samples=6)
    models, own = models_of(recipe, single), own_images(recipe, single)
    information = []
    for i, (source, images) in enumerate(zip(models.sources, own, strict=True)):
        weight = source.load(torch.device("cpu"))
        found = trained._information(models, recipe, weight, images, i)
        information.append({name: tensor.double().numpy() for name, tensor in found.items()})
    base, sources = states(recipe, single)
    delta = second.fisher_merge(base, sources, weights, information)
    theirs = second.added(base, delta, recipe.scaling)
    assert_close(finished(recipe, single), theirs, base, 1e-4)


# --- what must hold whatever the code ------------------------------------------------------------


@pytest.mark.parametrize(
    "method, changes",
    [
        ("simple-average", {}),
        ("task-arithmetic", {}),
        ("elect", {}),
        ("inverse-norm", {}),
        ("knots", {"keep": 1.0}),
        ("wudi-closed", {"rest": "mean"}),
        ("regmean", {}),
        ("regmean-plus-plus", {}),
        ("fisher", {}),
    ],
    ids=str,
)
def test_sources_that_are_the_same_are_given_back(method, changes, alike):
    recipe = recipe_for(alike, method, scaling=1.0, **changes)
    base, sources = states(recipe, alike)
    expected = dict(sources[0])
    if method == "regmean-plus-plus":
        expected |= {n: base[n] for n in base if n.startswith("visual.ln_post")}
    assert_close(finished(recipe, alike), expected, base, 1e-4)


def test_tsv_m_of_one_source_that_counts_gives_its_matrices_back(single):
    recipe = recipe_for(
        single, "tsv-m", sources=single.sources[:2], weights=(1.0, 0.0), scaling=1.0
    )
    base, sources = states(recipe, single)
    assert_close(finished(recipe, single), sources[0], base, 1e-4)


@pytest.mark.parametrize("method", (*MATRIX_RULES, "inverse-norm", *LOOKING))
def test_a_source_of_weight_zero_is_as_good_as_absent(method, single):
    two, samples = single.sources[:2], 24
    with_zero = recipe_for(single, method, weights=(0.6, 0.4, 0.0), samples=samples)
    without = recipe_for(single, method, sources=two, weights=(0.6, 0.4), samples=16)
    base = state(single.folder / "base.safetensors")
    expected = {name: t.double().numpy() for name, t in finished(without, single).items()}
    assert_close(finished(with_zero, single), expected, base, 1e-4)


@pytest.mark.parametrize("method", (*MATRIX_RULES, "consensus", "pcb", "inverse-norm", *LOOKING))
def test_the_order_of_sources_does_not_matter(method, single):
    recipe = recipe_for(single, method)
    turned = dataclasses.replace(recipe, sources=(recipe.sources[2], *recipe.sources[:2]))
    base = state(single.folder / "base.safetensors")
    expected = {name: t.double().numpy() for name, t in finished(recipe, single).items()}
    assert_close(finished(turned, single), expected, base, 2e-4)


def test_regression_on_a_task_vectors_own_gram_matrix_is_wudis_closed_form():
    rng = np.random.default_rng(7)
    base = torch.from_numpy(rng.normal(size=(20, 24))).float()
    sources = [base + torch.from_numpy(0.1 * rng.normal(size=(20, 24))).float() for _ in range(3)]
    times, tokens = [1.2, 1.0, 0.8], 50
    layer = layers.Regression(base, 1.0)
    for count, source in zip(times, sources, strict=True):
        delta = source - base
        layer.add(count, source, tokens * delta.T @ delta / delta.square().sum(), tokens)
    recipe = MergeRecipe(family="any", method="wudi-closed", sources=("a", "b", "c"))
    deltas = matrices.Deltas(TaskVectors(base, sources), times, slice(0, 20))
    closed = matrices.wudi_closed(deltas, recipe)
    np.testing.assert_allclose(layer.merged().float(), base + closed.float(), atol=1e-5)
    theirs = second.wudi_closed(
        [(s - base).double().numpy() for s in sources], [0.4, 1 / 3, 0.8 / 3]
    )
    np.testing.assert_allclose(closed.double().numpy(), theirs, atol=1e-5)
