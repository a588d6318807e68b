"""What tells before a merge: norms and confidences against plain loops, and the warnings."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import oracle
from mloss_core import load
from mloss_core.analysis.before import Before, Confidence, before, confidences, warnings_of
from mloss_core.analysis.task_vectors import Geometry, geometry
from mloss_core.data.calibration import draw_batch
from mloss_core.errors import UnknownName
from mloss_core.fields import FIELDS


def state(checkpoint):
    return {n: t.numpy() for n, t in checkpoint.load(torch.device("cpu")).items()}


def about(folder, **changes):
    """Changes family.json."""
    file = folder / "family.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def measured(norms, means):
    """A Before of these norms and mean confidences."""
    q, norms = len(norms), np.array(norms, dtype=float)
    shape = Geometry(
        norms=norms, relative_norms=norms, block_norms=np.zeros((1, q)), cosines=np.eye(q)
    )
    images = [None if mean is None else np.full(4, mean) for mean in means]
    names = tuple(f"s{i}" for i in range(q))
    sure = tuple(Confidence(source=n, per_image=p) for n, p in zip(names, images, strict=True))
    return Before(sources=names, geometry=shape, confidences=sure)


def test_norms_are_those_of_plain_loops(family):
    base = state(family.base())
    got = geometry(family, family.sources)
    for i, source in enumerate(family.sources):
        tuned = state(family.source(source))
        squares = {n: float((oracle.task_vector(base[n], tuned[n]) ** 2).sum()) for n in base}
        assert got.norms[i] == pytest.approx(math.sqrt(sum(squares.values())), rel=1e-6)
        for block in range(family.model.blocks):
            own = sum(s for n, s in squares.items() if n.startswith(f"{oracle.BLOCKS}{block}."))
            assert got.block_norms[block, i] == pytest.approx(math.sqrt(own), rel=1e-6)
    size = math.sqrt(sum(float((b.astype(float) ** 2).sum()) for b in base.values()))
    np.testing.assert_allclose(got.relative_norms, got.norms / size, rtol=1e-6)


def test_confidences_are_those_of_plain_loops(own_family):
    about(own_family, logit_scale=12.5)
    family, model = load("tiny"), load("tiny").model
    batch = draw_batch(family.calibration_pool, family.sources, 7, 3)
    heads = family.heads(torch.device("cpu"))
    got = before(family, family.sources, samples=7, seed=3, device="cpu").confidences
    assert [c.source for c in got] == list(family.sources)
    mean, std = (np.reshape(v, (3, 1, 1)) for v in (model.mean, model.std))
    for confidence in got:
        images = batch.images[[task == confidence.source for task in batch.tasks]]
        pixels = (images.transpose(0, 3, 1, 2) / 255 - mean) / std
        weights = state(family.source(confidence.source))
        features = oracle.features(weights, pixels, model.heads, model.activation)
        expected = []
        for image in features:
            odds = [
                math.exp(12.5 * (image @ row) / (np.linalg.norm(image) * np.linalg.norm(row)))
                for row in heads[confidence.source].numpy().astype(float)
            ]
            expected.append(max(odds) / sum(odds))
        np.testing.assert_allclose(confidence.per_image, expected, rtol=1e-4)
        assert confidence.mean == pytest.approx(np.mean(expected), rel=1e-4)
        assert confidence.why == ""


def test_more_samples_than_the_pool_take_all_of_it(family):
    got = list(confidences(family, family.sources[:2], samples=10_000, device="cpu"))
    assert [len(c.per_image) for c in got] == [8, 8]


# --- what is unknown stays unknown --------------------------------------------------------------


def unknown(sources=("apples", "bridges", "clouds")):
    """Why confidences are unknown."""
    got = before(load("tiny"), sources, device="cpu")
    assert all(c.mean is None and c.per_image is None for c in got.confidences)
    assert np.isfinite(got.geometry.norms).all()
    assert warnings_of(got) == []
    (why,) = {c.why for c in got.confidences}
    return why


def test_without_heads(own_family):
    (own_family / "heads.safetensors").unlink()
    assert "heads of tiny" in unknown() and "does not exist" in unknown()


def test_without_a_pool(own_family):
    (own_family / "calibration.npz").unlink()
    assert "calibration pool" in unknown() and "does not exist" in unknown()


def test_with_a_stale_pool(own_family):
    with np.load(own_family / "calibration.npz") as pool:
        images, tasks = pool["images"], pool["tasks"]
    np.savez(own_family / "calibration.npz", images=images[:16], tasks=tasks[:16])
    assert "stale" in unknown()
    np.savez(own_family / "calibration.npz", images=images, tasks=np.repeat("dogs", 24))
    assert "stale" in unknown()


def test_with_a_damaged_pool(own_family):
    (own_family / "calibration.npz").write_bytes(b"no pool")
    assert "calibration" in unknown()


def test_with_images_that_say_no_task(own_family):
    with np.load(own_family / "calibration.npz") as pool:
        image = pool["images"][0]
    (own_family / "pictures").mkdir()
    Image.fromarray(image).save(own_family / "pictures" / "one.png")
    about(own_family, calibration="pictures")
    assert "which task" in unknown()


def test_a_source_without_a_task_of_its_own_is_unknown_alone(own_family):
    tasks = json.loads((own_family / "family.json").read_text())["tasks"]
    about(own_family, tasks=tasks[:2])
    got = list(confidences(load("tiny"), ("apples", "bridges", "clouds"), device="cpu"))
    assert [c.mean is None for c in got] == [False, False, True]
    assert "clouds" in got[2].why and got[0].why == ""


def test_wrong_sources_are_refused(family):
    with pytest.raises(UnknownName, match="dogs"):
        before(family, ("apples", "dogs"))


# --- warnings -----------------------------------------------------------------------------------


def test_alike_sources_give_no_warning(family):
    got = before(family, family.sources, samples=6, device="cpu")
    assert got.geometry.norms.max() < 1.1 * got.geometry.norms.min()
    assert not [w for w in warnings_of(got) if "task vector" in w]
    assert warnings_of(measured([1.0, 2.0, 1.5], [0.4, 0.8, None])) == []  # twice is no more than


def test_norms_apart(own_family):
    """One source's task vector made five times as long."""
    path = own_family / "sources/bridges.safetensors"
    base, tuned = load_file(own_family / "base.safetensors"), load_file(path)
    longer = {n: (base[n].float() + 5 * (t.float() - base[n].float())) for n, t in tuned.items()}
    path.unlink()
    save_file({n: t.to(tuned[n].dtype) for n, t in longer.items()}, path)
    got = before(load("tiny"), ("apples", "bridges", "clouds"), samples=6, device="cpu")
    (warning,) = [w for w in warnings_of(got) if "task vector" in w]
    low = ("apples", "clouds")[int(got.geometry.norms[0] > got.geometry.norms[2])]
    assert f"bridges is 5.0 times as long as that of {low}" in warning
    assert "Make norms equal" in warning and FIELDS["norms"].label in warning


def test_confidences_apart():
    (warning,) = warnings_of(measured([1, 1, 1], [0.3, 0.9, None]), ["Ants", "Bees", "Crows"])
    assert "Bees is 3.0 times as sure of its own images as Ants" in warning
    assert "90.0%" in warning and "30.0%" in warning and "Crows" not in warning


def test_one_confidence_is_compared_with_none():
    assert warnings_of(measured([1, 1], [0.01, None])) == []


def test_a_source_that_equals_the_base(own_family):
    shutil.copy(own_family / "base.safetensors", own_family / "sources/clouds.safetensors")
    got = before(load("tiny"), ("apples", "bridges", "clouds"), samples=6, device="cpu")
    assert got.geometry.norms[2] == 0 and (got.geometry.block_norms[:, 2] == 0).all()
    assert np.isfinite(got.geometry.cosines).all()
    (warning,) = [w for w in warnings_of(got) if "task vector" in w]
    assert warning.startswith("clouds equals the base") and "times" not in warning
