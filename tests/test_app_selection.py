"""Choosing blocks on the Explain page: presets, cover, undo, names, the link, and the merge."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import pytest
from visitor import (
    button,
    choose,
    go,
    link_of,
    pills,
    session_recipe,
    settled,
    sound,
    view,
    visit,
    words,
)

from mloss_core import list_runs
from views.state import selection


def blocks(test) -> str:
    return link_of(test).get("blocks", "all")


def metrics(test) -> dict[str, str]:
    return {m.label: m.value for m in test.metric}


def scale(test, label: str):
    return next(s for s in test.slider if s.label.startswith(label))


def test_presets_undo_and_redo_and_what_they_cost(visit):
    test = settled(visit("explain", "explain=blocks"))
    assert metrics(test)["Blocks chosen"] == "3 of 3"
    assert metrics(test)["M-Loss covered"] == metrics(test)["Work of measuring"] == "100%"
    assert button(test, "Undo").disabled and button(test, "Redo").disabled
    button(test, "None").click().run()
    assert blocks(sound(test)) == "none" and metrics(test)["Measuring M-Loss"] == "none"
    assert metrics(test)["Work of measuring"] == "0%" and "which is TIES" in words(test)
    button(test, "Paper: 0,1").click().run()
    assert blocks(sound(test)) == "0,1" and pills(test, "Blocks").value == [0, 1]
    assert metrics(test)["Work of measuring"] == "67%"
    button(test, "Undo").click().run()
    assert blocks(test) == "none"
    button(test, "Undo").click().run()
    assert blocks(test) == "all" and button(test, "Undo").disabled
    button(test, "Redo").click().run()
    button(test, "Redo").click().run()
    assert blocks(test) == "0,1" and button(test, "Redo").disabled
    pills(test, "Blocks").set_value([2]).run()
    assert blocks(sound(test)) == "2" and button(test, "Redo").disabled


def test_so_many_blocks_or_so_much_of_the_m_loss(visit):
    test = settled(visit("explain", "explain=blocks"))
    losses = {b: float(n.mean()) for b, n in list_runs()[0].scores().items()}
    best = max(losses, key=lambda block: losses[block])
    scale(test, "The blocks").set_value(1).run()
    assert blocks(sound(test)) == str(best)
    share = losses[best] / sum(losses.values())
    assert metrics(test)["M-Loss covered"] == f"{share:.0%}"
    assert scale(test, "Cover").value == int(100 * share), "it shows what is covered"
    scale(test, "Cover").set_value(int(100 * share) + 1).run()
    assert len(blocks(sound(test)).split(",")) == 2 and str(best) in blocks(test)
    assert scale(test, "The blocks").value == 2
    scale(test, "Cover").set_value(100).run()
    assert blocks(test) == "all"


def test_a_named_choice_is_saved_in_the_link_taken_and_forgotten(visit):
    test = settled(visit("explain", "explain=blocks&blocks=0,2"))
    test.text_input(key="selection-name").set_value("ends")
    button(test, "Save").click().run()
    assert link_of(sound(test))["saved"] == "ends:0,2"
    button(test, "None").click().run()
    button(test, "ends: 0,2").click().run()
    assert blocks(test) == "0,2"
    test.text_input(key="selection-name").set_value("a;b")
    button(test, "Save").click().run()
    assert "Not saved" in test.error[0].value and link_of(test)["saved"] == "ends:0,2"
    again = visit("explore", "blocks=none&saved=ends:0,2")
    button(again, "ends: 0,2").click().run()
    assert session_recipe(sound(again)).blocks == (0, 2)
    button(test, "Forget").click().run()
    assert "saved" not in link_of(sound(test))


@pytest.mark.parametrize("saved", ["ends", "a:0;a:1", "a:17", "a,b:0"])
def test_a_link_with_bad_names_says_so(visit, saved):
    test = visit("explore", f"saved={saved}")
    assert f"saved={saved} was not used" in test.warning[0].value
    assert "saved" not in link_of(test)


def test_the_choice_is_the_same_on_both_pages(visit):
    test = settled(visit("explain", "explain=blocks"))
    pills(test, "Blocks").set_value([1]).run()
    test = go(test, "explore")
    assert view(test)["setting"]["blocks"] == [1]
    go(choose(test, blocks=None), "explain")
    assert pills(test, "Blocks").value == [0, 1, 2]
    button(test, "Undo").click().run()
    assert blocks(sound(test)) == "1"


def test_merging_a_choice_sets_it_beside_all_blocks_ties_and_the_ensemble(visit):
    test = settled(visit("explain", "explain=blocks&blocks=1"))
    assert "has not been merged yet" in words(test)
    button(test, "Merge with blocks 1").click().run()
    settled(test)
    merged = [r.recipe().blocks for r in list_runs(("merge",))]
    assert sorted(merged, key=str) == [(1,), None], "all blocks, too"
    said = words(test)
    for rival in ("M-TIES, all blocks", "TIES, same k", "ensemble"):
        assert f"{rival}" in said
    assert (
        said.count("95 % interval") >= 3
        and "excludes zero" in said
        and "This choice has been merged" in said
    )
    assert "2 choices tried" in said
    button(test, "None").click().run()
    button(test, "Merge with no block").click().run()
    settled(test)
    assert len(list_runs(("merge",))) == 3, "all blocks were there already"
    assert "3 choices tried" in words(test)
    button(test, "Undo").click().run()
    assert "This choice has been merged" in words(sound(test))
    assert visit("explain", "explain=blocks&blocks=1") is not None
    assert "3 choices tried" in words(settled(visit("explain", "explain=blocks&blocks=1")))
