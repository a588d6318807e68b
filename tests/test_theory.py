"""The second order and the family's K and s: against the oracle, along real merges."""

from __future__ import annotations

import dataclasses
import math
import sys

import numpy as np
import pytest
import torch

import oracle
from mloss_core import (
    BlockScored,
    InputError,
    MergeRecipe,
    SecondOrder,
    node_mloss,
    run,
    second_order,
    theory,
    token_gap,
)
from mloss_core.analysis.second_order import agreement
from mloss_core.analysis.theory import estimate, explained
from mloss_core.families import family as zoo
from mloss_core.families.folders import ZOO
from tiny import TASKS

ALPHA = (0.5, 0.3, 0.2)


def drawn(apart: float, seed: int = 0):
    """A shared input and three sources' layers, so far apart."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(4, 5, 6, generator=generator)
    weight, bias = torch.randn(7, 6, generator=generator), torch.randn(7, generator=generator)
    layers = [
        (weight + apart * torch.randn(7, 6, generator=generator),
         bias + apart * torch.randn(7, generator=generator))
        for _ in ALPHA
    ]  # fmt: skip
    h = torch.stack([inputs.flatten(0, 1).double() @ w.double().T + b.double() for w, b in layers])
    return inputs, layers, h.numpy()


@pytest.mark.parametrize("act", ["gelu", "quick_gelu", "silu"])
@pytest.mark.parametrize("alpha", [ALPHA, (1 / 3, 1 / 3, 1 / 3)])
def test_both_factors_and_their_product_match_the_oracle(act, alpha):
    inputs, layers, h = drawn(0.3)
    factors = second_order(inputs, layers, act, alpha)
    curvature, variance, product = oracle.second_order(h, act, alpha)
    np.testing.assert_allclose(factors.curvature, curvature, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(factors.variance, variance, rtol=1e-4)
    np.testing.assert_allclose(factors.product, product, rtol=1e-4, atol=1e-7)
    mean = np.tensordot(alpha, h, 1)
    np.testing.assert_allclose(factors.centre, mean.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(factors.square, (mean**2).mean(0), rtol=1e-4)


def test_pieces_of_any_size_give_the_same(monkeypatch):
    inputs, layers, _ = drawn(0.3)
    whole = second_order(inputs, layers, "gelu", ALPHA)
    monkeypatch.setattr(sys.modules["mloss_core.analysis.second_order"], "CHUNK", 21)
    parts = second_order(inputs, layers, "gelu", ALPHA)
    for field in dataclasses.fields(whole):
        np.testing.assert_allclose(
            getattr(parts, field.name), getattr(whole, field.name), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("act", ["gelu", "quick_gelu", "silu"])
def test_the_prediction_becomes_exact_as_sources_get_close(act):
    errors = []
    for apart in (0.2, 0.02, 0.002):
        inputs, layers, h = drawn(apart)
        predicted = second_order(inputs, layers, act, ALPHA).product
        measured = node_mloss(token_gap(torch.from_numpy(h), act, ALPHA))[0].numpy()
        errors.append(float(np.abs(predicted / measured - 1).max()))
    assert errors[1] < errors[0] / 3 and errors[2] < errors[1] / 3 and errors[2] < 0.02


def test_equal_sources_have_no_variance():
    inputs, layers, _ = drawn(0.0)
    factors = second_order(inputs, layers, "gelu", ALPHA)
    assert factors.variance.max() < 1e-10 and factors.product.max() < 1e-10
    assert factors.curvature.min() > 0


def test_relu_has_no_second_order():
    inputs, layers, _ = drawn(0.1)
    with pytest.raises(InputError, match="smooth activation relu: is not known"):
        second_order(inputs, layers, "relu", ALPHA)


@pytest.mark.parametrize("alpha", [ALPHA, (0.25, 0.25, 0.25, 0.25)])
def test_k_and_s_are_found_again_where_the_model_holds(alpha):
    rng = np.random.default_rng(0)
    x = rng.uniform(-6, 6, (20_000, 7))
    h = x + 0.4 * rng.standard_normal((len(alpha), *x.shape))
    mean = np.tensordot(alpha, h, 1)
    variance = np.tensordot(alpha, (h - mean) ** 2, 1)
    zero = np.zeros(7)
    fitted = estimate(
        SecondOrder(
            curvature=zero, variance=variance.mean(0), product=zero,
            centre=mean.mean(0), square=(mean**2).mean(0),
        ),
        "gelu", alpha,
    )  # fmt: skip
    assert (fitted.k, fitted.s) == (pytest.approx(6, rel=0.01), pytest.approx(0.4, rel=0.01))
    assert fitted.weights == alpha and fitted.q == len(alpha)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tokens": 2},
        {"inputs_from": "pretrained"},
        {"weights": (0.5, 0.25, 0.25)},
        {"scaling": 0.3},
    ],
)
def test_theory_sees_the_very_inputs_that_mloss_is_measured_on(family, changes):
    recipe = MergeRecipe(family="tiny", method="m-ties", sources=TASKS, samples=6, **changes)
    rows = list(theory(recipe, family, device="cpu"))
    scored = [e.scores for e in run(recipe, family, device="cpu") if isinstance(e, BlockScored)]
    for row, scores in zip(rows, scored, strict=True):
        np.testing.assert_array_equal(row.scores.node, scores.node)
        fit = agreement(row.factors.product, scores.node)
        assert fit.r2 > 0.9 and 0.8 < fit.share < 1.2, "another input would tell nothing"
        assert row.predicted > 0


def test_theory_of_the_demo_family_on_record():
    """What docs/theory.md says of it."""
    if not (ZOO / "demo" / "family.json").is_file():
        pytest.skip("assets/zoo/demo is not there")
    family = zoo.load("demo")
    best = family.recommended("m-ties")
    recipe = MergeRecipe(family="demo", method="m-ties", sources=family.sources, **best)
    rows = list(theory(dataclasses.replace(recipe, samples=32), family, device="cpu"))
    for row in rows:
        assert 0.6 < row.predicted / row.scores.node.mean() < 0.95
        assert agreement(row.factors.product, row.scores.node).r2 > 0.99
    assert explained(rows).share == pytest.approx(1.003, abs=0.002)


def test_theory_refuses_what_measures_nothing(family):
    recipe = MergeRecipe(family="tiny", method="ties", sources=TASKS)
    with pytest.raises(InputError, match="measures no M-Loss"):
        next(theory(recipe, family, device="cpu"))
    some = MergeRecipe(family="tiny", method="m-ties", sources=TASKS, blocks=(1,), samples=4)
    with pytest.raises(InputError, match="or not of all blocks"):
        next(theory(some, family, device="cpu"))


@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)])
def test_theory_of_one_source_alone_is_refused(family, weights):
    recipe = MergeRecipe(family="tiny", method="m-ties", sources=TASKS, weights=weights, samples=4)
    with pytest.raises(InputError, match="--weights"):
        next(theory(recipe, family, device="cpu"))


def test_agreement_of_a_line_and_of_nothing():
    p = np.array([1.0, 2.0, 4.0])
    line = agreement(p, 2 * p + 1)
    assert (line.r2, line.slope) == (pytest.approx(1), pytest.approx(2))
    assert line.share == pytest.approx(7 / 17)
    none = agreement(np.zeros(3), np.zeros(3))
    assert all(math.isnan(value) for value in (none.r2, none.slope, none.share))
