"""Devices: which is chosen, and that the GPU computes what the CPU does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mloss_core import BlockScored, Evaluator, MergeRecipe, TaskEvaluated, run
from mloss_core.errors import BadValue, UnknownName
from mloss_core.hardware import device


def test_auto_takes_the_best_there_is(monkeypatch):
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cuda: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=mps: there)
        assert device.choose("auto").type == expected
        assert device.choose("cpu").type == "cpu"


def test_absent_and_unknown_devices_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadValue, match=r"device cuda.*not on this machine"):
        device.choose("cuda")
    with pytest.raises(UnknownName, match=r"device tpu.*auto, cpu"):
        device.choose("tpu")


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["simple-average", "task-arithmetic", "ties", "dare", "m-ties"])
def test_cuda_merges_and_scores_as_the_cpu(method, family):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    recipe = MergeRecipe(family="tiny", method=method, sources=family.sources, samples=12)
    there, here = (list(run(recipe, family, device=name)) for name in ("cuda", "cpu"))
    assert (there[-1].device, here[-1].device) == ("cuda", "cpu")
    pairs = [(there[-1].weights[name], here[-1].weights[name]) for name in here[-1].weights]
    assert all(tensor.device.type == "cpu" for tensor, _ in pairs)
    error = sum(float((a - b).double().square().sum()) for a, b in pairs) ** 0.5
    assert error <= 1e-5 * sum(float(b.double().square().sum()) for _, b in pairs) ** 0.5
    for ours, reference in zip(there, here, strict=True):
        if isinstance(ours, BlockScored):
            np.testing.assert_allclose(ours.scores.node, reference.scores.node, rtol=1e-4)


@pytest.mark.gpu
def test_cuda_evaluates_as_the_cpu(family):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    recipe = MergeRecipe(family="tiny", method="m-ties", sources=family.sources, samples=12)
    evaluations = []
    for name in ("cuda", "cpu"):
        options = {"evaluator": Evaluator(family, torch.device(name)), "tasks": family.tasks}
        events = run(recipe, family, device=name, **options)
        evaluations.append([event for event in events if isinstance(event, TaskEvaluated)])
    assert len(evaluations[0]) == len(evaluations[1])
    differing = [np.sum(a.hits != b.hits) for a, b in zip(*evaluations, strict=True)]
    assert sum(differing) <= 2  # random heads: an image may lie on the border of two classes
