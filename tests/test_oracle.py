"""Every method, whole models: the library against the naive oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import oracle
from mloss_core import BlockScored, Family, Finished, MergeRecipe, run, trim, zoo
from mloss_core.recipe import calibration_of
from tiny import write_family

DATA_FREE = ("simple-average", "task-arithmetic", "ties", "dare")


@pytest.fixture(scope="module", params=[(0, torch.float16), (1, torch.float16), (2, torch.float32)])
def drawn(request, tmp_path_factory) -> Family:
    """Tiny families of several seeds and dtypes."""
    seed, dtype = request.param
    folder = write_family(tmp_path_factory.mktemp("models") / "tiny", seed, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOSS_MODELS", str(folder.parent))
        return zoo.load("tiny")


@pytest.fixture(scope="module")
def demo() -> Family:
    """The embedded family."""
    if not (zoo.ZOO / "demo" / "family.json").is_file():
        pytest.skip("assets/zoo/demo is not there")
    return zoo.load("demo")


def state(path: Path) -> oracle.State:
    """A file's tensors as float32."""
    return {name: tensor.float().numpy() for name, tensor in load_file(path).items()}


def recipe_for(family: Family, method: str, **changes) -> MergeRecipe:
    fields = {"sources": family.sources[:3], "keep": 0.4, "variation": 0.3, "samples": 7}
    return MergeRecipe(family=family.name, method=method, **fields | changes)


def merged_by_oracle(recipe: MergeRecipe, family: Family):
    """The oracle's merged weights, and its node scores where the method has some."""
    base = state(family.folder / "base.safetensors")
    sources = [state(family.folder / "sources" / f"{s}.safetensors") for s in recipe.sources]
    alpha, keep, scaling = recipe.weights, recipe.keep, recipe.scaling
    q = len(sources)
    match recipe.method:
        case "simple-average":
            return oracle.simple_average(base, sources, alpha), {}
        case "task-arithmetic":
            return oracle.task_arithmetic(base, sources, alpha, scaling), {}
        case "ties":
            return oracle.ties(base, sources, alpha, keep, scaling), {}
        case "dare":
            drawn = {
                n: trim.random_masks(t.shape, q, keep, recipe.seed, n) for n, t in base.items()
            }
            masks = [{n: m[i].numpy() for n, m in drawn.items()} for i in range(q)]
            return oracle.dare(base, sources, alpha, keep, scaling, masks), {}
    batch, model = calibration_of(recipe, family), family.model
    pixels = (batch.images / 255.0 - np.array(model.mean)) / np.array(model.std)
    blocks = range(model.blocks) if recipe.blocks is None else recipe.blocks
    return oracle.m_ties(
        base, sources, alpha, pixels.transpose(0, 3, 1, 2), model.heads, model.activation,
        keep, recipe.variation, blocks, scaling,
    )  # fmt: skip


def finished(recipe: MergeRecipe, family: Family):
    """Our merged weights and node scores."""
    events = list(run(recipe, family, device="cpu"))
    assert isinstance(events[-1], Finished)
    scores = [event.scores for event in events if isinstance(event, BlockScored)]
    return events[-1].weights, {s.block: s.node for s in scores}


def assert_agrees(recipe: MergeRecipe, family: Family):
    ours, our_scores = finished(recipe, family)
    theirs, their_scores = merged_by_oracle(recipe, family)
    base = state(family.folder / "base.safetensors")
    assert ours.keys() == theirs.keys()

    def norm(of):
        return np.sqrt(sum(float(np.sum(np.square(of(name)))) for name in theirs))

    error = norm(lambda n: ours[n].double().numpy() - theirs[n])
    assert error <= 1e-5 * norm(lambda n: theirs[n])
    assert error <= 1e-4 * norm(lambda n: theirs[n] - base[n])
    assert our_scores.keys() == their_scores.keys()
    for block, scores in our_scores.items():
        np.testing.assert_allclose(scores, their_scores[block], rtol=1e-4)


@pytest.mark.parametrize("weights", [None, (0.5, 0.25, 0.25)])
@pytest.mark.parametrize("method", DATA_FREE)
def test_data_free_methods_agree(method, weights, drawn):
    assert_agrees(recipe_for(drawn, method, weights=weights, scaling=0.7), drawn)


@pytest.mark.parametrize("blocks", [None, (1,), (0, 2)])
def test_m_ties_agrees_whichever_blocks_are_node_wise(blocks, drawn):
    assert_agrees(recipe_for(drawn, "m-ties", blocks=blocks), drawn)


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
    assert_agrees(recipe_for(drawn, "m-ties", variation=0.0), drawn)


@pytest.mark.parametrize("method", [*DATA_FREE, "m-ties"])
def test_the_demo_family_agrees(method, demo):
    assert_agrees(recipe_for(demo, method, samples=16, keep=0.2, variation=0.1), demo)
