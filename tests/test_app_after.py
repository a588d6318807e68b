"""What the Explain page says of a merge: what is left, alignment and routing."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import itertools
import json
import shutil
import threading
import time

import numpy as np
import pytest
from PIL import Image
from test_app_explain import alts, done, field
from visitor import button, go, link_of, settled, sound, visit, words

from mloss_core import METHODS, load
from mloss_core.analysis.alignment import alignment
from mloss_core.analysis.left import BlockLeft
from mloss_core.errors import MlossError
from views.explain import left
from views.explain import routing as routing_view
from views.jobs import analyses
from views.state import session

TABS = {"left": "What is left", "alignment": "Alignment of task vectors", "routing": "SMILE's"}
OF = {"left": "method=ties", "alignment": "method=ties", "routing": "method=smile"}


@pytest.fixture
def poor(models, tmp_path, monkeypatch):
    """The folder of a copy of the tiny family that pages read instead."""
    folder = shutil.copytree(models / "tiny", tmp_path / "poor" / "tiny")
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path / "poor"))
    return folder


@pytest.fixture
def no_pool(poor):
    """The same without calibration images."""
    (poor / "calibration.npz").unlink()


def job(kind):
    (only,) = [j for j in session.board()._jobs.values() if j.kind == kind]
    return only


def chosen(test, label):
    return next(s for s in test.selectbox if s.label == label)


def group(test, label):
    return next(g for g in test.button_group if g.label == label)


def test_what_a_merge_leaves_stands_beside_plain_averaging(visit):
    test = done(visit("explain", "explain=left&method=ties&keep=0.3"))
    said = words(test)
    assert "Merged model against the ensemble" in said and "after plain averaging" in said
    drawn = alts(test)
    assert len(drawn) == 6 and all(drawn)
    assert "TIES: gap to the ensemble by block and node group" in drawn
    events = job("left").events
    blocks = [e for e in events if isinstance(e, analyses.BothLeft)]
    assert [b.merge.block for b in blocks] == [0, 1, 2] and job("left").share == 1
    first = test.dataframe[-1].value["TIES, to the ensemble"]
    assert list(first) == pytest.approx([float(b.merge.node.sum()) for b in blocks])
    chosen(test, "Source").select("bridges").run()
    assert link_of(sound(test))["left_of"] == "bridges"
    assert "Simple average: gap to Bridges by block and node group" in alts(test)
    again = sound(go(go(test, "explore"), "explain"))
    assert chosen(again, "Source").value == "bridges" and job("left"), "it is not measured twice"


def test_plain_averaging_leaves_what_it_leaves(visit):
    test = done(visit("explain", "explain=left&method=simple-average&sources=apples,clouds"))
    assert "**the same**" in words(test) and len(alts(test)) == 6


@pytest.mark.parametrize("method", ["emr", "smile", "ensembling"])
def test_methods_that_leave_several_models_say_so(visit, method):
    test = done(visit("explain", f"explain=left&method={method}"))
    assert f"{METHODS[method].title} leaves several models" in words(test)
    assert not [j for j in session.board()._jobs.values() if j.kind == "left"]
    aligned = done(visit("explain", f"explain=alignment&method={method}"))
    assert "compared with each other alone" in words(aligned)
    assert "Do the sources use the same directions?" in words(aligned)
    assert not any("keep" in alt or "own change" in alt for alt in alts(aligned))


def test_without_tasks_only_the_ensemble_is_compared(visit, poor):
    with np.load(poor / "calibration.npz") as file:
        images = file["images"][:8]
    (poor / "pictures").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(poor / "pictures" / f"{i}.png")
    about = json.loads((poor / "family.json").read_text()) | {"calibration": "pictures"}
    (poor / "family.json").write_text(json.dumps(about))
    test = done(visit("explain", "explain=left&method=ties"))
    assert "do not say which task" in words(test) and len(alts(test)) == 3 and test.error.len == 0
    routed = done(visit("explain", "explain=routing&method=smile"))
    assert any("do not say which task" in e.value for e in routed.error)


def test_alignment_draws_what_was_measured(visit, family):
    test = done(visit("explain", "explain=alignment&method=tsv-m&node=1:4"))
    said = words(test)
    for heading in ("same directions?", "signs conflict?", "TSV-M keep of each source?"):
        assert heading in said
    assert "Block 1: is anything counted more than once?" in said and "By chance:" in said
    assert len(alts(test)) == 4 and all(alts(test))
    plain = list(alignment(family, family.sources, keep=0.5, device="cpu"))
    rows = test.dataframe[-1].value
    assert len(rows) == 12 and list(rows["matrix"][:4]) == ["in_proj", "out_proj", "c_fc", "c_proj"]
    lefts = [m.left for block in plain for m in block.matrices]
    assert list(rows["left overlap"]) == pytest.approx(lefts, abs=1e-5)
    group(test, "Directions").set_value("right").run()
    group(test, "Matrix").set_value("in_proj").run()
    link = link_of(sound(test))
    assert (link["side"], link["matrix"]) == ("right", "in_proj")
    assert any("leading right singular" in alt for alt in alts(test))
    assert any("direction of in_proj in block 1" in alt for alt in alts(test))


def test_alignment_of_two_sources(visit):
    test = done(visit("explain", "explain=alignment&method=ties&sources=apples,clouds"))
    assert "The leading 1/2 of each source's" in words(test) and test.error.len == 0


def test_where_tokens_go(visit, family):
    test = done(visit("explain", "explain=routing&method=smile&node=2:0&picture=3"))
    said = words(test)
    assert "Block 2: whose tokens go where?" in said and "The class token goes to" in said
    assert len(alts(test)) == 3 and all(alts(test))
    events = job("routing").events
    (routed,) = [e for e in events if isinstance(e, analyses.Routed)]
    blocks = [e for e in events if isinstance(e, analyses.BlockRoutes)]
    assert routed.tasks == tuple(np.repeat(family.sources, len(routed.images) // 3))
    assert [b.chosen.shape for b in blocks] == [(4, len(routed.images), 5)] * 3
    assert field(test, "Picture").value == 3
    group(test, "Linear layer").set_value("c_fc").run()
    field(test, "Picture").set_value(5).run()
    link = link_of(sound(test))
    assert (link["layer"], link["picture"]) == ("c_fc", "5")
    assert any(f"picture 5, of {family.title(routed.tasks[5])}" in alt for alt in alts(test))


def test_a_picture_past_the_last_one_is_the_last_one(visit):
    test = done(visit("explain", "explain=routing&method=smile&picture=999"))
    (routed,) = [e for e in job("routing").events if isinstance(e, analyses.Routed)]
    assert field(test, "Picture").value == len(routed.tasks) - 1 and test.error.len == 0


def test_only_smile_routes(visit):
    test = done(visit("explain", "explain=routing&method=ties"))
    assert "Only SMILE routes" in words(test)
    assert not [j for j in session.board()._jobs.values() if j.kind == "routing"]


def test_shares_are_counted_by_task():
    recipe = type("R", (), {"sources": ("a", "b")})
    tokens = np.array([[[0, 0], [1, 0], [1, 1]]], dtype=np.uint8)  # a layer, three images
    got = routing_view._shares(tokens, ("x", "x", "y"), recipe)
    assert got.tolist() == [[0.75, 0.25], [0.0, 1.0]]
    patches = routing_view.grid(np.array([9, 0, 1, 2, 3], dtype=np.uint8))
    assert patches.tolist() == [[0, 1], [2, 3]], "row by row, without the class token"


def test_the_gap_to_the_sources_is_the_mean_of_those_with_images():
    own = np.array([[1.0, 2.0], [3.0, 6.0], [np.nan, np.nan]])
    block = BlockLeft(block=0, node=np.array([9.0, 9.0]), own=own)
    assert left.gap(block, None).tolist() == [9.0, 9.0]
    assert left.gap(block, range(3)).tolist() == [2.0, 4.0]
    assert left.gap(block, [1]).tolist() == [3.0, 6.0]
    assert np.isnan(left.gap(block, [2])).all()


@pytest.mark.parametrize("tab", ["left", "routing"])
def test_without_a_pool_what_needs_images_says_so(visit, no_pool, tab):
    test = done(visit("explain", f"explain={tab}&{OF[tab]}"))
    assert sum("calibration pool" in e.value for e in test.error) == 2, "the map's, and the tab's"
    why = done(visit("explain"))
    assert "This explains the map, which is not measured" in words(why)


def test_without_a_pool_alignment_is_measured_all_the_same(visit, no_pool):
    test = done(visit("explain", "explain=alignment&method=iso-c"))
    assert len(alts(test)) == 4 and "Block 0: is anything" in words(test)
    field(test, "Block").set_value(2).run()
    assert "Block 2: is anything" in words(sound(test)) and link_of(test)["node"] == "2:0"


@pytest.mark.parametrize("kind", TABS)
@pytest.mark.parametrize("error", [MlossError("device cpu: out of memory"), ValueError("oh no")])
def test_what_fails_is_shown_and_asked_again_by_a_button(visit, monkeypatch, kind, error, capfd):
    def failing(*arguments, **options):
        raise error
        yield

    name = {"left": "left_after", "alignment": "alignment", "routing": "routing"}[kind]
    link = f"explain={kind}&{OF[kind]}"
    with monkeypatch.context() as patch:
        patch.setattr(analyses, name, failing)
        test = done(visit("explain", link))
        assert any(str(error) in e.value for e in test.error)
        assert job(kind).state == "failed", "it does not begin again by itself"
    label = {"left": "what is left", "alignment": "alignment", "routing": "where tokens go"}[kind]
    button(test, f"Measure {label}").click().run()
    assert done(test).error.len == 0 and len(alts(test)) >= 3


@pytest.mark.parametrize("kind", TABS)
def test_the_work_can_be_cancelled(visit, monkeypatch, kind):
    begun = threading.Event()
    name = {"left": "left_after", "alignment": "alignment", "routing": "routing"}[kind]
    whole = getattr(analyses, name)

    def endless(*arguments, **options):
        for event in itertools.repeat(next(whole(*arguments, **options))):
            yield event
            begun.set()
            time.sleep(0.02)

    monkeypatch.setattr(analyses, name, endless)
    test = visit("explain", f"explain={kind}&{OF[kind]}")
    for _ in range(100):  # the map comes first
        if begun.wait(0.5):
            break
        test.run()
    test.run()
    button(test, "Cancel").click().run()
    assert f"Cancelled: {TABS[kind]}" in words(settled(test))


@pytest.mark.parametrize(("tab", "method"), [("left", "adamerging"), ("alignment", "fisher")])
def test_what_takes_minutes_waits_for_a_click(visit, tab, method):
    test = done(visit("explain", f"explain={tab}&method={method}"))
    assert "Not measured yet. Press" in words(test)
    assert not [j for j in session.board()._jobs.values() if j.kind == tab]


@pytest.mark.parametrize("tab", TABS)
def test_a_lecture_hides_exports_alone(visit, tab):
    test = done(visit("explain", f"explain={tab}&{OF[tab]}&view=lecture"))
    assert not test.get("download_button") and test.dataframe.len == 0
    assert len(alts(test)) >= 3


@pytest.mark.parametrize("link", ["side=up", "matrix=moon", "layer=9", "picture=-1"])
def test_a_bad_choice_of_these_tabs_is_named(visit, link):
    test = visit("explain", f"explain=routing&{link}")
    assert any(f"{link} was not used" in e.value for e in (*test.warning, *test.error))
    assert load("tiny").name == "tiny"
