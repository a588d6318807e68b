"""Every method's form in the app: what it shows, that it merges, and what is unknown of it."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import pytest
from test_app_runs import ticked
from visitor import (
    choose,
    compared,
    go,
    link_of,
    merged,
    session_recipe,
    settled,
    sound,
    view,
    visit,
    words,
)

from mloss_core import METHODS, list_runs, load
from mloss_core.fields import FIELDS, WAYS
from views.shared import readouts

CONTROLS = {"inputs": "pretrained", "loss": "squared", "ranks": "reversed"}


def box(test, key: str):
    return next(s for s in test.selectbox if s.key == f"w-{key}")


def chooser(test, key: str):
    return next(g for g in test.button_group if g.key == f"w-{key}")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_shows_its_line_formula_and_paper(method, visit):
    test = visit("explore", f"method={method}")
    row = METHODS[method]
    shown = next(m for m in view(test)["methods"] if m["name"] == method)
    assert row.explanation in shown["line"] and row.paper in shown["line"]
    assert shown["reads"] == list(row.reads) and shown["nodeWise"] == row.node_wise
    assert [latex.value.strip("$\n") for latex in test.latex] == [row.formula]
    drawn = {s.key for s in test.selectbox} | {g.key for g in test.button_group}
    for key in ("inputs", "loss", "ranks"):
        assert (f"w-{key}" in drawn) == row.node_wise
    assert ("w-scope" in drawn) == (method == "ties")


@pytest.mark.parametrize("method", ["m-dare", "elect", "emr"])
def test_new_methods_merge(method, visit):
    test = merged(visit("explore", f"method={method}&samples=6"))
    assert view(test)["isKept"] and (view(test)["kept"] is None) == (method == "emr")
    (run,) = list_runs()
    assert run.metadata["recipe"]["method"] == method
    assert (run.model is None) == (method == "emr")
    assert set(run.hits["merged"]) == {"apples", "bridges", "clouds"}


def test_released_code_and_controls_reach_recipe_link_and_run(visit):
    test = visit("explore", "samples=6")
    for key, value in CONTROLS.items():
        box(test, key).select(value).run()
    recipe = session_recipe(sound(test))
    assert (recipe.inputs_from, recipe.scores, recipe.ranks) == tuple(CONTROLS.values())
    assert {key: link_of(test)[key] for key in CONTROLS} == CONTROLS
    merged(test)
    (run,) = list_runs()
    assert run.metadata["recipe"]["scores"] == "squared"
    said = readouts.summary(run.metadata["recipe"])
    assert "inputs from the base, squared scores, reversed ranks" in said


def test_random_ranks_leave_the_map_alone(visit):
    test = merged(visit("explore", "ranks=random"))
    assert view(test)["isKept"] and view(test)["ranks"] == "random"
    assert "3 of 3 blocks measured" in words(settled(go(test, "explain"))), "still by M-Loss"


def test_rows_trimmed_alike_say_so(visit):
    test = visit("explore", "ranks=equal")
    assert "tanh approximation" in words(test), "what the released code does besides is named"
    merged(test)
    (run,) = list_runs()
    assert "rows trimmed alike" in readouts.summary(run.metadata["recipe"])


def test_a_global_trim_is_chosen_behind_the_gear(visit):
    test = visit("explore", "method=ties")
    chooser(test, "scope").set_value("global").run()
    assert session_recipe(sound(test)).scope == "global" and link_of(test)["scope"] == "global"
    test = choose(test, method="m-ties")
    assert not [g for g in test.button_group if g.key == "w-scope"], "M-TIES does not read it"


@pytest.mark.parametrize(
    ("link", "said"),
    [("", "λ / q = 0.2."), ("&weights=2,1,1", "λ times its weight = 0.15 to 0.3.")],
)
def test_both_conventions_of_lambda_are_shown(link, said, visit):
    test = visit("explore", f"method=task-arithmetic&scaling=0.6{link}")
    assert said in words(test) and "λ = 0.6 times the" in words(test)
    assert f"({said.rpartition('= ')[2][:-1]} per task)" in readouts.summary(session_recipe(test))


def test_emr_is_unknown_where_the_tasks_source_is_not_merged(visit):
    test = compared(visit("explore", "method=emr&sources=apples,clouds"))
    table = test.dataframe[0].value.set_index("task")["EMR-Merging"]
    assert (table["Bridges"], table["average"]) == ("unknown", "unknown") and "%" in table["Apples"]
    assert "Unknown: EMR-Merging" in words(test)
    assert "of the 2 of 3 tasks that both were evaluated on" in words(test)
    test = merged(choose(test, method="ties"))
    assert "of the 2 of 3 tasks" in words(ticked(go(test, "runs"), *list_runs(("merge",))))


@pytest.mark.parametrize("key", ["inputs", "loss", "ranks", "scope"])
def test_a_link_with_another_word_is_refused(key, visit):
    test = visit("explore", f"{key}=magic")
    assert any(f"{key}=magic was not used" in w.value for w in test.warning)
    assert test.session_state["chosen"][key] in ("merged", "absolute", "m-loss", "tensor")
