"""Rerun, model cards, and a merged model as a folder of Hugging Face."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mloss_core import Checkpoint, MergeRecipe, Tower, list_runs, load_run, recorded, run
from mloss_core.families import family as zoo
from mloss_core.runs.card import model_card

CPU = torch.device("cpu")


def kept(family, method="m-ties", tasks=(), kind="merge", **changes):
    """A run of a family on disk."""
    fields = {"keep": 0.5, "variation": 0.2, "samples": 6, "sources": family.sources} | changes
    recipe = MergeRecipe(family=family.name, method=method, **fields)
    events = run(recipe, family, device="cpu", tasks=tasks)
    list(recorded(events, recipe, kind=kind, keep_model=kind == "merge"))
    return load_run(list_runs()[0].id)


# --- rerun ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["m-ties", "dare", "ensembling"])
def test_a_run_done_again_agrees_to_the_byte(method, cli, family):
    record = kept(family, method, family.tasks[:2])
    outcome = cli("rerun", record.id, "--device", "cpu")
    assert (outcome.status, outcome.err) == (0, "")
    counted = "counts of correct answers" in outcome.out
    assert counted and "agree" in outcome.out and "differs" not in outcome.out
    (row,) = cli("rerun", record.id, "--device", "cpu", "--json").events
    assert row["agrees"] and row["tensors"] == (0 if method == "ensembling" else 44)
    assert row["scores"] == (3 if method == "m-ties" else 0) and row["judged"] >= 8


def test_a_score_done_again_agrees(cli, family):
    record = kept(family, kind="score", weights=(0.1, 0.2, 0.7), tokens=3)
    (row,) = cli("rerun", record.id, "--device", "cpu", "--json").events
    assert (row["agrees"], row["tensors"], row["scores"], row["judged"]) == (True, 0, 3, 0)


def test_tensors_that_differ_are_named_with_the_largest_difference(cli, family):
    record = kept(family, tasks=family.tasks[:1])
    tensors = load_file(record.model)
    tensors["visual.proj"][0, 0] += 0.25
    tensors["visual.ln_pre.bias"][0] += 0.5
    save_file(tensors, record.model)
    outcome = cli("rerun", record.id, "--device", "cpu")
    assert (
        outcome.status == 1
        and "2 of 47 tensors and blocks' scores differ, by at most 0.5" in outcome.err
    )
    assert "differs by at most 0.25: visual.proj" in outcome.out


@pytest.mark.parametrize(("moved", "agrees"), [(2e-6, True), (2e-4, False)])
def test_scores_agree_to_a_tolerance_that_is_stated_and_tensors_to_the_byte(
    moved, agrees, cli, family
):
    record = kept(family)
    scores = load_file(record.folder / "scores.safetensors")
    largest = scores["block.1"].abs().max()
    scores["block.1"][3] += moved * largest  # as another number of threads rounds, or more
    save_file(scores, record.folder / "scores.safetensors")
    outcome = cli("rerun", record.id, "--device", "cpu")
    assert outcome.status == (0 if agrees else 1), outcome
    assert f"at most {moved:.1e} of their block's largest apart; up to 1e-05" in outcome.out
    assert ("differs by at most 0.0002: block.1" in outcome.out) == (not agrees)
    (row,) = cli("rerun", record.id, "--device", "cpu", "--json").events
    assert row["score_gap"] == pytest.approx(moved, rel=0.1) and row["score_tolerance"] == 1e-5
    tensors = load_file(record.model)
    tensors["visual.proj"][0, 0] = torch.nextafter(tensors["visual.proj"][0, 0], torch.tensor(9.0))
    save_file(tensors, record.model)
    assert cli("rerun", record.id, "--device", "cpu").status == 1, "one bit of a tensor"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_differ(bad, cli, family):
    record = kept(family, kind="score")
    scores = load_file(record.folder / "scores.safetensors")
    scores["block.0"][0] = bad
    save_file(scores, record.folder / "scores.safetensors")
    assert cli("rerun", record.id, "--device", "cpu").status == 1


def test_zeros_of_another_sign_are_other_bytes(cli, family):
    record = kept(family, "simple-average")
    tensors = load_file(record.model)
    tensors["visual.proj"][:] = 0.0
    save_file(tensors, record.model)
    assert cli("rerun", record.id, "--device", "cpu").status == 1


def test_counts_that_differ_are_named(cli, family):
    import numpy as np

    record = kept(family, "ties", family.tasks[:1])
    with np.load(record.folder / "hits.npz") as file:
        flat = dict(file)
    flat["merged/apples"] = ~flat["merged/apples"]
    np.savez(record.folder / "hits.npz", **flat)
    outcome = cli("rerun", record.id, "--device", "cpu")
    assert (
        outcome.status == 1 and "merged on apples" in outcome.out and "counts differ" in outcome.err
    )


def test_a_source_that_changed_since_is_named(cli, own_family):
    record = kept(zoo.load("tiny"))
    path = own_family / "sources" / "clouds.safetensors"
    tensors = load_file(path)
    save_file({name: t + 0.5 for name, t in tensors.items()}, path)
    outcome = cli("rerun", record.id, "--device", "cpu")
    assert outcome.status == 2 and "source clouds" in outcome.err
    assert "has changed since the run" in outcome.err


def test_other_calibration_images_are_named(cli, own_family):
    import numpy as np

    record = kept(zoo.load("tiny"))
    with np.load(own_family / "calibration.npz") as file:
        pool = dict(file)
    np.savez(own_family / "calibration.npz", **pool | {"images": 255 - pool["images"]})
    outcome = cli("rerun", record.id, "--device", "cpu")
    assert outcome.status == 2 and "calibration images" in outcome.err


def test_runs_that_cannot_be_done_again_are_refused(cli, family):
    recipe = MergeRecipe(family="tiny", method="ties", sources=family.sources, variation=0.0)
    log = recorded(run(recipe, family, device="cpu"), recipe, kind="merge")
    next(log)
    log.close()
    for command in (["rerun"], ["export", "--out", "folder"]):
        outcome = cli(command[0], list_runs()[0].id, *command[1:])
        assert outcome.status == 2 and outcome.err.count("\n") == 1
    for name in ("nothing", "../x", ""):
        assert cli("rerun", name).status == 2


# --- cards ----------------------------------------------------------------------------------------


def test_a_card_says_what_the_model_is(family):
    record = kept(family, tasks=family.tasks[:2], blocks=(0, 2))
    text = model_card(record)
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()
    fields = {k: json.loads(v) for k, v in (line.split(": ", 1) for line in front.splitlines())}
    assert (fields["license"], fields["license_name"]) == ("other", "unknown")
    assert {"merge", "m-ties"} <= set(fields["tags"]) and fields["metrics"] == ["accuracy"]
    assert "base_model" not in fields, "nothing tells which it is on the hub"
    for value in (family.base().sha256, *(family.source(s).sha256 for s in family.sources)):
        assert value in body
    body = re.sub(" +", " ", body)  # cells are padded, so that the table can be read as it is
    assert "Algorithm 1" in body and "| base keep rate k | 0.5 |" in body
    assert "| blocks trimmed by M-Loss | 0, 2 |" in body
    assert (
        record.metadata["calibration"] in body and "6 unlabeled images, drawn with seed 42" in body
    )
    for accuracy in record.accuracies["merged"].values():
        low, high = accuracy.interval()
        cell = (
            f"{accuracy.rate:.1%} ({low:.1%} to {high:.1%}), {accuracy.correct} / {accuracy.total}"
        )
        assert cell in body
    assert f"| torch | {torch.__version__} |" in body


def test_a_card_names_the_control_that_decides_the_keep_rates(family):
    text = model_card(kept(family, ranks="equal"))
    assert re.search(r"\| ranks +\| rows trimmed alike +\|", text)
    assert "None: the method reads no images." in text and "| seed " not in text


def test_a_card_takes_licence_and_base_from_the_family(own_family):
    path = own_family / "family.json"
    fields = {"license": "mit", "base_model": "someone/clip"}
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    front = model_card(kept(zoo.load("tiny"), "ties")).split("---")[1]
    assert 'license: "mit"' in front and 'base_model: "someone/clip"' in front
    assert "license_name" not in front


def test_a_card_is_written_when_the_family_has_gone(own_family, tmp_path):
    record = kept(zoo.load("tiny"), "ties")
    own_family.rename(tmp_path / "elsewhere")
    assert "# TIES of tiny" in model_card(record)


def test_names_in_a_card_are_no_markdown(own_family):
    (own_family / "sources" / "clouds.safetensors").rename(
        own_family / "sources" / "a|b<i>`.safetensors"
    )
    body = model_card(kept(zoo.load("tiny"), "ties"))
    assert r"a\|b\<i\>\`" in body and "<i>" not in body.replace(r"\<i\>", "")


def test_merge_writes_a_card_beside_the_file_only_when_asked(cli, family, out):
    arguments = ("merge", "--family=tiny", "--method=ties", "--device=cpu", "--out", out)
    assert cli(*arguments).status == 0 and [p.name for p in out.parent.iterdir()] == [out.name]
    out.unlink()
    assert cli(*arguments, "--card").status == 0
    assert "# TIES of tiny" in out.with_suffix(".md").read_text()
    out.unlink()
    outcome = cli(*arguments, "--card")
    assert outcome.status == 2 and "--card" in outcome.err and not out.exists()


# --- folders of Hugging Face ----------------------------------------------------------------------


def test_our_own_reader_reads_the_exported_folder_back(cli, family, tmp_path):
    record, folder = kept(family), tmp_path / "exported"
    outcome = cli("export", record.id, "--out", folder, "--as", "hugging-face")
    assert outcome.status == 0 and str(folder) in outcome.out
    names = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    checkpoint, ours = Checkpoint.open(folder, "--model"), load_file(record.model)
    assert checkpoint.dialect == "hugging_face" and checkpoint.metadata == record.metadata
    checkpoint.audit(family.model.shapes())
    back = checkpoint.load(CPU)
    assert back.keys() == ours.keys() and all(torch.equal(back[n], ours[n]) for n in ours)
    assert checkpoint.normalisation == (family.model.mean, family.model.std)
    assert checkpoint.config["hidden_act"] == "quick_gelu"
    assert 'library_name: "transformers"' in (folder / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir() if "exported" in path.name] == ["exported"]


def test_an_export_never_overwrites_and_leaves_nothing_half_written(
    cli, family, tmp_path, monkeypatch
):
    record, folder = kept(family, "ties"), tmp_path / "exported"
    folder.mkdir()
    assert cli("export", record.id, "--out", folder).status == 2 and not list(folder.iterdir())
    assert cli("export", record.id, "--out", tmp_path / "x" / "y").status == 2
    assert cli("export", record.id, "--out", tmp_path / "z", "--as", "onnx").status == 2

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mloss_core.checkpoints.export.save_file", full)
    outcome = cli("export", record.id, "--out", tmp_path / "z")
    assert outcome.status == 2 and "No space left" in outcome.err
    assert not [path for path in tmp_path.iterdir() if "z" in path.name]


def test_a_score_has_no_model_to_export(cli, family, tmp_path):
    record = kept(family, kind="score")
    outcome = cli("export", record.id, "--out", tmp_path / "z")
    assert outcome.status == 2 and "holds no merged model" in outcome.err


def transformed(folder: Path, images: torch.Tensor) -> torch.Tensor:
    """What transformers itself makes of an exported folder."""
    reason = "transformers is not installed: pip install transformers"
    transformers = pytest.importorskip("transformers", reason=reason)
    model, said = transformers.CLIPVisionModelWithProjection.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(said[key] for key in said), said
    with torch.no_grad():
        return model.eval()(images).image_embeds


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["tiny", "demo"])
def test_transformers_loads_the_exported_folder(name, cli, family, tmp_path):
    zoo_family = zoo.load(name)
    record = kept(zoo_family, "ties", sources=zoo_family.sources[:2])
    assert cli("export", record.id, "--out", tmp_path / "exported").status == 0
    side = zoo_family.model.image_size
    images = torch.randn(5, 3, side, side, generator=torch.Generator().manual_seed(0))
    reference = transformed(tmp_path / "exported", images)
    with torch.no_grad():
        ours = Tower(zoo_family.model, load_file(record.model)).features(images)
    assert (ours - reference).abs().max() <= 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_transformers_preprocesses_as_the_family_does(cli, family, tmp_path):
    import numpy as np

    from mloss_core.data.calibration import preprocess

    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    record = kept(family, "ties")
    cli("export", record.id, "--out", tmp_path / "exported")
    processor = transformers.CLIPImageProcessor.from_pretrained(tmp_path / "exported")
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    reference = processor(list(images), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(reference, preprocess(images, family.model, CPU), atol=1e-5, rtol=0)
