"""The guided tour, the lecture view and the reset, as a visitor without a browser meets them."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import pytest
from visitor import (
    button,
    choose,
    compared,
    go,
    link_of,
    merged,
    pills,
    settled,
    slider,
    sound,
    view,
    visit,
    words,
)

from mloss_core import BlockScored, families, load
from mloss_core.recipe import check
from views.shared import nav
from views.state import link, session, tour_steps

NUMBERS = range(1, len(tour_steps.STEPS) + 1)


def place(test) -> int | None:
    return tour_steps.place(test.session_state["chosen"]["tour"])


def labels(test) -> set[str]:
    return {b.label for b in test.button} | {e.label for e in test.expander}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", ["tiny", "demo", "contrast"])
def test_every_step_sets_what_its_page_can_show(family, name, number):
    if name not in families():
        pytest.skip(f"family {name} is not built")
    chosen, step = load(name), tour_steps.STEPS[number - 1]
    fields = tour_steps.settings(str(number), chosen.model.blocks)
    state = session.usual(chosen) | fields | {"tour": str(number)}
    for key in (*fields, "tour"):
        link.fields(chosen)[key].parse(state[key])
    check(session.recipe_of(state, chosen), chosen)
    assert step.page in nav.TITLES and fields.keys() <= set(link.FIELDS)
    assert step.question.endswith("?") and step.answer and step.words


@pytest.mark.parametrize("number", NUMBERS)
def test_every_step_opens_its_page_and_says_what_it_is(visit, number):
    step = tour_steps.STEPS[number - 1]
    test = visit(step.page, f"tour={number}")
    assert test.warning.len == 0 and test.error.len == 0
    assert f"Step {number} of {len(tour_steps.STEPS)} · **{step.title}**" in words(test)
    folded = next(e for e in test.expander if step.question in e.label)
    assert step.answer in [m.value for m in folded.markdown] and not folded.proto.expanded
    fields = tour_steps.settings(str(number), 3)
    assert {k: test.session_state["chosen"][k] for k in fields} == fields
    assert link_of(test).get("tour") == str(number) and not fields.keys() & link_of(test).keys()


def test_the_tour_goes_on_and_back_and_leaves_nothing_of_a_step_in_the_next(visit):
    test = visit()
    button(test, "Tour").click().run()
    steps = [place(test)]
    for _ in tour_steps.STEPS[1:]:
        if place(test) == 5:
            choose(test, keep=0.9)
        button(test, "Next").click().run()
        steps.append(place(sound(test)))
        assert tour_steps.STEPS[steps[-1] - 1].words in words(test)
        if place(test) == 6:
            assert view(test)["setting"]["keep"] == 0.5
            assert (
                view(test)["setting"]["method"] == "m-ties" and view(test)["look"]["by"] == "keep"
            )
    assert steps == list(NUMBERS) and button(test, "Next").disabled
    button(test, "Back").click().run()
    assert place(sound(test)) == len(tour_steps.STEPS) - 1


def test_the_tour_is_left_with_all_settings_and_resumed_where_it_was(visit):
    test = choose(visit("explore", "tour=6"), keep=0.7)
    button(test, "Leave").click().run()
    assert "Step 6" not in words(sound(test)) and view(test)["setting"]["keep"] == 0.7
    assert link_of(test)["tour"] == "left-6"
    go(test, "sources")
    again = visit("sources", "tour=left-6")  # another session, by the link
    for visitor in (test, again):
        button(visitor, "Resume tour at step 6").click().run()
        assert place(sound(visitor)) == 6 and tour_steps.STEPS[5].words in words(visitor)
        assert view(visitor)["setting"]["keep"] == 0.5


def test_every_step_can_be_reached_from_every_other(visit):
    test = visit("sources", "tour=1")
    button(test, f"5. {tour_steps.STEPS[4].title}").click().run()
    assert place(sound(test)) == 5 and view(test)["setting"]["method"] == "ties"
    button(test, f"7. {tour_steps.STEPS[6].title}").click().run()
    assert test.session_state["chosen"]["blocks"] == "0,1"
    assert view(test)["setting"]["blocks"] == [0, 1], "the view follows on the page that is shown"


def test_a_link_holds_what_was_changed_at_a_step(visit):
    test = visit("theory", "tour=2&theory_s=1")
    assert slider(test, "theory_s").value == 1 and link_of(test)["theory_s"] == "1"
    again = visit("explore", "tour=7&blocks=all&keep=0.7")
    assert again.session_state["chosen"]["blocks"] == "all"
    assert link_of(again) == {"family": "tiny", "keep": "0.7", "blocks": "all", "tour": "7"}


def test_a_short_link_opens_the_page_of_its_step(visit, monkeypatch):
    test = visit()
    from streamlit.testing.v1 import AppTest

    monkeypatch.setenv("MLOSS_MODELS", str(load("tiny").folder.parent))
    fresh = AppTest.from_file(test._script_path, default_timeout=120)
    fresh.query_params["tour"] = "5"
    fresh.run()
    assert place(sound(fresh)) == 5 and view(fresh)["target"] == "right"


@pytest.mark.parametrize("value", ["0", "10", "-1", "x", "left-", "left-0", "1.5", "٣٣"])
def test_a_link_to_no_step_says_so(visit, value):
    test = visit("explore", f"tour={value}")
    assert f"tour={value} was not used" in words(test) and place(test) is None


def test_answers_say_what_is_measured_and_nothing_before(visit):
    assert "this line says what was found" in words(visit("explore", "tour=3&live=off"))
    test = settled(go(settled(visit("explain")), "explain"))
    button(test, "Tour").click().run()
    button(test, f"3. {tour_steps.STEPS[2].title}").click().run()
    means = {s.block: s.node.mean() for s in _scores(test)}
    most = max(means, key=means.__getitem__)
    assert f"block {most} has the highest mean" in words(sound(test))
    button(test, "Next").click().run()
    assert "has the highest M-Loss" in words(settled(test))


def _scores(test):
    job = session.board().get(test.session_state["chosen"]["score_job"])
    return [e.scores for e in job.events if isinstance(e, BlockScored)]


# Of each page, what a class does not need, and what it does.
LECTURE = {
    "sources": (set(), set()),
    "explain": (set(), {"Highest node of all"}),
    "explore": ({"Released code and controls"}, {"Named choices of blocks"}),
    "theory": ({"Where the numbers come from"}, {"Measure this family"}),
    "experiments": ({"Published numbers (not measured here)"}, {"Measure, or go on"}),
    "compatibility": ({"Measure the ensemble gap"}, set()),
    "methods": ({"Settings of this method"}, {"Compare", "Launch and keep"}),
    "runs": (set(), set()),
}


@pytest.mark.parametrize("page", LECTURE)
def test_the_lecture_view_hides_what_a_class_does_not_need(visit, page):
    hidden, kept = LECTURE[page]
    full = settled(visit(page))
    assert hidden | kept <= labels(full), labels(full)
    lecture = settled(visit(page, "view=lecture"))
    assert not hidden & labels(lecture) and kept <= labels(lecture)
    assert {box.label for box in lecture.number_input} <= {"Block", "Node"}  # to look at one node
    assert link_of(lecture)["view"] == "lecture"
    button(lecture, "Full view").click().run()
    assert hidden <= labels(settled(lecture)) and "view" not in link_of(lecture)


def test_a_merge_in_the_lecture_view_shows_its_table_and_verdict(visit):
    test = compared(visit("explore", "view=lecture"))
    assert view(test)["lecture"] and view(test)["kept"] is None
    assert "TIES at the same k" in words(test) and test.dataframe.len
    assert not test.get("link_button")


@pytest.mark.parametrize("page", ["explore", "sources", "explain", "theory"])
def test_reset_brings_every_setting_back_and_keeps_the_view(visit, page):
    far = "keep=0.9&variation=0.3&blocks=1&sources=apples,clouds&weights=2,1&group=3&theory_s=3"
    test = settled(visit(page, f"{far}&tour=5&view=lecture&reference=x"))
    button(test, "Reset").click().run()
    test = settled(test)
    usual = session.usual(load("tiny")) | {"view": "lecture"}
    usual["theory_job"] = test.session_state["chosen"]["theory_job"]
    usual["score_job"] = test.session_state["chosen"]["score_job"]
    assert test.session_state["chosen"] == usual
    if page == "explore":
        assert view(test)["setting"]["keep"] == 0.5 and view(test)["setting"]["blocks"] is None
    if page == "explore":
        assert pills(test, "Sources").value == ["apples", "bridges", "clouds"]


def test_a_merge_of_the_step_before_stays_in_sight(visit):
    test = merged(visit("explore", "tour=5"))
    button(test, "Next").click().run()
    assert view(sound(test))["kept"]
