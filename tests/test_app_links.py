"""What a visitor chooses, and links: kept, bounded, and refused in place."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import shutil
from collections.abc import Callable
from types import SimpleNamespace

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

from mloss_core import load
from views.state import session

BAD_LINKS = {
    "family=../x": "Family: ../x is not a plain name but a path",
    "family=nope": "Family: nope is not known; choose from",
    "keep=7": "Base keep rate k: 7.0 is outside (0, 1]; give a share above 0",
    "keep=abc": "Base keep rate k: abc is not a number; give a share above 0",
    "keep=nan": "Base keep rate k: nan is outside (0, 1]",
    "variation=lots": "Pruning variation e: lots is not a number; give a share from 0 to k",
    "scaling=x": "Scaling λ: x is not a number; give a finite number",
    "sources=apples": "Sources: apples is too few; merging needs at least two sources",
    "sources=nope,apples": "Sources: nope is not known; choose from apples",
    "sources=apples,apples": "Sources: apples is named twice",
    "blocks=5-3": "Blocks trimmed by M-Loss: 5-3 has the reversed range",
    "blocks=0,17": "Blocks trimmed by M-Loss: 0,17 names block 17; blocks are 0 to 2",
    "blocks=0-999999999": "blocks are 0 to 2",
    "saved=few:0,17": "Named choices of blocks: few:0,17 cannot be used; 0,17 names block 17",
    "weights=1,1": "Merging weights: 0.5,0.5 has another number of weights than the 3 sources",
    "weights=0,0,0": "Merging weights: 0,0,0 sums to 0",
    "weights=x": "Merging weights: x is not numbers with commas",
    "samples=0": "Calibration images: 0 is below 1; give at least 1 image",
    "samples=few": "Calibration images: few is not a whole number",
    "seed=-1": "Seed: -1 is below 0; give a whole number from 0",
    "seed=1e3": "Seed: 1e3 is not a whole number",
    "tokens=0": "Tokens per image: 0 is below 1",
    "tokens=6": "Tokens per image: 6 is more than an image has",
    "method=magic": "Method: magic is not known; choose from simple-average",
    "inputs=nope": "Inputs of a block come from: nope is not known; choose from merged, pretrained",
    "loss=nope": "Nodes are ranked by: nope is not known; choose from absolute, squared",
    "group=x": "Nodes per group: x is not a whole number; give at least 1 node",
    "colours=neon": "Colours: neon is not known; choose from log, linear, rank",
    "reference=../x": "Reference run: ../x cannot be used; give a run's id",
    "node=a:b": "Node: a:b cannot be used; the family's nodes run from 0:0 to 2:127",
    "tour=99": "Step of the tour: 99 cannot be used; steps run from 1 to 9",
    "theory_k=abc": "Range K: abc is not a number; give a number from",
    "theory_q=2.5": "Sources q: 2.5 is not a whole number",
}
FOR_DEVELOPERS = ("--", "could not convert", "invalid literal")


OF_PAGES = {
    "compatibility": ["measure=neon", "pair_block=99", "rule=magic", "predictor=luck"],
    "explain": ["explain=neon", "gap_at=moon", "against=../x", "node=9:9"],
    "methods": ["methods=ties,magic", "methods=ensembling", "budget=0", "budget=soon"],
}
# Fit for the library or another family, but past what the pages' own widgets allow.
FAR_LINKS = (
    "keep=0.001&variation=0&scaling=99&weights=500,1,1&group=5000&seed=99999999999&tokens=2",
    "samples=24&scaling=-1",
)


class State(dict):
    """A session's state: items are attributes, too."""

    __getattr__, __setattr__ = dict.__getitem__, dict.__setitem__


@pytest.fixture
def started(family, monkeypatch) -> Callable[[str], State]:
    """The state that a session on the tiny family starts with from a link, without any page."""

    def start(link: str) -> State:
        query = {"family": "tiny"} | dict([link.split("=", 1)])
        state = State()
        fake = SimpleNamespace(
            session_state=state, query_params=SimpleNamespace(to_dict=query.copy)
        )
        monkeypatch.setattr(session, "st", fake)
        assert session.start() is state.wrong
        return state

    return start


@pytest.mark.parametrize("link", BAD_LINKS)
def test_a_bad_link_is_named_until_it_is_dismissed_and_the_defaults_hold(started, link):
    state = started(link)
    assert any(BAD_LINKS[link] in message for message in state.wrong), state.wrong
    assert state.chosen == session.usual(load(state.chosen["family"]))
    session.recipe_of(state.chosen, load(state.chosen["family"]))
    assert session.start() == state.wrong != [], "said until somebody has read it"
    session.dismiss()
    assert session.start() == []


@pytest.mark.parametrize("link", [link for links in OF_PAGES.values() for link in links])
def test_a_bad_choice_of_a_page_is_named(started, link):
    state = started(link)
    assert any(f"{link} was not used" in message for message in state.wrong)
    assert state.chosen == session.usual(load("tiny"))


@pytest.mark.parametrize(
    ("page", "link"), [("compatibility", "rule=magic"), ("explain", "node=9:9")]
)
def test_a_page_says_what_of_its_link_was_not_used(visit, page, link):
    test = visit(page, link)
    assert any(f"{link} was not used" in w.value for w in test.warning)


@pytest.mark.parametrize(
    ("link", "said", "kept"),
    [
        (
            "samples=9999999",
            "Calibration images 9999999: the calibration pool holds 24 images for these sources. "
            "24 are used.",
            {"samples": "24"},
        ),
        (
            "keep=0.3&variation=0.6&seed=9",
            "Pruning variation e 0.6: is more than the base keep rate k = 0.3. e = 0.3 is used.",
            {"keep": "0.3", "variation": "0.3", "seed": "9"},
        ),
    ],
)
def test_what_does_not_fit_the_rest_is_said_and_the_rest_is_kept(visit, link, said, kept):
    test = visit("explore", link)
    assert said in [w.value for w in test.warning]
    chosen = test.session_state["chosen"]
    assert {key: chosen[key] for key in kept} == kept


def test_a_bad_link_says_so_and_the_page_works_with_defaults(visit):
    link = "keep=7"
    test = visit("explore", link)
    assert any(BAD_LINKS[link] in w.value for w in test.warning), words(test)
    said = [e.value for kind in ("warning", "error") for e in getattr(test, kind)]
    assert not any(word in text for word in FOR_DEVELOPERS for text in said)
    chosen = test.session_state["chosen"]
    assert chosen == session.usual(load(chosen["family"]))
    assert view(test)["problem"] == "" and test.error.len == 0
    assert view(test)["setting"]["keep"] == float(chosen["keep"])
    assert go(test, "explore").warning.len, "said until somebody has read it"
    button(test, "Dismiss").click()
    assert go(test, "explore").warning.len == 0


@pytest.mark.parametrize("link", FAR_LINKS)
@pytest.mark.parametrize("page", ["sources", "explain", "explore", "runs"])
def test_links_past_a_widgets_limits_do_no_harm(visit, link, page):
    assert visit(page, link).session_state["wrong"] == []


def test_an_unknown_job_is_said_to_be_gone(visit):
    assert "job of this link is gone" in view(visit("explore", "merge_job=unknown"))["said"]


def test_one_source_only_is_refused_in_place_and_nothing_is_lost(visit):
    test = visit("explore")
    pills(test, "Sources").set_value(["bridges"]).run()
    assert "at least two sources" in sound(test).error[0].value
    for page in ("explain", "explore"):
        go(test, page)
        assert "at least two sources" in test.error[0].value
        assert "job of this link is gone" not in words(test)
    assert "at least two sources" in view(test)["problem"] and not view(test)["live"]
    pills(test, "Sources").set_value(["bridges", "clouds"]).run()
    assert test.error.len == 0 and link_of(test)["sources"] == "bridges,clouds"
    assert "2 sources" in words(settled(go(test, "explain")))


def test_the_usual_calibration_images_come_back_with_the_sources(visit):
    test = visit("explore")
    pills(test, "Sources").set_value([]).run()
    pills(sound(test), "Sources").set_value(["apples", "bridges"]).run()
    assert session_recipe(sound(test)).samples == session.pool_size(
        load("tiny"), ("apples", "bridges")
    )
    pills(test, "Sources").set_value(["apples", "bridges", "clouds"]).run()
    assert session_recipe(sound(test)).samples == 24
    test.number_input(key="w-samples").set_value(5).run()
    pills(test, "Sources").set_value(["apples", "bridges"]).run()
    assert session_recipe(sound(test)).samples == 5, "what somebody chose stays"


def test_weights_are_relative_parts_and_travel_in_the_link(visit):
    test = visit("explore")
    test.number_input(key="weight-tiny-apples").set_value(2.0).run()
    assert session_recipe(sound(test)).weights == (0.5, 0.25, 0.25)
    again = visit("explore", "weights=2,1,1")
    assert [n.value for n in again.number_input if n.key.startswith("weight")] == [2, 1, 1]
    for name in ("apples", "bridges", "clouds"):
        test.number_input(key=f"weight-tiny-{name}").set_value(0.0).run()
    assert "sum to nothing" in test.error[0].value and session_recipe(test).weights is None


def test_the_choice_survives_page_switches_and_a_reload(visit):
    test = choose(visit("explore"), keep=0.3, variation=0.2, method="m-dare", blocks=[0, 2])
    chosen = {"method": "m-dare", "keep": 0.3, "variation": 0.2, "scaling": 1.0, "blocks": [0, 2]}
    for page in ("explain", "sources", "explore"):
        settled(go(test, page))
    assert view(test)["setting"] == chosen
    link = link_of(test)
    assert (link["keep"], link["blocks"]) == ("0.3", "0,2") and "score_job" in link
    again = visit("explore", "keep=0.3&variation=0.2&method=m-dare&blocks=0,2")
    assert view(again)["setting"] == chosen
    assert "k = 0.3, e = 0.2" in words(settled(go(again, "explain")))


def test_another_family_starts_from_its_own_defaults(visit, models, tmp_path, monkeypatch):
    for name in ("tiny", "twin"):
        shutil.copytree(models / "tiny", tmp_path / "two" / name)
    (tmp_path / "two" / "twin" / "sources" / "apples.safetensors").unlink()
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path / "two"))
    test = visit("explore", "keep=0.3")
    test.selectbox[0].select("twin").run()
    assert sound(test).error.len == 0
    recipe = session_recipe(test)
    assert (recipe.family, recipe.sources, recipe.keep) == ("twin", ("bridges", "clouds"), 0.5)
    assert pills(test, "Sources").value == ["bridges", "clouds"]
