"""The Compatibility page as a visitor finds it: happy, empty, failed, linked."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import time

import pytest
from visitor import button, go, link_of, pills, settled, sound, visit, words

from mloss_core import list_runs
from mloss_core.errors import MlossError
from views.jobs import kinds
from views.state import session


def chosen(test, label):
    return next(s for s in test.selectbox if s.label == label)


def test_a_small_family_is_measured_without_being_asked(visit):
    test = settled(visit("compatibility"))
    assert test.title[0].value == "Compatibility" and test.error.len == 0
    said = words(test)
    for heading in (
        "Pair by pair",
        "The chosen set",
        "Leave this source out",
        "Does M-Loss predict?",
    ):
        assert heading in said
    assert "Leaving out" in said and "sum over 3 of 3 blocks" in said
    alts = [e.proto.alt for e in test.get("plotly_chart") if hasattr(e.proto, "alt")]
    assert all(alts)
    names = [e.proto.label for e in test.get("download_button")]
    assert names == ["CSV: pairs", "CSV: set", "CSV: left out"]


def test_choices_are_in_the_link_and_come_back_from_it(visit):
    test = settled(visit("compatibility"))
    chosen(test, "M-Loss of a block").select("node").run()
    chosen(test, "Blocks").select("2").run()
    link = link_of(test)
    assert (link["measure"], link["pair_block"]) == ("node", "2")
    again = settled(visit("compatibility", "measure=node&pair_block=2&rule=simple-average"))
    assert chosen(again, "Blocks").value == "2" and "block 2" in words(again)
    assert again.session_state["chosen"]["rule"] == "simple-average"


def test_two_sources_say_why_there_is_nothing_to_leave_out(visit):
    test = settled(visit("compatibility", "sources=apples,clouds"))
    assert "Choose three sources or more" in words(test)
    assert "too few to correlate" in words(test)


def test_one_source_is_refused_in_place(visit):
    test = settled(visit("compatibility"))
    pills(test, "Sources in question").set_value(["bridges"]).run()
    assert any("too few" in e.value for e in test.error)


def test_the_study_and_the_gap_are_measured_when_asked(visit):
    test = settled(visit("compatibility"))
    assert "Press *Merge them and see*" in words(test)
    button(test, "Merge them and see").click().run()
    settled(test)
    assert "nothing can be said: it takes 10 or more" in words(test), "three pairs are too few"
    assert len(list_runs(("cell",))) == 4
    button(test, "Measure the ensemble gap").click().run()
    settled(test)
    assert "the ensemble" in words(test) and "paired on 36 images" in words(test)
    names = [e.proto.label for e in test.get("download_button")]
    assert names[3:] == ["CSV: merged sets", "CSV: correlations", "CSV: ensemble gap"]
    assert test.error.len == 0


@pytest.mark.parametrize("error", [MlossError("device cpu: out of memory"), ValueError("oh no")])
def test_a_failed_measurement_is_shown_and_can_be_tried_again(visit, monkeypatch, error, capfd):
    def failing(*arguments, **options):
        raise error
        yield

    monkeypatch.setattr(kinds, "losses_of_sets", failing)
    test = settled(visit("compatibility"))
    assert any(str(error) in e.value for e in test.error)
    monkeypatch.undo()


def test_what_a_page_began_by_itself_stands_back_when_the_page_is_left(visit, monkeypatch):
    def endless(*arguments):
        while True:
            time.sleep(0.01)
            yield None

    def jobs(kind: str):
        return [job for job in session.board()._jobs.values() if job.kind == kind]

    monkeypatch.setattr(kinds, "losses_of_sets", endless)
    test = visit("compatibility")
    (left,) = jobs("compatibility")
    assert left.active and not left.idle
    test = go(test, "explain")
    end = time.monotonic() + 30
    while not jobs("score") or jobs("score")[0].state != "finished":
        assert time.monotonic() < end, "the page that is open waits for the one that was left"
        test = sound(test.run())
    assert left.active and left.idle
    go(test, "compatibility")
    assert left.active and not left.idle, "it goes on where somebody looks at it"
