"""The Merge page's live mode: what it shows, what it replaces, and that it records nothing."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import re
import threading
import time

import numpy as np
import pytest
from visitor import button, go, link_of, merged, settled, slider, sound, visit, words

from mloss_core import Accuracy, MlossError, list_runs
from views.jobs import kinds
from views.merge import live
from views.merge import live as live_table
from views.state import session

TASKS = 3


def page(test) -> str:
    """The live panel's HTML as text."""
    return "\n".join(re.sub(r"<[^>]+>", " ", block.body) for block in test.get("html"))


def numbers(test) -> list[str]:
    """The panel's accuracies with their intervals."""
    return re.findall(r"[\d.]+%\s+\([\d.]+% to [\d.]+%\)", page(test))


def requests():
    return [job for job in session.board()._jobs.values() if job.kind == "live"]


def toggle(test):
    return next(t for t in test.toggle if t.key == "w-live")


def test_the_page_merges_as_it_opens_and_shows_counts_and_intervals(visit, runs):
    test = settled(visit("merge", "samples=6"))
    assert toggle(test).value
    said = page(test)
    assert "M-TIES, 3 sources, k = 0.5, e = 0.1, λ = 1" in said
    assert re.search(r"merged in [\d.]+ s, measured on 12 images per task", said)
    assert len(numbers(test)) == 1 + TASKS, "the average and every task, each with its interval"
    assert "36" in said and "…" not in said, (
        "base and own sources are known, and all images counted"
    )
    assert list_runs() == [] and not list(runs.glob("*/*")), "nothing is recorded"


def test_a_move_of_a_slider_replaces_the_request_and_marks_what_is_former(visit):
    test = settled(visit("merge", "samples=6"))
    before = numbers(test)
    gate = session.board().submit("merge", "in the way", endless)
    slider(test, "keep").set_value(0.8).run()
    said = page(sound(test))
    assert "k = 0.8" in said and "waiting for the work before it" in said
    assert "Still below, in grey: M-TIES, 3 sources, k = 0.5" in said and numbers(test) == before
    for keep in (0.7, 0.6, 0.9):
        slider(test, "keep").set_value(keep).run()
        wanted = [job for job in requests() if job.active and not job.cancelled.is_set()]
        assert [job.spec.keep for job in wanted] == [keep]
    gate.cancel()
    said = page(settled(test))
    assert "k = 0.9" in said and "Still below" not in said and "measured on 12 images" in said
    assert [j.state for j in requests()] == ["finished", *["cancelled"] * 3, "finished"]
    assert [len(j.events) for j in requests()][1:4] == [0, 0, 0], "they never began"


def endless():
    """Work that goes on until it is cancelled."""
    while True:
        time.sleep(0.01)
        yield None


def test_a_setting_seen_before_is_there_at_once(visit):
    test = settled(visit("merge", "samples=6"))
    slider(test, "keep").set_value(0.8).run()
    settled(test)
    slider(test, "keep").set_value(0.5).run()
    assert "k = 0.5" in page(test) and "measured on 12 images per task" in page(test)
    assert len(requests()) == 2


def test_switched_off_nothing_is_merged_until_it_is_launched(visit):
    test = visit("merge", "samples=6&live=off")
    assert not toggle(test).value and requests() == []
    slider(test, "keep").set_value(0.8).run()
    assert requests() == [] and link_of(test)["live"] == "off"
    toggle(test).set_value(True).run()
    assert len(requests()) == 1 and link_of(test)["live"] == "on"
    toggle(settled(test)).set_value(False).run()
    assert "merged in" not in page(test), "the panel has gone with it"


def test_live_and_launched_show_the_same_and_only_launched_is_recorded(visit):
    test = settled(visit("merge", "samples=6"))
    live = numbers(test)
    merged(test)
    assert "Merged in" in test.success[0].value and test.metric.len == TASKS
    (run,) = list_runs()
    table = test.dataframe[0].value.set_index("task")["M-TIES"]
    launched = [re.sub(r"\s+", " ", value) for value in table]
    assert {re.sub(r"\s+", " ", value) for value in live} == set(launched)
    assert run.state == "finished"


def test_a_family_too_wide_waits_for_the_launch_unless_it_is_asked(visit, monkeypatch):
    monkeypatch.setattr(kinds, "NARROW", 8)
    test = visit("merge", "samples=6")
    assert not toggle(test).value and requests() == []
    toggle(test).set_value(True).run()
    assert len(requests()) == 1


@pytest.mark.parametrize("method", ["emr", "ensembling"])
def test_without_a_single_model_the_page_says_so(method, visit):
    test = visit("merge", f"method={method}")
    assert "Not live: this method leaves no single model" in words(test) and requests() == []


def test_what_fails_is_said_in_place_and_not_tried_again_by_itself(visit, monkeypatch):
    test = settled(visit("merge", "samples=6"))
    before = numbers(test)
    with monkeypatch.context() as broken:
        broken.setattr(kinds, "run", failing)
        slider(test, "keep").set_value(0.8).run()
        test = settled(test)
        assert "--keep: no luck" in [error.value for error in test.error]
        assert "Still below, in grey" in page(test) and numbers(test) == before
        test.run()
        assert [job.state for job in requests()] == ["finished", "failed"]
    button(test, "Merge again").click().run()
    test = settled(test)
    assert "k = 0.8" in page(test) and "measured on 12 images" in page(test) and not test.error


def failing(*arguments, **options):
    """Fails on purpose, at once."""
    raise MlossError("--keep: no luck")
    yield


def test_a_merge_that_fails_just_when_it_is_drawn_offers_one_button(visit, monkeypatch):
    gate, drawn = threading.Event(), live._draw

    def late(*arguments, **options):
        gate.wait(20)
        yield from failing()

    def draw(family, recipe, job):
        gate.set()
        job.wait(20)
        drawn(family, recipe, job)

    monkeypatch.setattr(kinds, "run", late)
    monkeypatch.setattr(live, "_draw", draw)
    test = sound(visit("merge", "samples=6"))
    assert [e.value for e in test.error] == ["--keep: no luck"]
    assert [b.label for b in test.button].count("Merge again") == 1


def test_another_window_takes_the_place_and_is_left_in_it(visit):
    test = settled(visit("merge", "samples=6"))
    board = session.board()
    gate = board.submit("merge", "in the way", endless)
    slider(test, "keep").set_value(0.8).run()
    other_job = board.replace("live", "l", endless, spec="of another window", shown=False)
    test = sound(test.run())
    gate.cancel()
    assert any("Another window" in info.value for info in test.info)
    assert other_job.active and not other_job.cancelled.is_set()
    button(test, "Merge again").click().run()
    test = settled(test)
    assert other_job.state == "cancelled" and "measured on 12 images" in page(test)


def test_the_table_escapes_names_and_keeps_its_rows():
    waiting = live_table.Row(title="<b>x</b>")
    measured = live_table.row("<b>x</b>", Accuracy(correct=3, total=4), 0.5, None)
    for former in (False, True):
        markup = live_table.table([waiting, measured], former)
        assert "<b>" not in markup and "&lt;b&gt;" in markup
        assert markup.count("<tr style") == 2 and markup.count("<td") == 10
        assert "75.0%" in markup and "50.0%" in markup and "(30.1% to 95.4%)" in markup
    assert np.isclose(measured.rate[0], 0.75) and measured.images == 4
