"""Every method, whole models: the library against the naive oracle."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import oracle
from mloss_core import BlockScored, Family, Finished, MergeRecipe, draw_batch, run
from mloss_core.architecture import c_fc
from mloss_core.families import family as zoo
from mloss_core.families.folders import ZOO
from mloss_core.methods import emr
from mloss_core.methods.keep_rates import node_rates
from tiny import write_family

DATA_FREE = ("simple-average", "task-arithmetic", "ties", "elect", "dare")
NODE_WISE = ("m-ties", "m-dare")
# Fine-tunes in half precision often cancel exactly: 1 + 2 - 3 steps of a number's grid. Divided by
# a k_j, such votes are decided by rounding; with these weights none is that close.
UNTIED = {"weights": (0.4142, 0.3141, 0.2717)}
OPTIONS = (
    {"inputs_from": "pretrained"},
    {"scores": "squared"},
    {"inputs_from": "pretrained", "scores": "squared"},
    {"inputs_from": "pretrained", "scores": "squared", "ranks": "reversed"},
    {"ranks": "reversed"},
    {"ranks": "random"},
    {"ranks": "equal"},
)


@pytest.fixture(scope="module", params=[(0, torch.float16), (1, torch.float16), (2, torch.float32)])
def drawn(request, tmp_path_factory) -> Family:
    """Tiny families of several seeds and dtypes."""
    seed, dtype = request.param
    folder = write_family(tmp_path_factory.mktemp("models") / "tiny", seed, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOSS_MODELS", str(folder.parent))
        return zoo.load("tiny")


# Three blocks of the demo take the NumPy loops a second; all twelve are slow.
@pytest.fixture(scope="module", params=[3, pytest.param(12, marks=pytest.mark.slow)])
def demo(request, tmp_path_factory) -> Family:
    """The embedded family, its first blocks or all of it."""
    if not (ZOO / "demo" / "family.json").is_file():
        pytest.skip("assets/zoo/demo is not there")
    if request.param == zoo.load("demo").model.blocks:
        return zoo.load("demo")
    folder = tmp_path_factory.mktemp("models") / "first"
    shutil.copytree(ZOO / "demo", folder)
    for path in (folder / "base.safetensors", *(folder / "sources").iterdir()):
        save_file({n: t for n, t in load_file(path).items() if _block(n) < request.param}, path)
    about = json.loads((folder / "family.json").read_text())
    about["vision_cfg"]["layers"] = request.param
    (folder / "family.json").write_text(json.dumps(about))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOSS_MODELS", str(folder.parent))
        return zoo.load("first")


def _block(name: str) -> int:
    """The number of the block that a tensor belongs to; -1 for those outside all blocks."""
    number = re.search(r"resblocks\.(\d+)\.", name)
    return int(number[1]) if number else -1


def state(path: Path) -> oracle.State:
    """A file's tensors as float32."""
    return {name: tensor.float().numpy() for name, tensor in load_file(path).items()}


def recipe_for(family: Family, method: str, **changes) -> MergeRecipe:
    fields = {"sources": family.sources[:3], "keep": 0.4, "variation": 0.3, "samples": 7}
    return MergeRecipe(family=family.name, method=method, **fields | changes)


def merged_by_oracle(recipe: MergeRecipe, family: Family, given=None):
    """The oracle's merged weights, and its node scores where the method has some.

    Args:
        given: ranks of every block's nodes; None lets the oracle measure them.
    """
    base = state(family.folder / "base.safetensors")
    sources = [state(family.folder / "sources" / f"{s}.safetensors") for s in recipe.sources]
    alpha, keep, scaling = recipe.weights, recipe.keep, recipe.scaling
    match recipe.method:
        case "simple-average":
            return oracle.simple_average(base, sources, alpha), {}
        case "task-arithmetic":
            return oracle.task_arithmetic(base, sources, alpha, scaling), {}
        case "ties":
            merge = oracle.ties_global if recipe.scope == "global" else oracle.ties
            return merge(base, sources, alpha, keep, scaling), {}
        case "elect":
            return oracle.elect_only(base, sources, alpha, scaling), {}
        case "dare":
            masks = [{n: d < keep for n, d in draws.items()} for draws in draws_of(recipe, base)]
            return oracle.dare(base, sources, alpha, keep, scaling, masks), {}
    model, ranks = family.model, given or recipe.ranks
    batch = draw_batch(family.calibration_pool, recipe.sources, recipe.samples, recipe.seed)
    pixels = (batch.images / 255.0 - np.array(model.mean)) / np.array(model.std)
    blocks = range(model.blocks) if recipe.blocks is None else recipe.blocks
    if ranks == "random":
        drawn = (np.random.default_rng([recipe.seed, block]) for block in range(model.blocks))
        ranks = {block: rng.permutation(model.nodes) for block, rng in enumerate(drawn)}
    if ranks == "equal":  # as if all stood in the middle
        ranks = {b: np.full(model.nodes, (model.nodes - 1) / 2) for b in range(model.blocks)}
    return oracle.m_ties(
        base, sources, alpha, pixels.transpose(0, 3, 1, 2), model.heads, model.activation,
        keep, recipe.variation, blocks, scaling,
        inputs_from=recipe.inputs_from, squared=recipe.scores == "squared", ranks=ranks,
        draws=draws_of(recipe, base) if recipe.method == "m-dare" else None,
    )  # fmt: skip


def draws_of(recipe: MergeRecipe, base: oracle.State) -> list[dict[str, np.ndarray]]:
    """The numbers in [0, 1) that DARE's masks compare with keep rates, a state a source."""
    return [
        {
            # The seed, the tensor's name and the source's, with what no byte is between them.
            name: np.random.default_rng(
                [recipe.seed, *name.encode(), 256, *source.encode()]
            ).random(tensor.shape, dtype=np.float32)
            for name, tensor in base.items()
        }
        for source in recipe.sources
    ]


def finished(recipe: MergeRecipe, family: Family):
    """Our merged weights and node scores."""
    events = list(run(recipe, family, device="cpu"))
    assert isinstance(events[-1], Finished)
    scores = [event.scores for event in events if isinstance(event, BlockScored)]
    squared = recipe.scores == "squared"
    return events[-1].weights, {s.block: s.node_squared if squared else s.node for s in scores}


def assert_agrees(recipe: MergeRecipe, family: Family):
    ours, our_scores = finished(recipe, family)
    reference, their_scores = merged_by_oracle(recipe, family)
    assert_close(ours, reference, family)
    assert our_scores.keys() == their_scores.keys()
    for block, scores in our_scores.items():
        np.testing.assert_allclose(scores, their_scores[block], rtol=1e-4)


def assert_close(ours: dict[str, torch.Tensor], reference: oracle.State, family: Family):
    base = state(family.folder / "base.safetensors")
    assert ours.keys() == reference.keys()

    def norm(of):
        return np.sqrt(sum(float(np.sum(np.square(of(name)))) for name in reference))

    error = norm(lambda n: ours[n].double().numpy() - reference[n])
    assert error <= 1e-5 * norm(lambda n: reference[n])
    assert error <= 1e-4 * norm(lambda n: reference[n] - base[n])


@pytest.mark.parametrize("weights", [None, (0.5, 0.25, 0.25)])
@pytest.mark.parametrize("method", DATA_FREE)
def test_data_free_methods_agree(method, weights, drawn):
    assert_agrees(recipe_for(drawn, method, weights=weights, scaling=0.7), drawn)


@pytest.mark.parametrize("weights", [None, (0.5, 0.25, 0.25)])
@pytest.mark.parametrize("keep", [0.4, 1e-9])
def test_a_global_trim_agrees(keep, weights, drawn):
    changes = {"keep": keep, "variation": 0.0, "weights": weights, "scaling": 0.7}
    assert_agrees(recipe_for(drawn, "ties", scope="global", **changes), drawn)


@pytest.mark.parametrize("blocks", [None, (1,), (0, 2)])
@pytest.mark.parametrize("method", NODE_WISE)
def test_node_wise_methods_agree_whichever_blocks_are_chosen(method, blocks, drawn):
    assert_agrees(recipe_for(drawn, method, blocks=blocks), drawn)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("method", NODE_WISE)
def test_released_behaviour_and_controls_agree(method, options, drawn):
    assert_agrees(recipe_for(drawn, method, blocks=(0, 2), **options), drawn)


def test_m_dare_agrees_where_the_highest_node_keeps_nothing(drawn):
    assert_agrees(recipe_for(drawn, "m-dare", keep=0.3, variation=0.3, **UNTIED), drawn)


@pytest.mark.parametrize("options", [{}, {"scores": "squared"}, {"ranks": "random"}], ids=str)
def test_without_variation_m_dare_is_dare_bit_for_bit(options, drawn):
    ours, _ = finished(recipe_for(drawn, "m-dare", variation=0.0, **options), drawn)
    dare, _ = finished(recipe_for(drawn, "dare"), drawn)
    assert all(torch.equal(ours[name], dare[name]) for name in dare)


def test_elect_only_is_ties_that_keeps_all_bit_for_bit(drawn):
    ours, _ = finished(recipe_for(drawn, "elect"), drawn)
    for scope in ("tensor", "global"):
        ties, _ = finished(recipe_for(drawn, "ties", keep=1.0, scope=scope), drawn)
        assert all(torch.equal(ours[name], ties[name]) for name in ties)


@pytest.mark.parametrize(
    "weights, sources", [(None, 3), (None, 2), ((0.5, 0.25, 0.25), 3), ((0.5, 0.5, 0.0), 3)]
)
def test_emr_makes_the_models_of_the_oracle(weights, sources, drawn):
    assert_emr_agrees(
        recipe_for(drawn, "emr", sources=drawn.sources[:sources], weights=weights), drawn
    )


def assert_emr_agrees(recipe: MergeRecipe, family: Family):
    base = state(family.folder / "base.safetensors")
    sources = {s: state(family.folder / "sources" / f"{s}.safetensors") for s in recipe.sources}
    reference = oracle.emr(base, list(sources.values()), recipe.weights)
    files = {name: family.source(name) for name in recipe.sources}
    ours = emr.TaskModels(family.model, family.base().load(torch.device("cpu")), files)
    blocks = [event.block for event in ours.prepare(recipe)]
    assert blocks == list(range(family.model.blocks))
    for task, expected in zip(recipe.sources, reference, strict=True):
        assert_close(ours.weights(task), expected, family)


@pytest.mark.parametrize("options", OPTIONS[2:], ids=str)
@pytest.mark.parametrize("method", NODE_WISE)
def test_released_behaviour_and_controls_agree_on_the_demo_family(method, options, demo):
    recipe = recipe_for(demo, method, samples=16, keep=0.2, variation=0.1, **UNTIED, **options)
    assert_agrees(recipe, demo)


def test_global_trim_and_emr_agree_on_the_demo_family(demo):
    assert_agrees(recipe_for(demo, "ties", keep=0.2, variation=0.1, scope="global"), demo)
    assert_emr_agrees(recipe_for(demo, "emr"), demo)


def test_m_ties_agrees_with_unequal_weights_and_two_sources(drawn):
    changes = {"weights": (0.75, 0.25), "sources": ("clouds", "apples"), "scaling": 1.3}
    assert_agrees(recipe_for(drawn, "m-ties", **changes), drawn)


def test_m_ties_agrees_where_the_highest_node_keeps_a_single_entry(drawn):
    assert_agrees(recipe_for(drawn, "m-ties", keep=0.3, variation=0.3), drawn)


def test_m_ties_without_blocks_is_ties_bit_for_bit(drawn):
    ours, scores = finished(recipe_for(drawn, "m-ties", blocks=()), drawn)
    ties, _ = finished(recipe_for(drawn, "ties"), drawn)
    assert scores == {}
    assert all(torch.equal(ours[name], ties[name]) for name in ties)


def test_m_ties_without_variation_scores_and_trims_rows_at_one_rate(drawn):
    recipe = recipe_for(drawn, "m-ties", variation=0.0)
    assert_agrees(recipe, drawn)
    alike, scores = finished(dataclasses.replace(recipe, ranks="equal", samples=1), drawn)
    ours, _ = finished(recipe, drawn)
    assert scores == {}, "nothing is measured"
    assert all(torch.equal(ours[name], alike[name]) for name in ours)


def test_rows_trimmed_alike_keep_the_mean_rate_of_the_schedule(drawn):
    alike = recipe_for(drawn, "m-ties", ranks="equal")
    rates = node_rates(alike, 0, drawn.model.nodes)
    spread = node_rates(dataclasses.replace(alike, ranks="random"), 0, drawn.model.nodes)
    np.testing.assert_allclose(rates, spread.mean(), rtol=1e-12)
    assert len(set(rates)) == 1 and rates[0] == pytest.approx(0.4 - 0.3 / 2)
    ours, _ = finished(alike, drawn)
    flat, _ = finished(dataclasses.replace(alike, keep=rates[0], variation=0.0), drawn)
    for block in range(drawn.model.blocks):  # the other tensors are trimmed at k
        name = c_fc(block) + ".weight"
        assert torch.equal(ours[name], flat[name])


@pytest.mark.parametrize("method", [m for m in (*DATA_FREE, *NODE_WISE) if m != "m-dare"])
def test_the_demo_family_agrees(method, demo):
    assert_agrees(recipe_for(demo, method, samples=16, keep=0.2, variation=0.1), demo)


def test_m_dare_on_the_demo_family_agrees_given_its_ranks(demo):
    """Two nodes of nearly equal M-Loss may swap ranks by rounding, and a mask that then differs
    counts 1 / k times: so both merge by our ranks, and M-Loss is compared by itself."""
    recipe = recipe_for(demo, "m-dare", samples=16, keep=0.2, variation=0.1, **UNTIED)
    ours, scores = finished(recipe, demo)
    ranks = {b: np.argsort(np.argsort(x, kind="stable"), kind="stable") for b, x in scores.items()}
    assert_close(ours, merged_by_oracle(recipe, demo, ranks)[0], demo)
    measured = merged_by_oracle(recipe, demo)[1]
    np.testing.assert_allclose(scores[0], measured[0], rtol=1e-4)  # before any swap
    for block in scores:
        np.testing.assert_allclose(scores[block], measured[block], rtol=0.02)
