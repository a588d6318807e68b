"""Every method from the command line, and what is said where one cannot do its work."""

from __future__ import annotations

import contextlib
import dataclasses
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mloss_core import METHODS, BlockMerged, MergeRecipe, run
from mloss_core.data.calibration import batch_of
from mloss_core.errors import BadFile, BadValue
from mloss_core.families import family as zoo
from mloss_core.methods import fit, trained
from mloss_core.recipe import images_of, published
from mloss_core.run import Merge, steps
from mloss_core.types import Finished, Planned, Trained

pytestmark = pytest.mark.usefixtures("family")
TINY = ("--family", "tiny", "--device", "cpu")
ONE_MODEL = [name for name, method in METHODS.items() if method.one_model]
SEVERAL = [name for name, method in METHODS.items() if not method.one_model]
OWN = [name for name, method in METHODS.items() if method.own_images]


def quick(method: str) -> list[str]:
    """Options with which a method takes no time."""
    options = ["--samples", "9"]
    return [*options, "--steps", "2"] if "steps" in METHODS[method].reads else options


@pytest.fixture
def damaged(own_family):
    """A family whose pool the test may change."""
    return zoo.load("tiny")


def merged(family, method: str, **changes):
    """All events of a merge of the tiny family."""
    settings = {"samples": 9, "variation": 0.0, **changes}
    recipe = MergeRecipe(family="tiny", method=method, sources=family.sources, **settings)
    return list(run(recipe, family, stages=(Merge(),), device="cpu"))


@pytest.mark.parametrize("method", ONE_MODEL)
def test_every_method_writes_one_model_the_same_twice_and_tells_its_steps(method, cli, tmp_path):
    files = []
    for name in ("first", "second"):
        files.append(tmp_path / f"{name}.safetensors")
        outcome = cli("merge", *TINY, "--method", method, *quick(method), "--json",
                      "--out", files[-1])  # fmt: skip
        assert (outcome.status, outcome.err) == (0, "")
        planned, *others = outcome.events
        assert planned == {"event": "Planned", "steps": len(others)}
        assert others[-1]["recipe"]["method"] == method
    assert files[0].read_bytes() == files[1].read_bytes()
    tensors = load_file(files[0])
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert len(tensors) == 44


@pytest.mark.parametrize("method", SEVERAL)
def test_what_leaves_several_models_is_evaluated_and_not_written(method, cli, tmp_path):
    out = tmp_path / "m.safetensors"
    outcome = cli("merge", *TINY, "--method", method, "--out", out)
    assert outcome.status == 2 and f"mloss evaluate --method {method}" in outcome.err
    measured = cli("evaluate", *TINY, "--method", method, "--sources", "apples,clouds",
                   "--tasks", "apples,clouds", "--json")  # fmt: skip
    assert measured.status == 0
    *tasks, average = measured.events
    assert [event["task"] for event in tasks] == ["apples", "clouds"]
    assert average["mean"] == pytest.approx(np.mean([e["correct"] / e["total"] for e in tasks]))


def test_a_task_without_a_model_is_named(cli):
    outcome = cli("evaluate", *TINY, "--method", "emr", "--sources", "apples,clouds")
    assert outcome.status == 0 and "no model for bridges" in outcome.err
    alone = cli("evaluate", *TINY, "--method", "emr", "--sources", "apples,clouds",
                "--tasks", "bridges")  # fmt: skip
    assert alone.status == 2 and "have no model" in alone.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--model neither: is not one of --model and --method"),
        (("--model", "base", "--method", "emr"), "is not one of --model and --method"),
        (("--method", "ties"), "--method ties: is not known; choose from emr, smile, ensembling"),
    ],
)
def test_evaluate_wants_a_model_or_a_method(options, said, cli):
    outcome = cli("evaluate", *TINY, *options)
    assert outcome.status == 2 and said in outcome.err


@pytest.mark.parametrize("method", ["smile"])
def test_weights_that_a_method_does_not_read_are_refused(method, family):
    recipe = MergeRecipe(
        family="tiny", method=method, sources=family.sources, weights=(0.5, 0.25, 0.25)
    )
    with pytest.raises(BadValue, match="nothing that SMILE reads"):
        list(run(recipe, family, stages=(Merge(),), device="cpu"))


@pytest.mark.parametrize("method", [*OWN, "m-ties"])
def test_a_pool_without_images_of_a_source_is_named(method, damaged):
    with np.load(damaged.calibration_pool) as pool:
        kept = pool["tasks"] != "bridges"
        arrays = {"images": pool["images"][kept], "tasks": pool["tasks"][kept]}
    np.savez(damaged.calibration_pool, **arrays)
    with pytest.raises(BadFile, match="stale: it holds no image of bridges, only of apples, cl"):
        merged(damaged, method)


def test_a_missing_pool_names_the_command_that_makes_it(damaged):
    damaged.calibration_pool.unlink()
    with pytest.raises(BadFile, match="mloss pool tiny"):
        merged(damaged, "fit")


def test_images_without_a_task_cannot_be_dealt_to_sources(family, cli, tmp_path):
    with np.load(family.calibration_pool) as pool:
        images, tasks = pool["images"], pool["tasks"]
    np.savez(tmp_path / "bare.npz", images=images)
    np.savez(tmp_path / "owned.npz", images=images, tasks=tasks)
    np.savez(tmp_path / "short.npz", images=images, tasks=tasks[:3])
    options = (*TINY, "--method", "fit", "--out", tmp_path / "m.safetensors", "--calibration")
    bare = cli("merge", *options, tmp_path / "bare.npz")
    assert bare.status == 2 and "do not say which task they belong to, as Fit needs" in bare.err
    assert "give one task name an image" in cli("merge", *options, tmp_path / "short.npz").err
    assert cli("merge", *options, tmp_path / "owned.npz").status == 0


def test_controls_deal_other_images(family):
    batch = batch_of(np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8),
                     np.repeat(family.sources, 3))  # fmt: skip
    recipe = MergeRecipe(family="tiny", method="fit", sources=family.sources)
    own = images_of(recipe, family, batch)
    others = images_of(dataclasses.replace(recipe, images="others"), family, batch)
    noise = images_of(dataclasses.replace(recipe, images="noise"), family, batch)
    np.testing.assert_array_equal(others["apples"], own["bridges"])
    np.testing.assert_array_equal(others["clouds"], own["apples"])
    assert noise["apples"].shape == own["apples"].shape
    assert len({images["apples"].tobytes() for images in (own, others, noise)}) == 3


def test_published_settings_go_as_far_as_the_pool(family):
    assert published("fit", family, family.sources)["samples"] == 24
    assert published("pcb", family, family.sources)["keep"] == 0.05
    assert published("ties", family, family.sources) == {}


def test_published_settings_are_used_unless_others_are_given(cli, tmp_path):
    def recipe(name: str, *options: str) -> dict:
        file = tmp_path / f"{name}.safetensors"
        done = cli("merge", *TINY, "--method", "pcb", *options, "--json", "--out", file)
        return done.events[-1]["recipe"]

    assert recipe("usual")["keep"] == 0.05 and recipe("other", "--keep", "0.4")["keep"] == 0.4


def test_one_image_a_task_is_enough_for_a_fit(family):
    """Fewer tokens than a layer has inputs: the ridge decides the rest."""
    fits = [merged(family, "fit", samples=3, ridge=ridge)[-1] for ridge in (1e-3, 10.0)]
    assert all(torch.isfinite(t).all() for fit in fits for t in fit.weights.values())
    first, second = (fit.weights for fit in fits)
    assert any(not torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("steps, status", [("1", 2), ("3", 0)])
def test_coefficients_that_are_no_numbers_end_training_and_that_is_said(
    steps, status, cli, tmp_path, monkeypatch
):
    """In the first step nothing is left to keep; later, the last good ones are."""
    step, late = trained._Trainer._step, steps == "3"

    def breaks(self, gradient, number):
        step(self, gradient, number)
        if number == (2 if late else 1):
            self.coefficients = self.coefficients * float("inf")

    monkeypatch.setattr(trained._Trainer, "_step", breaks)
    out = tmp_path / "merged.safetensors"
    options = ["--method", "adamerging", "--samples", "9", "--steps", steps, "--out", out]
    outcome = cli("merge", *TINY, *options)
    assert outcome.status == status and out.exists() == late
    words = "leads to coefficients that are no numbers at step"
    assert f"{words} {2 if late else 1}" in outcome.err and "Traceback" not in outcome.err
    if late:
        assert "warning: training ended early: the rate leads" in outcome.err
        monkeypatch.setattr(trained._Trainer, "_step", step)
        good = tmp_path / "good.safetensors"
        assert cli("merge", *TINY, *options[:5], "1", "--out", good).status == 0
        ours, theirs = load_file(out), load_file(good)
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("method, options", [
    ("ties", ("--scaling", "1e308")), ("wudi", ("--steps", "2", "--rate", "1e300")),
])  # fmt: skip
def test_a_merge_that_leaves_no_numbers_is_refused(method, options, cli, tmp_path):
    out = tmp_path / "merged.safetensors"
    outcome = cli("merge", *TINY, "--method", method, *options, "--out", out)
    assert outcome.status == 2 and not out.exists()
    assert outcome.err.count("\n") == 1, outcome.err
    assert "that are no finite numbers; take a smaller scaling or rate" in outcome.err


@pytest.mark.parametrize("samples", ["1000", "1000000000", "9" * 30])
def test_more_images_than_there_are_is_said(samples, cli, tmp_path):
    outcome = cli("merge", *TINY, "--samples", samples, "--out", tmp_path / "merged.safetensors")
    assert outcome.status == 2
    assert f"error: --samples {samples}: is more than the" in outcome.err


@pytest.mark.parametrize("ridge", ["0.001", "1e12"])
def test_a_fit_of_any_ridge_is_finite(ridge, cli, tmp_path):
    out = tmp_path / "merged.safetensors"
    outcome = cli(
        "merge", *TINY, "--method", "fit", "--ridge", ridge, "--samples", "3", "--out", out
    )
    assert (outcome.status, outcome.err) == (0, "")
    assert all(tensor.isfinite().all() for tensor in load_file(out).values())


@pytest.mark.parametrize("ridge", ["0", "0.0009", "1e13", "inf", "nan"])
def test_a_ridge_out_of_range_is_refused(ridge, cli, tmp_path):
    outcome = cli("merge", *TINY, "--method", "fit", "--ridge", ridge, "--out", tmp_path / "m")
    assert outcome.status == 2 and "from 0.001 to 1e12" in outcome.err


def test_a_layer_that_nothing_enters_but_its_bias_is_fitted():
    gram, start = torch.zeros(4, 4, dtype=torch.float64), torch.ones(2, 4)
    gram[3, 3] = 1.0
    cross = torch.tensor([[0, 0, 0, 3.0], [0, 0, 0, 5.0]], dtype=torch.float64)
    nothing = [lambda rows: torch.zeros(2, 4)[rows]]
    fitted = fit.solve(gram, cross, start, nothing, ridge=10.0)
    assert torch.allclose(fitted[:, 3], torch.tensor([3.0, 5.0], dtype=torch.float64))
    assert torch.equal(fitted[:, :3], start[:, :3].double())


def test_training_is_resumed_to_the_same_bytes(family, tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "SAVED", 2)
    recipe = MergeRecipe(
        family="tiny", method="samerging", sources=family.sources, samples=9, steps=7
    )
    options = {"stages": (Merge(),), "device": "cpu"}
    *_, whole = run(recipe, family, **options)
    with contextlib.closing(run(recipe, family, keep=tmp_path, **options)) as events:
        for event in events:
            if isinstance(event, Trained) and event.step == 5:
                break
    assert len(list(tmp_path.iterdir())) == 1
    again = list(run(recipe, family, keep=tmp_path, **options))
    assert [e.step for e in again if isinstance(e, Trained)] == list(range(1, 8))
    assert isinstance(again[-1], Finished) and not list(tmp_path.iterdir())
    assert all(torch.equal(whole.weights[n], t) for n, t in again[-1].weights.items())


def test_a_damaged_state_counts_as_none(family, tmp_path):
    recipe = MergeRecipe(
        family="tiny", method="adamerging", sources=family.sources, samples=9, steps=3
    )
    options = {"stages": (Merge(),), "device": "cpu", "keep": tmp_path}
    with contextlib.closing(run(recipe, family, **options)) as events:
        for event in events:
            if isinstance(event, Trained) and event.step == 3:
                break
    (state,) = tmp_path.iterdir()
    state.write_bytes(b"PK\x03\x04 half a file")
    done = list(run(recipe, family, **options))
    assert [e.step for e in done if isinstance(e, Trained)] == [1, 2, 3]


@pytest.mark.parametrize("method", METHODS)
def test_the_planned_steps_are_the_events_that_come(method, family):
    changes = {"steps": 2} if "steps" in METHODS[method].reads else {}
    planned, *others = merged(family, method, **changes)
    recipe = MergeRecipe(family="tiny", method=method, sources=family.sources, samples=9, **changes)
    assert isinstance(planned, Planned)
    assert planned.steps == len(others) == steps(recipe, family, (Merge(),))


@pytest.mark.parametrize("method", ["pcb", "adamerging", "knots", "fit"])
def test_what_is_kept_is_counted_where_a_method_trims(method, family):
    changes = {"steps": 1, "vectors": "trimmed"} if METHODS[method].trains else {}
    events = merged(family, method, keep=0.25, **changes)
    shares = [event.kept for event in events if isinstance(event, BlockMerged)]
    if METHODS[method].trims:
        assert all(0 < share < 0.6 for share in shares)
        assert math.isclose(np.mean(shares), 0.25, abs_tol=0.1)
    else:
        assert shares == [1.0] * 3


# Another value of each field that could change a merge's bytes.
OTHER = {
    "keep": 0.7, "variation": 0.05, "scaling": 0.5, "blocks": (1,), "seed": 7, "tokens": 2,
    "precision": "bf16", "inputs_from": "pretrained", "scores": "squared", "ranks": "reversed",
    "scope": "global", "matrices": "layers", "qkv": "split", "rest": "base", "start": "tsv-m",
    "images": "others", "ridge": 1.0, "off_diagonal": 0.5, "steps": 3, "rate": 0.1, "rho": 0.5,
    "coefficients": "source", "vectors": "trimmed",
}  # fmt: skip
REFUSED = ("norms", "after", "samples")  # refused where unread, or no matter of the bytes alone


def test_every_field_is_tried_in_another_value():
    fields = {field.name for field in dataclasses.fields(MergeRecipe)}
    assert fields - OTHER.keys() - set(REFUSED) == {"family", "method", "sources", "weights"}


@pytest.mark.parametrize("svc", [False, True])
@pytest.mark.parametrize("method", ONE_MODEL)
def test_what_a_method_does_not_read_changes_nothing(method, svc, family):
    """What is not recorded of a merge must not decide it: its name would stand for two models."""
    reads = METHODS[method].reads
    if svc and "after" not in reads:
        pytest.skip("SVC is refused after it")
    usual = {"keep": 0.4, "after": "svc" if svc else "nothing"}
    usual |= {"steps": 2} if "steps" in reads else {}
    starts = ("ties", "iso-c") if method == "fit" else ("iso-c",)
    for start in starts:
        settings = usual | ({"start": start} if method == "fit" else {})
        *_, whole = merged(family, method, **settings)
        unread = {name: value for name, value in OTHER.items() if name not in reads}
        if method == "fit":
            unread.pop("start", None)
        *_, other = merged(family, method, **settings | unread)
        assert all(torch.equal(whole.weights[n], t) for n, t in other.weights.items())
