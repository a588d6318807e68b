"""Every method's form in the app: what it shows, that it merges, and what is unknown of it."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import pytest
from test_app_runs import ticked
from visitor import button, go, link_of, merged, session_recipe, slider, sound, visit, words

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
    test = visit("merge", f"method={method}")
    row = METHODS[method]
    assert row.explanation in words(test) and row.paper in words(test)
    assert [latex.value.strip("$\n") for latex in test.latex] == [row.formula]
    shown = {s.key for s in test.selectbox} | {g.key for g in test.button_group}
    for key in ("inputs", "loss", "ranks"):
        assert (f"w-{key}" in shown) == row.node_wise
    assert ("w-scope" in shown) == (method == "ties")


@pytest.mark.parametrize("method", ["m-dare", "elect", "emr"])
def test_new_methods_merge(method, visit):
    test = merged(visit("merge", f"method={method}&samples=6"))
    assert "Merged in" in test.success[0].value and test.metric.len == 3
    (run,) = list_runs()
    assert run.metadata["recipe"]["method"] == method
    assert (run.model is None) == (method == "emr")
    assert set(run.hits["merged"]) == {"apples", "bridges", "clouds"}


def test_released_code_and_controls_reach_recipe_link_and_run(visit):
    test = visit("merge", "samples=6")
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


def test_random_ranks_ask_for_no_images_and_leave_the_heatmap_alone(visit):
    test = visit("merge", "ranks=random")
    assert not any(n.label == "Calibration images" for n in test.number_input)
    box(test, "ranks").select("m-loss").run()
    assert any(n.label == "Calibration images" for n in sound(test).number_input)
    box(test, "ranks").select("random").run()
    merged(test)
    assert "Merged in" in test.success[0].value
    go(test, "heatmap")
    assert "blocks measured" in words(test), "still Eq. 4, by M-Loss"


def test_rows_trimmed_alike_ask_for_no_images_and_say_so(visit):
    test = visit("merge", "ranks=equal")
    assert not any(n.label == "Calibration images" for n in test.number_input)
    assert "tanh approximation" in words(test), "what the released code does besides is named"
    merged(test)
    (run,) = list_runs()
    assert "rows trimmed alike" in readouts.summary(run.metadata["recipe"])


def test_a_global_trim_is_chosen_beside_k(visit):
    test = visit("merge", "method=ties")
    chooser(test, "scope").set_value("global").run()
    assert session_recipe(sound(test)).scope == "global" and link_of(test)["scope"] == "global"
    assert "One threshold for each source's whole task vector" in words(test)
    test.selectbox[0].select("m-ties").run()
    assert "One threshold" not in words(sound(test)), "M-TIES does not read it"


@pytest.mark.parametrize(
    ("link", "said"),
    [("", "λ / q = 0.2."), ("&weights=2,1,1", "λ times its weight = 0.15 to 0.3.")],
)
def test_both_conventions_of_lambda_are_shown(link, said, visit):
    test = visit("merge", f"method=task-arithmetic&scaling=0.6{link}")
    assert said in words(test) and "λ = 0.6 times the" in words(test)
    assert f"({said.rpartition('= ')[2][:-1]} per task)" in readouts.summary(session_recipe(test))


def test_emr_is_unknown_where_the_tasks_source_is_not_merged(visit):
    test = merged(visit("merge", "method=emr&sources=apples,clouds"))
    values = {m.label: m.value for m in test.metric}
    assert values["Bridges"] == "unknown" and "%" in values["Apples"]
    table = test.dataframe[0].value.set_index("task")["EMR-Merging"]
    assert (table["Bridges"], table["average"]) == ("unknown", "unknown")
    assert "Unknown: EMR-Merging" in words(test)
    assert "of the 2 of 3 tasks that both were evaluated on" in words(test)
    assert "of 2 of 3 tasks" in test.dataframe[-1].value["average"][0]
    test.selectbox[0].select("ties").run()
    merged(test)
    assert "of the 2 of 3 tasks" in words(ticked(go(test, "runs"), *list_runs(("merge",))))


@pytest.mark.parametrize("key", ["inputs", "loss", "ranks", "scope"])
def test_a_link_with_another_word_is_refused(key, visit):
    test = visit("merge", f"{key}=magic")
    assert any(f"{key}=magic was not used" in w.value for w in test.warning)
    assert test.session_state["chosen"][key] in ("merged", "absolute", "m-loss", "tensor")
