"""The command line: what it prints, what it writes, and that it writes the same twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import socket

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mloss_core import BlockScored, Finished, MergeRecipe, NodeScores, __version__, run
from mloss_core.cli.merging import _score_rows
from mloss_core.data.calibration import batch_of, draw_batch
from mloss_core.families import folders
from mloss_core.vit import Tower

pytestmark = pytest.mark.usefixtures("family")
TINY = ("--family", "tiny", "--device", "cpu")
SMALL = (*TINY, "--samples", "6")
KINDS = {"Planned", "BlockScored", "BlockMerged", "Finished"}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def metadata(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.fixture
def pictures(family, tmp_path):
    """Three images in an order of their own."""
    with np.load(family.calibration_pool) as pool:
        images = pool["images"][[5, 1, 3]]
    np.savez(tmp_path / "pictures.npz", images=images)
    return tmp_path / "pictures.npz", images


def test_families_are_listed_with_what_they_hold(cli):
    outcome = cli("families", "--json")
    (row,) = [row for row in outcome.events if row["family"] == "tiny"]
    assert (outcome.status, outcome.err) == (0, "")
    assert row["sources"] == row["tasks"] == ["apples", "bridges", "clouds"]
    assert (row["blocks"], row["nodes"], row["activation"]) == (3, 128, "quick_gelu")
    table = cli("families").out
    assert "tiny" in table and "apples, bridges, clouds" in table


def test_a_folder_without_families_lists_none(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path / "nothing"))
    monkeypatch.setattr(folders, "ZOO", tmp_path)
    assert cli("families", "--json").status == 0


def test_merge_writes_the_image_tower_that_the_library_merges(cli, family, tmp_path):
    out = tmp_path / "merged.safetensors"
    outcome = cli("merge", *SMALL, "--keep", "0.4", "--blocks", "0,2-2", "--out", out)
    assert outcome.status == 0 and str(out) in outcome.out
    recipe = MergeRecipe(
        family="tiny", method="m-ties", sources=family.sources, keep=0.4, blocks=(0, 2), samples=6
    )
    *_, finished = run(recipe, family, device="cpu")
    written = load_file(out)
    assert written.keys() == family.model.shapes().keys()
    assert all(torch.equal(written[name], finished.weights[name]) for name in written)
    assert all(tensor.dtype == torch.float32 for tensor in written.values())


def test_sources_weights_and_scaling_reach_the_recipe(cli, tmp_path):
    out, options = tmp_path / "m", ("--sources", "clouds,apples", "--weights", "0.75,0.25")
    finished = cli("merge", *SMALL, *options, "--scaling", "0.5", "--json", "--out", out).events[-1]
    assert finished["recipe"]["sources"] == list(finished["sources"]) == ["clouds", "apples"]
    assert finished["recipe"]["weights"] == [0.75, 0.25]
    assert finished["recipe"]["scaling"] == 0.5


@pytest.mark.parametrize("method", ["simple-average", "task-arithmetic", "ties", "elect", "dare"])
def test_every_merging_method_writes_a_model(method, cli, tmp_path):
    out = tmp_path / "merged.safetensors"
    outcome = cli("merge", *TINY, "--method", method, "--json", "--out", out)
    assert outcome.status == 0 and out.is_file()
    assert outcome.events[-1]["recipe"]["method"] == method


@pytest.mark.parametrize("method, option, value", [
    ("m-ties", "inputs-from", "pretrained"), ("m-dare", "scores", "squared"),
    ("m-ties", "ranks", "random"), ("m-ties", "ranks", "equal"),
    ("m-dare", "ranks", "reversed"), ("ties", "scope", "global"),
])  # fmt: skip
def test_released_code_and_controls_reach_the_file(method, option, value, cli, tmp_path):
    out, field = tmp_path / "m", option.replace("-", "_")
    outcome = cli("merge", *SMALL, "--method", method, f"--{option}", value, "--json", "--out", out)
    assert outcome.status == 0
    recipe = json.loads(metadata(out)["mloss"])["recipe"]
    assert recipe[field] == value
    assert not {"inputs_from", "scores", "ranks", "scope"} - {field} & recipe.keys(), "usual"
    scored = [event for event in outcome.events if event["event"] == "BlockScored"]
    unmeasured = value in ("random", "equal")
    assert bool(scored) == (method != "ties" and not unmeasured), "none are invented"
    if unmeasured:
        assert outcome.events[-1]["calibration"] is None and "samples" not in recipe
        assert ("seed" in recipe) == (value == "random"), "equal rates draw nothing"


def test_the_seed_of_m_dares_masks_is_told_beside_given_pictures(cli, pictures, tmp_path):
    for seed in ("1", "2"):
        arguments = ("--method", "m-dare", "--calibration", pictures[0], "--seed", seed)
        assert cli("merge", *TINY, *arguments, "--out", tmp_path / seed).status == 0
        about = json.loads(metadata(tmp_path / seed)["mloss"])
        assert about["recipe"]["seed"] == int(seed)
    assert not torch.equal(*(load_file(tmp_path / s)["visual.proj"] for s in ("1", "2")))


@pytest.mark.parametrize("option", ["inputs-from", "scores", "ranks", "scope"])
def test_other_words_are_refused(option, cli, out, refused):
    refused(cli("merge", *SMALL, f"--{option}", "magic", "--out", out), f"--{option} magic")


@pytest.mark.parametrize("ranks", ["random", "equal"])
def test_controls_without_m_loss_leave_nothing_to_score(ranks, cli, out, refused):
    refused(cli("score", *SMALL, "--ranks", ranks, "--out", out), f"--ranks {ranks}")


def test_emr_leaves_no_single_model_to_write(cli, out, refused):
    refused(cli("merge", *SMALL, "--method", "emr", "--out", out), "a model per task")


def test_squared_scores_are_written_beside_those_of_eq_4(cli, tmp_path):
    out = tmp_path / "scores"
    assert cli("score", *SMALL, "--scores", "squared", "--out", out).status == 0
    written = load_file(out)
    assert set(written) == {f"{kind}.{b}" for kind in ("block", "squared") for b in range(3)}
    assert (written["squared.0"] >= written["block.0"] ** 2 * (1 - 1e-5)).all(), "Jensen"


@pytest.mark.parametrize("name, dtype", [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_the_dtype_asked_for_is_written(name, dtype, cli, tmp_path):
    out = tmp_path / "merged.safetensors"
    assert cli("merge", *TINY, "--method", "ties", "--dtype", name, "--out", out).status == 0
    assert {tensor.dtype for tensor in load_file(out).values()} == {dtype}


def test_json_lines_are_the_events_and_nothing_else(cli, tmp_path):
    outcome = cli("merge", *SMALL, "--json", "--out", tmp_path / "m.safetensors")
    assert (outcome.status, outcome.err) == (0, "")
    assert {event["event"] for event in outcome.events} == KINDS
    scored = [event for event in outcome.events if event["event"] == "BlockScored"]
    assert all(event["low"] <= event["mean"] <= event["high"] for event in scored)
    assert outcome.events[0] == {"event": "Planned", "steps": len(outcome.events) - 1}
    assert all(event["seconds"] >= 0 for event in outcome.events[1:])


def test_json_lines_stay_json_where_one_image_gives_no_interval(cli, tmp_path):
    out = tmp_path / "m.safetensors"
    assert cli("score", *TINY, "--samples", "1", "--json", "--out", out).events


def test_score_writes_node_scores_a_block(cli, family, tmp_path):
    out = tmp_path / "scores.safetensors"
    outcome = cli("score", *SMALL, "--out", out)
    recipe = MergeRecipe(family="tiny", method="m-ties", sources=family.sources, samples=6)
    events = [e for e in run(recipe, family, device="cpu") if isinstance(e, BlockScored)]
    written = load_file(out)
    assert list(written) == ["block.0", "block.1", "block.2"]
    for event in events:
        ours = written[f"block.{event.scores.block}"]
        np.testing.assert_array_equal(ours, event.scores.node.astype(np.float32))
    head, *rows = outcome.out.splitlines()
    assert "M-Loss" in head and "95 % interval" in head
    assert [row.split()[0] for row in rows] == ["0", "1", "2"]


def test_the_score_table_has_three_digits_of_small_losses_too():
    nodes = np.array([4e-5, 5e-5])
    scores = NodeScores(
        block=3, node=nodes, node_normalised=nodes, layer=2.5e-4, layer_normalised=0.1,
        per_image=np.array([4.5e-5, 4.7e-5]),
    )  # fmt: skip
    (row,) = _score_rows([scores])
    half = 12.7062047 * 1e-6  # Student's t of one degree of freedom
    low, high = (f"{1e5 * (4.6e-5 + sign * half):.2f}×10⁻⁵" for sign in (-1, 1))
    assert row == ("3", "4.60×10⁻⁵", f"{low} to {high}", "2.50×10⁻⁴")
    one = dataclasses.replace(scores, per_image=np.array([4.5e-5]))
    assert next(_score_rows([one]))[1:3] == ("4.50×10⁻⁵", "one image has none")


@pytest.mark.parametrize("command", ["merge", "score"])
def test_the_same_recipe_gives_the_same_bytes_twice(command, cli, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    outs = tmp_path / "a.safetensors", tmp_path / "elsewhere" / "b.safetensors"
    for out in outs:
        assert cli(command, *SMALL, "--out", out).status == 0
    assert sha256(outs[0]) == sha256(outs[1])


def test_another_seed_drops_other_entries(cli, tmp_path):
    for seed in ("1", "2"):
        arguments = (*TINY, "--method", "dare", "--seed", seed, "--out", tmp_path / seed)
        assert cli("merge", *arguments).status == 0
    assert not torch.equal(*(load_file(tmp_path / s)["visual.proj"] for s in ("1", "2")))


@pytest.mark.parametrize("command", ["merge", "score"])
def test_metadata_is_one_key_of_sorted_json_that_tells_no_time_path_or_host(
    command, cli, family, tmp_path
):
    out = tmp_path / "m.safetensors"
    cli(command, *SMALL, "--out", out)
    assert list(metadata(out)) == ["mloss"]
    text = metadata(out)["mloss"]
    about = json.loads(text)
    assert text == json.dumps(about, sort_keys=True)
    assert set(about) == {"recipe", "base", "sources", "calibration", "version", "dtype"}
    files = {name: family.folder / "sources" / f"{name}.safetensors" for name in family.sources}
    assert about["sources"] == {name: sha256(path) for name, path in files.items()}
    assert about["base"] == sha256(family.folder / "base.safetensors")
    assert about["version"] == __version__
    assert (about["recipe"]["samples"], about["recipe"]["seed"]) == (6, 42)
    assert not any(word in text for word in (str(tmp_path), socket.gethostname(), out.name))


def test_calibration_takes_exactly_the_given_pictures_in_their_order(
    cli, family, pictures, tmp_path
):
    path, images = pictures
    out = tmp_path / "scores.safetensors"
    outcome = cli("score", *TINY, "--calibration", path, "--json", "--out", out)
    assert outcome.events[-1]["calibration"] == batch_of(images).sha256
    assert batch_of(images).sha256 != batch_of(images[::-1]).sha256
    recipe = MergeRecipe(family="tiny", method="m-ties", sources=family.sources)
    events = run(recipe, family, device="cpu", calibration=batch_of(images))
    nodes = {e.scores.block: e.scores.node for e in events if isinstance(e, BlockScored)}
    for block, node in nodes.items():
        np.testing.assert_array_equal(load_file(out)[f"block.{block}"], node.astype(np.float32))


def test_the_file_says_nothing_of_a_draw_that_given_pictures_replace(cli, pictures, tmp_path):
    outs = tmp_path / "a", tmp_path / "b"
    for out, samples in zip(outs, ("6", "7"), strict=True):
        cli("merge", *TINY, "--calibration", pictures[0], "--samples", samples, "--out", out)
    assert sha256(outs[0]) == sha256(outs[1])


def test_a_method_that_reads_no_pictures_mentions_none(cli, pictures, tmp_path):
    outs = tmp_path / "a", tmp_path / "b"
    for out, extra in zip(outs, ((), ("--calibration", pictures[0])), strict=True):
        cli("merge", *TINY, "--method", "ties", *extra, "--out", out)
    assert sha256(outs[0]) == sha256(outs[1])


def test_a_smaller_draw_is_the_beginning_of_a_larger_one(family):
    few, many = (draw_batch(family.calibration_pool, family.sources, n, 42) for n in (5, 11))
    np.testing.assert_array_equal(few.images, many.images[:5])
    other = draw_batch(family.calibration_pool, family.sources, 11, 43)
    assert not np.array_equal(other.images, many.images)


def test_plain_ties_heeds_no_variation(cli, tmp_path):
    arguments = (*TINY, "--method", "ties", "--keep", "0.05", "--out", tmp_path / "m")
    outcome = cli("merge", *arguments)
    assert (outcome.status, outcome.err) == (0, "")


@pytest.mark.parametrize("tasks, count", [("all", 3), ("clouds", 1), ("clouds,apples", 2)])
def test_evaluate_judges_each_task_with_count_and_interval(tasks, count, cli):
    outcome = cli("evaluate", *TINY, "--model", "base", "--tasks", tasks, "--json")
    *rows, average = outcome.events
    assert (outcome.status, len(rows)) == (0, count)
    assert all(row["low"] <= row["correct"] / row["total"] <= row["high"] for row in rows)
    assert average["event"] == "Average"
    mean = np.mean([row["correct"] / row["total"] for row in rows])
    assert average["mean"] == pytest.approx(mean)


def test_evaluate_prints_a_table(cli):
    head, *rows = cli("evaluate", *TINY, "--model", "base").out.splitlines()
    assert head.split()[:2] == ["task", "accuracy"]
    assert [row.split()[0] for row in rows] == ["apples", "bridges", "clouds", "average"]
    assert all("/12" in row for row in rows[:-1])


def test_evaluate_takes_a_merged_file(cli, family, tmp_path):
    tensors = load_file(family.folder / "base.safetensors")
    save_file(tensors, tmp_path / "copy.safetensors")
    arguments = ("evaluate", *TINY, "--json", "--model")
    copy, base = cli(*arguments, tmp_path / "copy.safetensors"), cli(*arguments, "base")
    hits = [[row.get("correct") for row in outcome.events] for outcome in (copy, base)]
    assert hits[0] == hits[1]
    out = tmp_path / "merged.safetensors"
    cli("merge", *SMALL, "--out", out)
    assert cli(*arguments, out).status == 0


def test_the_finished_event_says_what_the_file_says(cli, tmp_path):
    out = tmp_path / "m.safetensors"
    finished = cli("merge", *SMALL, "--json", "--out", out).events[-1]
    assert finished["event"] == Finished.__name__
    about = json.loads(metadata(out)["mloss"])
    assert {key: finished[key] for key in about if key != "dtype"} | {"dtype": "fp32"} == about


def test_compatibility_prints_and_writes_the_section_and_embeds_once(cli, tmp_path, monkeypatch):
    out = tmp_path / "section.md"
    outcome = cli("compatibility", *SMALL, "--triples", "1", "--out", out)
    assert (outcome.status, outcome.err) == (0, "") and outcome.out == out.read_text()
    assert outcome.out.startswith("## Does M-Loss predict mergeability? Tiny")
    for word in ("4 sets of 3 sources", "### Leaving one source out", "### The ensemble gap"):
        assert word in outcome.out
    again = cli("compatibility", *SMALL, "--out", out)
    assert again.status == 2 and "never overwritten" in again.err
    monkeypatch.setattr(Tower, "features", lambda *a: pytest.fail("embedded again"))
    second = cli("compatibility", *SMALL, "--triples", "1")
    assert (second.status, second.out) == (0, outcome.out)


def test_compatibility_as_json_lines(cli):
    rows = cli("compatibility", *SMALL, "--triples", "1", "--json").events
    kinds = {kind: [r for r in rows if r["event"] == kind] for kind in {r["event"] for r in rows}}
    assert {"Pair", "Whole", "LeftOut", "Set", "EnsembleGap", "Said"} <= kinds.keys()
    assert [r["sources"] for r in kinds["Set"]][-1] == "apples+bridges+clouds"
    assert len(kinds["Pair"]) == 3 and len(kinds["Whole"]) == 12 and len(kinds["LeftOut"]) == 36
    assert all(0 <= r["sign_conflict"] <= 1 for r in kinds["Pair"])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--sources", "apples,clouds"), "too few to correlate"),
        (("--method", "ensembling"), "leaves several models"),
        (("--method", "magic"), "is not known"),
        (("--triples", "-1"), "below 0"),
        (("--keep", "0"), "outside (0, 1]"),
        (("--samples", "999"), "is more than"),
    ],
)
def test_compatibility_refuses_what_makes_no_sense(cli, refused, out, options, word):
    refused(cli("compatibility", *TINY, "--out", out, *options), word)
