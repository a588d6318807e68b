"""The Methods page: the table, one method in full, and a comparison that ends in a kept file."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import asyncio
import inspect
import json

import numpy as np
import pytest
from safetensors import safe_open
from test_app_pages import request_for
from visitor import button, go, link_of, session_recipe, settled, sound, view, visit, words

import app
from mloss_core import METHODS, Accuracy, list_runs, load
from mloss_core.experiments import Row
from mloss_core.methods.matrices import of_matrices
from mloss_core.types import Trained
from views.jobs import kinds
from views.methods import at_published, comparison, figures, parts, published
from views.state import session
from views.state.methods_fields import COMPARED

QUICK = "methods=ties,iso-c,tsv-m"
HEAD = "method,variant,family,model,low,high,measure,data,tuned_on,confidence,source\n"


@pytest.fixture
def numbers(tmp_path, monkeypatch):
    """A file of published numbers: one method on two families, one of them as a range."""
    (tmp_path / published.FILE).write_text(
        HEAD
        + "tsv-m,,A,ViT-B/32,83.3,84.0,accuracy,none,labeled validation,notes,SVC\n"
        + "tsv-m,then SVC,A,ViT-B/32,84.8,84.8,absolute,none,nothing,notes,SVC\n"
        + "tsv-m,,A,ViT-B/32,82.9,82.9,absolute,none,labeled validation,notes,again\n"
        + "tsv-m,,C,ViT-B/32,85.9,85.9,accuracy,none,labeled validation,readme,ESM\n"
        + "tsv-m,,C,ViT-B/32,92.3,92.3,normalised accuracy,none,labeled validation,readme,ESM\n"
        + "tsv-m,,C,ViT-L/14,93.0,93.0,accuracy,none,labeled validation,readme,ESM\n"
    )
    monkeypatch.setattr(published, "PAPER", tmp_path)


def launched(test, label="Compare"):
    button(test, label).click()
    return settled(sound(test.run()), 120)


def tables(test):
    return [table.value for table in test.dataframe]


def table_with(test, column: str):
    return next(table for table in tables(test) if column in table.columns)


def overview(test):
    return table_with(test, "leaves").set_index("method")


def test_the_table_holds_every_method_and_nothing_unmeasured(visit, monkeypatch, tmp_path):
    monkeypatch.setattr(published, "PAPER", tmp_path)
    test = visit("methods")
    table = overview(test)
    assert list(table.index) == [method.title for method in METHODS.values()]
    assert table.loc["TIES", "needs"] == "nothing" and table.loc["TIES", "leaves"] == "one model"
    assert table.loc["EMR-Merging", "leaves"] == "a model per task"
    assert set(table["measured here"]) == {""} == set(table["published A, %"])
    assert "published_methods.csv is missing" in words(test)
    assert "Nothing compared in this session yet" in words(test)


@pytest.mark.parametrize("text", ["", "method\n\n", HEAD, '"\n\0', HEAD + "tsv-m,,A,ViT-B/32\n"])
def test_a_strange_file_of_published_numbers_is_borne(text, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "PAPER", tmp_path)
    (tmp_path / published.FILE).write_text(text)
    rows = published.entries()
    assert published.in_short(rows, "tsv-m", "A") == ""
    (tmp_path / published.FILE).write_bytes(b"\xff\xfe")
    assert published.entries() == []


def test_published_families_stand_apart(visit, numbers):
    test = visit("methods", "method=tsv-m")
    row = overview(test).loc["TSV-M"]
    assert (row["published A, %"], row["published B, %"]) == ("82.9 to 84.0", "")
    assert row["published C, %"] == "85.9"
    small = [table for table in tables(test) if "tuned on" in table.columns]
    assert [list(table["%"]) for table in small] == [
        ["83.3 to 84.0", "84.8", "82.9"],
        ["85.9", "92.3", "93.0"],
    ]
    assert set(small[0]["tuned on"]) == {"labeled validation", "nothing"}
    assert "must never be compared" in words(test)


def test_a_link_opens_a_method_and_choosing_another_brings_its_settings(visit):
    test = visit("methods", "method=tsv-m")
    row = METHODS["tsv-m"]
    (box,) = [s for s in test.selectbox if s.key == "methods-method"]
    assert box.value == "tsv-m" and row.explanation in words(test) and row.paper in words(test)
    assert "two dimensions as matrices" in words(test)
    test = sound(box.select("pcb").run())
    assert link_of(test)["method"] == "pcb"
    assert (session_recipe(test).keep, session_recipe(test).scaling) == (0.05, 1.2)
    (box,) = [s for s in test.selectbox if s.key == "methods-method"]
    test = sound(box.select("ties").run())
    assert (session_recipe(test).keep, session_recipe(test).scaling) == (0.5, 1.0)
    button(test, "As published").click()
    assert session_recipe(sound(test.run())).keep == 0.2


@pytest.mark.parametrize("method", METHODS)
def test_every_method_shows_its_settings(method, visit):
    test = visit("methods", f"method={method}")
    drawn = {w.key for kind in ("selectbox", "number_input") for w in getattr(test, kind)}
    for name in ("keep", "scaling", "ridge", "steps", "rho", "matrices", "start", "ranks"):
        assert (f"w-{name}" in drawn) == (name in METHODS[method].reads), name
    assert test.error.len == 0 and test.latex.len == 1


def test_an_unknown_method_is_named_and_the_page_stands(visit):
    test = visit("methods", "method=magic&methods=ties,magic&compare_job=gone&merge_job=gone")
    assert "method=magic was not used" in words(test) and "methods=ties,magic" in words(test)
    assert words(test).count("The job of this link is gone") == 2
    assert overview(test).shape[0] == len(METHODS)


def test_one_source_is_too_few_and_says_so(visit):
    test = visit("methods")
    pills = next(g for g in test.button_group if g.label.startswith("Sources to merge"))
    test = sound(pills.set_value(["apples"]).run())
    assert "too few; merging needs at least two sources" in words(test)
    assert not [b for b in test.button if b.label == "Compare"]


def test_three_methods_are_compared_and_the_best_is_kept(visit):
    test = launched(visit("methods", QUICK))
    table = table_with(test, "MB")
    assert {"TIES", "Iso-C", "TSV-M", "Base", "Own sources", "Ensembling"} == set(table["model"])
    assert "is the best that leaves one model" in words(test)
    assert words(test).count("istinguishable**:") == 5, "the best against every other"
    (alt,) = [c.proto.alt for c in test.get("plotly_chart")]
    assert "of 3 methods" in alt
    here = overview(test)["measured here"]
    assert all("%" in here[name] for name in ("TIES", "Iso-C", "TSV-M")) and here["Fit"] == ""
    (keep,) = [b for b in test.button if b.label.startswith("Keep the best")]
    test = launched(test, keep.label)
    (run,) = list_runs()
    assert METHODS[run.metadata["recipe"]["method"]].title in keep.label
    links = [e.proto.url for e in test.get("link_button")]
    assert f"/download/{run.id}" in links
    response = asyncio.run(app.download(request_for(run.id)))
    with safe_open(response.path, "pt") as file:
        (text,) = file.metadata().values()
    assert json.loads(text)["recipe"]["method"] == run.metadata["recipe"]["method"]


def test_a_comparison_made_again_measures_nothing(visit, monkeypatch):
    launched(visit("methods", QUICK))
    monkeypatch.setattr("mloss_core.runs.cells.Lab.compute", None)
    test = launched(visit("methods", QUICK))
    assert table_with(test, "MB").shape[0] == 6
    assert link_of(test)["compare_job"] and "methods=ties" in f"methods={link_of(test)['methods']}"


def test_a_method_that_fails_is_named_while_the_others_go_on(own_family, visit, monkeypatch):
    monkeypatch.setenv("MLOSS_MODELS", str(own_family.parent))
    with np.load(own_family / "calibration.npz") as pool:
        tasks = np.where(pool["tasks"] == "bridges", "apples", pool["tasks"])
        np.savez(own_family / "calibration.npz", images=pool["images"], tasks=tasks)
    test = launched(visit("methods", "methods=regmean,ties,iso-c"))
    table = table_with(test, "MB").set_index("model")
    assert "no image of bridges" in table.loc["RegMean", "mean accuracy"]
    assert "%" in table.loc["TIES", "mean accuracy"] and "%" in table.loc["Iso-C", "mean accuracy"]
    assert "is the best that leaves one model" in words(test)


def test_a_bug_in_one_method_leaves_the_others(visit, monkeypatch, capfd):
    from mloss_core.runs.cells import Lab

    compute = Lab.compute

    def broken(lab, cell):
        if cell.recipe.method == "iso-c":
            raise ZeroDivisionError("oh no")
        return compute(lab, cell)

    monkeypatch.setattr(Lab, "compute", broken)
    test = launched(visit("methods", QUICK))
    table = table_with(test, "MB").set_index("model")["mean accuracy"]
    assert table["Iso-C"] == "unexpected ZeroDivisionError: oh no" and "%" in table["TSV-M"]
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_budget_skips_and_stops_what_is_too_long(visit, monkeypatch):
    visit("methods")
    family = load("tiny")
    recipes = [at_published.recipe_of(name, family, family.sources) for name in ("ties", "iso-c")]
    job = kinds.compare(family, recipes, 1e-9)
    job.wait(60)
    assert [event.why[:14] for event in job.events if isinstance(event, kinds.LeftOut)] == [
        "Stopped: took ", "Skipped: nothi",
    ]  # fmt: skip
    at = at_published.Measured(mean=(0.5, 0.4, 0.6), seconds=50.0, peak=None)
    monkeypatch.setattr(parts, "disk", lambda family, sources: {"ties": at})
    test = launched(visit("methods", "methods=ties,iso-c&budget=40"))
    table = table_with(test, "MB").set_index("model")["mean accuracy"]
    assert table["TIES"] == "Skipped: took 50 s before, 40 s are left." and "%" in table["Iso-C"]


def test_sets_of_methods_fill_the_choice(visit):
    test = visit("methods")
    for label, out in (("All that need nothing", "m-ties"), ("All but training", "adamerging")):
        button(test, label).click()
        test = sound(test.run())
        (box,) = test.multiselect
        assert box.value and out not in box.value and "ensembling" not in box.value
        assert set(link_of(test)["methods"].split(",")) == set(box.value)
    test = sound(test.multiselect[0].set_value([]).run())
    assert "Choose a method or more" in words(test)


def test_a_training_shows_its_loss_and_coefficients(visit):
    test = visit("methods", "method=adamerging&steps=3&samples=12")
    test = launched(test, "Launch and keep")
    alts = [c.proto.alt for c in test.get("plotly_chart")]
    assert alts == ["Loss over the steps of AdaMerging", "Coefficient of each source in each block"]
    assert "step 3 of 3" in words(test) and test.get("link_button")


def test_to_the_explore_page_with_the_method(visit):
    test = visit("methods", "method=iso-c")
    button(test, "Merge with it on Explore").click()
    test = sound(test.run())
    assert view(test)["setting"]["method"] == "iso-c"


def test_the_recipes_are_the_published_ones(family):
    recipe = at_published.recipe_of("m-ties", family, family.sources)
    assert (recipe.keep, recipe.variation, recipe.scaling) == (0.8, 0.1, 1.0)
    assert at_published.recipe_of("ties", family, family.sources).keep == 0.2
    assert at_published.recipe_of("fit", family, family.sources).samples == 24
    assert at_published.recipe_of("consensus", family, family.sources).scaling == 0.3


@pytest.mark.parametrize("method", [m for m in COMPARED if "matrices" in METHODS[m].reads])
def test_what_a_rule_treats_is_what_the_page_says(method):
    rule = METHODS[method].rule
    if rule is None:
        return
    chosen = inspect.getclosurevars(inspect.unwrap(rule)).nonlocals
    alone = (chosen["matrices"], chosen["rest"]) == ("layers", "base")
    assert alone == (method in parts.LAYERS_ALONE)
    assert ("linear layers" in parts.tensors(method, "published", "published")) == alone
    assert "unchanged" in parts.tensors(method, "all", "base")


def row_of(label: str, seconds: float, correct: int, method: str) -> Row:
    answers = {"apples": np.arange(20) < correct}
    recipe = session.MergeRecipe(family="tiny", method=method, sources=("a", "b"))
    return Row(
        label=label, recipe=recipe, answers=answers, cost=None, towers=1, seconds=seconds, peak=10
    )


def test_the_frontier_leaves_out_what_a_quicker_one_beats():
    rows = [
        row_of("slow", 9.0, 12, "tsv-m"), row_of("quick", 1.0, 8, "ties"),
        row_of("beaten", 5.0, 7, "iso-c"), row_of("several", 0.5, 19, "emr"),
    ]  # fmt: skip
    assert [row.label for row in figures.pareto(rows)] == ["quick", "slow"]
    so_far = comparison.Compared(rows=rows, left_out={}, way=None)
    assert so_far.best is not None and so_far.best.label == "slow"
    assert so_far.merges[0].label == "several"
    names = [trace.name for trace in figures.frontier(rows, so_far.best).data]
    assert names == ["frontier", "needs nothing", "best that leaves one model"]


def test_a_curve_without_numbers_is_drawn_empty():
    event = Trained(step=1, steps=4, loss=None, seconds=0.1)
    assert len(figures.curve([event]).data[0].x) == 0
