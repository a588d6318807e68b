"""What the Explain page says, as a visitor finds it."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import itertools
import threading
import time

import pytest
from visitor import button, go, link_of, settled, sound, visit, words

from mloss_core import BlockScored, MergeRecipe, list_runs, load, recorded, run
from mloss_core.analysis.trace import trace_blocks
from mloss_core.errors import MlossError
from tiny import TASKS
from views.explain import why
from views.jobs import kinds
from views.state import session


def done(test, times: int = 4):
    """The page once every job that it asks for has ended."""
    for _ in range(times):
        settled(test)
    return test


def numbers(test) -> tuple[int, int]:
    inputs = {n.label: n.value for n in test.number_input}
    return inputs["Block"], inputs["Node"]


def field(test, label):
    return next(n for n in test.number_input if n.label == label)


def chosen(test, label):
    return next(s for s in test.selectbox if s.label == label)


def scores(test) -> dict:
    (job,) = [j for j in session.board()._jobs.values() if j.kind == "score"]
    scored = [e.scores for e in job.events if isinstance(e, BlockScored)]
    return {s.block: s.node for s in scored}


def alts(test) -> list[str]:
    return [e.proto.alt for e in test.get("plotly_chart")]


def test_the_highest_node_is_explained_first(visit):
    test = done(visit("explain"))
    losses = scores(test)
    block = max(losses, key=lambda b: losses[b].max())
    assert numbers(test) == (block, int(losses[block].argmax())) and "node" not in link_of(test)
    said = words(test)
    assert "the block's mean M-Loss" in said and "of the measured M-Loss" in said
    assert "At a typical token" in said
    assert any("Histograms of each source" in alt for alt in alts(test)) and all(alts(test))
    shown = {m.label: m.value for m in test.metric}
    assert shown["Predicted ÷ measured"].endswith("%")
    assert shown["Curvature ÷ block's mean"].endswith("×")
    assert test.error.len == 0


def test_a_node_is_chosen_by_number_by_button_and_by_the_link(visit):
    test = done(visit("explain"))
    field(test, "Block").set_value(1).run()
    field(test, "Node").set_value(7).run()
    assert link_of(done(test))["node"] == "1:7" and "M-Loss of node 7, block 1" in [
        m.label for m in test.metric
    ]
    button(test, "Highest node of this block").click().run()
    highest = int(scores(test)[1].argmax())
    assert numbers(sound(test)) == (1, highest) and link_of(test)["node"] == f"1:{highest}"
    test.session_state["chosen"]["node"] = "2:3"  # as a click on the map does
    assert numbers(done(test.run())) == (2, 3)
    again = done(visit("explain", "node=0:5"))
    assert numbers(again) == (0, 5)
    assert any(m.label == "M-Loss of node 5, block 0" for m in again.metric)


def test_the_gap_is_drawn_where_it_is_said(visit):
    test = done(visit("explain", "gap_at=mean"))
    assert "At the mean pre-activations (each source's mean)" in words(test)
    assert any(alt.startswith("The gap at the mean pre-activations") for alt in alts(test))


def test_which_source_causes_it(visit):
    test = done(visit("explain", "explain=source&node=2:9"))
    said = words(test)
    for heading in ("Node 9 of block 2", "Every block", "Block 2"):
        assert f"#### {heading}" in said
    assert "this node's M-Loss falls most" in said and "Most falls in block" in said
    assert len(test.get("plotly_chart")) >= 4 and all(alts(test))
    two = done(visit("explain", "explain=source&sources=apples,clouds"))
    assert "Choose three sources or more" in words(two) and two.error.len == 0


def test_before_along_and_kept_runs_are_compared(visit, family):
    recipe = MergeRecipe(family="tiny", method="m-ties", sources=TASKS, blocks=(1,), samples=4)
    list(recorded(run(recipe, family), recipe, kind="merge", id="kept"))
    test = done(visit("explain", "explain=runs"))
    assert "They differ most in block" in words(test) and "95 % intervals" in words(test)
    assert any("along the merge (Algorithm 1) minus before" in alt for alt in alts(test))
    rows = test.dataframe[-1].value
    assert list(rows["block"]) == [0, 1, 2] and list(rows["difference"]) == pytest.approx(
        list(rows["first"] - rows["second"]),
        rel=1e-4,  # the one by image, the others by node
    )
    chosen(test, "minus this one").select("kept").run()
    assert link_of(sound(test))["against"] == "kept" and "No intervals" in words(test)
    assert list(test.dataframe[-1].value["block"]) == [1]
    chosen(test, "minus this one").select("along").run()
    assert "Both are the same map" in words(sound(test))


def test_a_run_that_has_gone_is_said_to_be(visit):
    test = done(visit("explain", "explain=runs&against=gone"))
    assert "Run gone of this link is not here" in words(test) and test.error.len == 0
    assert link_of(test)["against"] == "gone", "until another is chosen"
    chosen(test, "minus this one").select("before").run()
    assert "They differ most in block" in words(done(test)) and "against" not in link_of(test)


def test_before_or_along_is_chosen_above_the_map(visit):
    test = done(visit("explain"))
    next(g for g in test.button_group if g.label == "Measured").set_value("pretrained").run()
    assert link_of(done(test))["inputs"] == "pretrained"
    recipes = [r.metadata["recipe"].get("inputs_from") for r in list_runs()]
    assert sorted(recipes, key=str) == [None, "pretrained"]
    assert go(test, "explore").error.len == 0 and done(go(test, "explain")).error.len == 0


def test_relu_kinds_say_why_they_have_no_second_order(visit, monkeypatch):
    monkeypatch.setattr(why, "SMOOTH", {})
    monkeypatch.setattr("views.explain.tabs.SMOOTH", {})
    test = done(visit("explain"))
    assert "no second derivative" in words(test)
    assert any("Histograms" in alt for alt in alts(test)), "the node is shown all the same"
    assert not [j for j in session.board()._jobs.values() if j.kind == "theory"]


@pytest.mark.parametrize("error", [MlossError("device cpu: out of memory"), ValueError("oh no")])
def test_what_fails_is_shown_in_place_and_asked_again_by_a_button(visit, monkeypatch, error, capfd):
    def failing(*arguments):
        raise error
        yield

    with monkeypatch.context() as patch:
        patch.setattr(kinds, "trace_blocks", failing)
        test = done(visit("explain", "node=1:4"))
        assert any(str(error) in e.value for e in test.error)
        failed = [j for j in session.board()._jobs.values() if j.kind == "look"]
        assert len(failed) == 1, "it does not begin again by itself"
    button(test, "Look into block 1").click().run()
    assert done(test).error.len == 0 and "At a typical token" in words(test)


def test_looking_can_be_cancelled(visit, monkeypatch):
    begun = threading.Event()

    def endless(*arguments):
        for event in itertools.repeat(next(trace_blocks(*arguments))):
            yield event
            begun.set()
            time.sleep(0.02)

    monkeypatch.setattr(kinds, "trace_blocks", endless)
    test = visit("explain", "explain=source&node=2:4")
    for _ in range(100):  # the map comes first, and looking begins on the run after it
        if begun.wait(0.5):
            break
        test.run()
    test.run()
    button(test, "Cancel").click().run()
    assert "Cancelled: Looking into block 2" in words(settled(test))
    assert button(test, "Look into block 2")


def test_large_families_are_asked(visit, monkeypatch):
    monkeypatch.setattr(kinds, "NARROW", 1)
    test = visit("explain")
    button(test, "Measure M-Loss along the merge").click().run()
    settled(test)
    assert "Press *Measure curvature and variance*" in words(test)
    button(test, "Measure curvature and variance").click().run()
    assert "of the measured M-Loss" in words(done(test))


def test_few_blocks_stay_looked_into(visit):
    test = done(visit("explain"))
    for block in (0, 1, 2):
        field(test, "Block").set_value(block).run()
        done(test)
    looks = [j for j in session.board()._jobs.values() if j.kind == "look"]
    assert len(looks) <= kinds.KEPT + 1
    assert load("tiny").model.blocks == 3 and "At a typical token" in words(test)
