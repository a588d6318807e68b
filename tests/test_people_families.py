"""Families and settings as people really write them: orders of sources, text files, caches."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from safetensors.torch import load_file

from mloss_core import METHODS, Family, Finished, MergeRecipe, __version__, run
from mloss_core.recipe import provenance
from mloss_core.runs.cells import Cell, Lab
from tiny import TASKS

CPU = torch.device("cpu")


def merged(family: Family, method: str, sources: tuple[str, ...], **settings) -> dict:
    """The merged weights of a recipe, in any order of sources."""
    settings = {"keep": 0.4, "samples": 6} | settings
    recipe = MergeRecipe(family=family.name, method=method, sources=sources, **settings)
    *_, last = run(recipe, family, device="cpu")
    assert isinstance(last, Finished) and last.weights is not None
    return last.weights


def gap(first: dict, second: dict) -> float:
    """The largest difference of two merges, relative to the largest number in them."""
    apart = max(float((first[name] - second[name]).abs().max()) for name in first)
    return apart / max(float(tensor.abs().max()) for tensor in first.values())


@pytest.mark.parametrize(
    "method, settings",
    [
        ("dare", {}),
        ("dare", {"after": "svc"}),
        ("dare", {"norms": "equal"}),
        ("m-dare", {"variation": 0.2, "ranks": "equal"}),
        ("m-dare", {"variation": 0.2, "ranks": "random"}),
        ("m-dare", {"variation": 0.2, "ranks": "m-loss"}),
    ],
)
def test_the_order_of_sources_does_not_matter_to_random_masks(family, method, settings):
    first, *others = itertools.permutations(TASKS)
    merge = merged(family, method, first, **settings)
    for order in others:
        # SVC divides by singular values, which raises what rounding leaves.
        limit = 1e-5 if "after" in settings else 1e-6
        assert gap(merge, merged(family, method, order, **settings)) < limit


def test_weights_go_with_their_sources_in_any_order(family):
    shares = dict(zip(TASKS, (0.5, 0.3, 0.2), strict=True))
    merges = [
        merged(family, "dare", order, weights=tuple(map(shares.get, order)))
        for order in (TASKS, TASKS[::-1])
    ]
    assert gap(*merges) < 1e-6
    assert gap(merges[0], merged(family, "dare", TASKS, weights=(0.2, 0.3, 0.5))) > 1e-3


def test_a_source_keeps_its_mask_whoever_is_beside_it(family):
    alone = {
        pair: merged(family, "dare", pair, weights=(1.0, 0.0))
        for pair in (TASKS[:2], (TASKS[0], TASKS[2]))
    }
    assert gap(*alone.values()) == 0


def test_what_was_measured_with_other_masks_is_measured_anew(family, monkeypatch):
    recipe = MergeRecipe(family=family.name, method="dare", sources=TASKS)
    cell, lab = Cell(label="", recipe=recipe, tasks=TASKS), Lab(family, CPU)
    assert provenance(recipe, family, None)["version"] == f"{__version__}+1"
    now = lab.id(cell)
    former = dataclasses.replace(METHODS["dare"], revision=0)
    monkeypatch.setitem(METHODS, "dare", former)
    assert lab.id(cell) != now and provenance(recipe, family, None)["version"] == __version__


@pytest.mark.parametrize(
    "weights, said",
    [
        ("0.3333,0.3333,0.3333", "sum to 0.9999, not 1"),
        ("0.333,0.333,0.333", "sum to 0.999, not 1"),
        ("0.5003,0.2502,0.2503", "sum to 1.0008, not 1"),
        ("0.33333333,0.33333333,0.33333333", ""),
        ("0.2,0.3,0.5", ""),
    ],
)
def test_weights_of_few_digits_are_scaled_and_that_is_said(cli, family, out, weights, said):
    chosen = ("--family", "tiny", "--method", "ties", "--weights", weights, "--device", "cpu")
    outcome = cli("merge", *chosen, "--out", out, "--json")
    assert outcome.status == 0
    used = outcome.events[-1]["recipe"]["weights"]
    given = [float(part) for part in weights.split(",")]
    assert used == ([part / sum(given) for part in given] if said else given)
    words = f"warning: --weights {weights}: {said}; they were divided by it\n" if said else ""
    assert outcome.err == words


@pytest.mark.parametrize("weights", ["0.33,0.33,0.33", "0.5,0.6,0", "0,0,0", "1,1,1"])
def test_weights_that_mean_something_else_are_refused_as_a_sum(cli, family, out, refused, weights):
    chosen = ("--family", "tiny", "--method", "ties", "--weights", weights, "--device", "cpu")
    refused(cli("merge", *chosen, "--out", out), f"--weights {weights}: sums to", "sum to 1")


def test_scaled_weights_merge_as_equal_ones(cli, family, out, tmp_path):
    chosen = ("--family", "tiny", "--method", "dare", "--device", "cpu")
    merges = []
    for path, weights in ((out, "0.3333,0.3333,0.3333"), (tmp_path / "n", "0.25,0.25,0.5")):
        assert cli("merge", *chosen, "--weights", weights, "--out", path).status == 0
        merges.append(path)
    equal = merged(family, "dare", TASKS, keep=0.2)
    written = load_file(merges[0])
    assert all(torch.allclose(written[name], equal[name], atol=1e-6) for name in equal)
    assert gap(equal, load_file(merges[1])) > 1e-3
