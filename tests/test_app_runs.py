"""The Runs page: filter, compare, name, delete and bring back, pin, open, take away."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import asyncio
import io
import json
import zipfile

import numpy as np
import pytest
from test_app_pages import request_for
from visitor import (
    button,
    compared,
    go,
    link_of,
    press,
    session_recipe,
    settled,
    sound,
    view,
    visit,
    words,
)

import app
from mloss_core import Evaluator, MergeRecipe, list_runs, load, recorded, run
from mloss_core.errors import MlossError
from mloss_core.runs import store
from views.runs import parts as shown
from views.state import session


def kept(family, method="m-ties", tasks=(), kind="merge", **changes):
    """A run of the tiny family on disk."""
    fields = {"keep": 0.5, "variation": 0.2, "samples": 6, "sources": family.sources} | changes
    recipe = MergeRecipe(family="tiny", method=method, **fields)
    before = {r.id for r in list_runs(store.KINDS)}
    events = run(recipe, family, device="cpu", tasks=tasks)
    for _ in recorded(events, recipe, kind=kind, keep_model=kind == "merge"):
        pass
    return next(r for r in list_runs(store.KINDS) if r.id not in before)


@pytest.fixture
def both(family):
    """An M-TIES and a TIES merge, evaluated on two tasks."""
    return [kept(family, method, family.tasks[:2]) for method in ("m-ties", "ties")]


def ticked(test, *chosen):
    """The page with these runs ticked in its table."""
    ids = list(test.dataframe[0].value["id"])
    rows = [ids.index(run.id) for run in chosen]
    listed = [next(r for r in list_runs(store.KINDS) if r.id == name) for name in ids]
    selection = {"selection": {"rows": rows, "columns": [], "cells": []}}
    test.session_state[shown.key(listed)] = selection
    return sound(test.run())


def listed(test):
    return list(test.dataframe[0].value["id"]) if test.dataframe.len else []


def chooser(test, label):
    return next(m for m in test.multiselect if m.label == label)


def test_an_empty_page_says_what_comes_here(visit):
    assert "No runs here" in words(visit("runs"))


def test_runs_are_filtered_and_sorted(visit, family, both):
    mties, ties = both
    score = kept(family, kind="score")
    test = visit("runs")
    assert listed(test) == [score.id, ties.id, mties.id]
    chooser(test, "Method").set_value(["m-ties"]).run()
    assert listed(sound(test)) == [score.id, mties.id]
    chooser(test, "Kind").set_value(["merge"]).run()
    assert listed(sound(test)) == [mties.id]
    chooser(test, "State").set_value(["finished"]).run()
    test.text_input(key="find-run").set_value("nothing of that name").run()
    assert listed(sound(test)) == [] and "No runs here" in words(test)
    test.text_input(key="find-run").set_value("apples").run()
    assert listed(sound(test)) == [mties.id]
    chooser(test, "Method").set_value([]).run()
    test.selectbox[0].select("best average").run()
    order = sorted(both, key=lambda r: (-shown.average(r)[0], -both.index(r)))
    assert listed(sound(test)) == [r.id for r in order]


def test_one_run_is_shown_with_its_accuracies_and_papers(visit, both):
    test = ticked(visit("runs"), both[0])
    assert ", 24 images)." in words(test)
    assert not [m.value for m in test.markdown if m.value.strip("`") == "None"]
    links = [e.proto.url for e in test.get("link_button")]
    assert links == [f"/{what}/{both[0].id}" for what in ("download", "card", "export")]


def test_two_runs_stand_side_by_side(visit, family, both):
    other = kept(family, tasks=family.tasks[:2], seed=7)
    test = ticked(visit("runs"), both[0], both[1], other)
    assert "Side by side" in words(test) and words(test).count(", 24 images).") == 2
    tables = [frame.value for frame in test.dataframe]
    differing = next(t for t in tables if "method" in set(t.iloc[:, 0]))
    fields = set(differing.iloc[:, 0])
    assert {"method", "seed", "pruning variation e"} <= fields
    assert not {"family", "sources", "base keep rate k", "version of torch"} & fields
    rates = next(t for t in tables if list(t.columns) == ["", "0", "1", "2"])
    assert rates.iloc[0]["1"] == "38.4%"  # counted: rows of 32 keep whole entries
    assert rates.iloc[1]["1"] == "50.0%"
    assert "minus that of" in words(test), "the difference map of the two that were scored"


def test_runs_that_differ_in_nothing_say_so(visit, family, both):
    same = kept(family, tasks=family.tasks[:2])
    test = ticked(visit("runs"), both[0], same)
    assert "recipes and inputs are the same" in words(test)
    assert "level with" in words(test)


def test_a_run_gets_a_name(visit, both):
    test = ticked(visit("runs"), both[0])
    test.text_input(key=f"name-{both[0].id}").set_value("my *best*").run()
    assert store.load_run(both[0].id).title == "my *best*"
    assert "my *best*" in list(sound(test).dataframe[0].value["run"])
    ticked(visit("runs"), *both)  # the name reads as no Markdown


def test_a_deleted_run_can_be_brought_back_until_the_next_action(visit, both):
    test = ticked(visit("runs"), both[0])
    button(test, "Delete").click().run()
    assert listed(sound(test)) == [both[1].id] and "Deleted: M-TIES" in words(test)
    assert "Undo" in [b.label for b in sound(test.run()).button], "it stays"
    button(test, "Undo").click().run()
    assert set(listed(sound(test))) == {run.id for run in both}
    assert "Undo" not in [b.label for b in test.button]
    ticked(test, both[0])
    button(test, "Delete").click().run()
    ticked(test, both[1])
    button(test, "Pin as reference").click().run()
    assert "Undo" not in [b.label for b in sound(test).button]


def test_a_pinned_run_is_the_reference_of_the_whole_app(visit, both):
    test = ticked(visit("runs"), both[1])
    button(test, "Pin as reference").click().run()
    assert link_of(sound(test))["reference"] == both[1].id
    assert test.dataframe[0].value["run"][0].startswith("📌")
    test = press(go(test, "explore"), "launch")
    assert (
        "Reference:" in words(press(settled(test), "compare"))
        and link_of(test)["reference"] == both[1].id
    )
    go(test, "runs")
    button(ticked(test, both[1]), "Delete").click().run()
    assert "reference" not in link_of(sound(test))


def test_a_merge_is_compared_with_the_reference(visit, family):
    reference = kept(family, "ties", tasks=family.tasks)
    test = compared(visit("explore", f"reference={reference.id}&method=task-arithmetic"))
    assert "This merge is" in words(test) and "the reference" in words(test)
    assert "36 images)" in words(test)


def test_a_reference_that_has_gone_or_saw_fewer_tasks_is_said(visit, both):
    assert "is not here" in words(compared(visit("explore", "reference=gone")))
    test = compared(visit("explore", f"reference={both[1].id}&method=ties"))
    assert "24 images of the 2 of 3 tasks that both were evaluated on" in words(test)


def test_models_on_other_images_are_not_compared():
    few, many = {"apples": np.ones(5, bool)}, {"apples": np.ones(6, bool)}
    assert shown.same_images(few, few) and not shown.same_images(few, many)
    assert not shown.same_images(few, {"clouds": np.ones(5, bool)})


def test_open_in_explore_is_back_to_this_run(visit, family):
    weights = (0.1, 0.2, 0.7)
    record = kept(
        family, keep=0.3, variation=0.05, blocks=(0, 2), seed=9, tokens=3, weights=weights
    )
    test = ticked(visit("runs"), record)
    button(test, "Open in Explore").click().run()
    assert view(sound(test))["setting"]["keep"] == 0.3
    assert session_recipe(test) == record.recipe() and test.warning.len == 0


def test_every_field_of_a_recipe_can_be_set_on_the_explore_page(visit, family):
    record = kept(family, precision="bf16")
    test = ticked(visit("runs"), record)
    button(test, "Open in Explore").click().run()
    assert session_recipe(sound(test)) == record.recipe() and test.warning.len == 0


def test_unfinished_runs_say_why_and_can_be_opened_or_deleted(visit, family):
    recipe = MergeRecipe(family="tiny", method="ties", sources=family.sources, variation=0.0)

    def failing():
        yield next(run(recipe, family, device="cpu"))
        raise MlossError("device cpu: out of memory")

    with pytest.raises(MlossError):
        list(recorded(failing(), recipe, kind="merge"))
    (record,) = list_runs()
    test = ticked(visit("runs"), record)
    assert list(test.dataframe[0].value["state"]) == ["failed"]
    assert test.error[0].value == "device cpu: out of memory"
    button(test, "Open in Explore").click().run()
    assert session_recipe(sound(test)).method == "ties"
    button(ticked(go(test, "runs"), record), "Delete").click().run()
    assert listed(sound(test)) == []


def test_a_run_of_a_family_that_has_gone_is_said_to_be(visit, both):
    for record in both:
        for name in ("record.json", "recipe.json"):
            path = record.folder / name
            path.write_text(path.read_text().replace('"tiny"', '"gone"'))
    test = visit("runs")
    assert listed(test) == []
    test.toggle[0].set_value(True).run()
    ticked(test, both[0])
    assert "gone" in test.error[0].value


def test_torn_hits_are_shown_in_place(visit, both):
    (both[0].folder / "hits.npz").write_bytes(b"")
    test = ticked(visit("runs"), both[0])
    assert both[0].id in test.error[0].value


def test_a_run_is_exported_as_a_zip_with_its_card(both):
    async def fetched():
        response = await app.bundle(request_for(both[0].id))
        return b"".join([part async for part in response.body_iterator])

    with zipfile.ZipFile(io.BytesIO(asyncio.run(fetched()))) as archive:
        assert archive.testzip() is None
        names = {name.partition("/")[2] for name in archive.namelist()}
        files = {path.name for path in both[0].folder.iterdir()}
        assert names == files | {"README.md"}
        for name in files:
            content = archive.read(f"{both[0].id}/{name}")
            assert content == (both[0].folder / name).read_bytes()
    card = asyncio.run(app.card(request_for(both[0].id)))
    assert card.status_code == 200 and b"# M-TIES of tiny" in card.body
