"""views/state/job_board.py: one worker, append-only logs, cancel in two seconds, nothing lost."""

from __future__ import annotations

import threading
import time

import pytest

from mloss_core.errors import MlossError
from views.state.job_board import GAVE_WAY, GIVES_WAY, IDLE, JobBoard


@pytest.fixture
def board():
    board = JobBoard(keep=3)
    yield board
    for job in list(board._jobs.values()):  # no worker is left behind at work
        job.cancel()


def until(true, seconds: float = 20.0) -> float:
    """Waits for it; returns how long that took."""
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < seconds, "it never came"
        time.sleep(0.005)
    return time.monotonic() - start


def endless(closed: list | None = None):
    """Events for ever; says when it is closed."""
    try:
        for number in range(10**9):
            yield number
            time.sleep(0.01)
    finally:
        if closed is not None:
            closed.append(True)


def listed(events):
    """A generator of these events."""
    yield from events


def giving_way(gate, before, after):
    """A job that from some event on lets others in, until the gate opens."""
    yield from before
    yield GIVES_WAY
    gate.wait(20)
    yield from after


def gated(gate: threading.Event, events):
    """These events, once the gate is open."""
    gate.wait(20)
    yield from events


def test_events_are_logged_in_order_and_finish_sees_them_all(board):
    job = board.submit("merge", "m", lambda: listed("abc"), finish=lambda log: "".join(log))
    until(lambda: not job.active)
    assert (job.state, job.events, job.result, job.error) == ("finished", list("abc"), "abc", "")
    assert board.get(job.id) is job and board.get("no such job") is None
    assert job.seconds == job.ended - job.started >= 0


def test_a_running_job_is_cancelled_within_two_seconds_and_closed(board):
    closed: list[bool] = []
    job = board.submit("merge", "m", lambda: endless(closed), finish=lambda log: "never")
    until(lambda: len(job.events) > 2)
    assert job.state == "running"
    job.cancel()
    assert until(lambda: not job.active) < 2
    assert (job.state, job.result, closed) == ("cancelled", None, [True])
    assert job.events == list(range(len(job.events))), "what was measured stays"


def test_a_waiting_job_is_cancelled_at_once_and_never_begins(board):
    begun = []
    first = board.submit("merge", "first", endless)
    until(lambda: first.state == "running")
    second = board.submit("merge", "second", lambda: begun.append(True) or listed(()))
    third = board.submit("merge", "third", lambda: listed("x"))
    assert second.state == "queued" and board.active() == [first, second, third]
    second.cancel()
    assert second.state == "cancelled" and board.active() == [first, third]
    first.cancel()
    until(lambda: third.state == "finished")
    assert begun == [] and second.state == "cancelled" and second.seconds == 0


def test_a_failure_on_purpose_shows_its_own_text(board):
    def events():
        yield 1
        raise MlossError("--keep 7: is outside (0, 1]; give a share such as 0.2")

    job = board.submit("merge", "m", events)
    until(lambda: not job.active)
    assert (job.state, job.events) == ("failed", [1])
    assert job.error == "--keep 7: is outside (0, 1]; give a share such as 0.2"


@pytest.mark.parametrize("where", ["events", "start", "finish"])
def test_an_unexpected_failure_is_shown_logged_and_stops_nothing(board, where, capfd):
    def broken(*_):
        raise ZeroDivisionError("no luck")

    def events():
        yield 1
        if where == "events":
            broken()

    finish = {"finish": broken} if where == "finish" else {}
    job = board.submit("merge", "m", broken if where == "start" else events, **finish)
    until(lambda: not job.active)
    assert (job.state, job.error) == ("failed", "unexpected ZeroDivisionError: no luck")
    assert job.ended >= job.started > 0
    assert "Traceback" in capfd.readouterr().err, "the server's log has it whole"
    after = board.submit("merge", "after", lambda: listed("x"))
    until(lambda: after.state == "finished")


def test_idle_work_gives_way_and_resumes(board):
    order: list[str] = []
    gate = threading.Event()

    def idle():
        for number in range(3):
            order.append(f"idle {number}")
            yield number
            gate.wait(20)

    def urgent(name):
        order.append(name)
        yield name

    job = board.submit("references", "idle", idle, idle=True)
    until(lambda: job.events == [0])
    first = board.submit("merge", "a", lambda: urgent("a"))
    second = board.submit("merge", "b", lambda: urgent("b"))
    assert board.active() == [first, second], "idle work is not shown"
    gate.set()
    until(lambda: job.state == "finished")
    assert first.state == second.state == "finished"
    assert order == ["idle 0", "idle 1", "a", "b", "idle 2"] and job.events == [0, 1, 2]


def test_an_urgent_job_that_fails_leaves_the_idle_one_alone(board):
    gate = threading.Event()
    idle = board.submit("references", "idle", lambda: gated(gate, "xy"), idle=True)
    until(lambda: idle.state == "running")

    def failing():
        raise MlossError("no")
        yield

    urgent = board.submit("merge", "m", failing)
    gate.set()
    until(lambda: not idle.active)
    assert (urgent.state, idle.state, idle.events) == ("failed", "finished", ["x", "y"])


def test_idle_work_waits_for_what_was_asked_first(board):
    gate = threading.Event()
    first = board.submit("merge", "a", lambda: gated(gate, "x"))
    idle = board.submit("references", "idle", lambda: listed("y"), idle=True)
    last = board.submit("merge", "b", lambda: listed("z"))
    gate.set()
    until(lambda: idle.state == "finished")
    assert first.started <= last.started <= idle.started


def test_find_offers_what_works_or_is_done_only(board):
    spec = ("recipe", 1)
    gate = threading.Event()
    working = board.submit("score", "s", lambda: gated(gate, "x"), spec=spec)
    assert board.find("score", spec) is working
    assert board.find("merge", spec) is None and board.find("score", ("other", 1)) is None
    gate.set()
    until(lambda: working.state == "finished")
    newer = board.submit("score", "s", endless, spec=spec)
    assert board.find("score", spec) is newer
    newer.cancel()
    until(lambda: not newer.active)
    assert board.find("score", spec) is working, "not the cancelled one"


def test_find_passes_over_what_failed(board):
    job = board.submit("score", "s", lambda: 1 / 0, spec="spec")
    until(lambda: job.state == "failed")
    assert board.find("score", "spec") is None
    assert board.find("score", "spec", failed=True) is job


def test_only_so_many_ended_jobs_are_kept_and_no_active_one_is_dropped(board):
    jobs = []
    for number in range(5):
        jobs.append(board.submit("merge", str(number), lambda: listed("x")))
        until(lambda: not jobs[-1].active)
    waiting = [board.submit("merge", "w", endless) for _ in range(5)]
    assert [board.get(job.id) for job in jobs] == [None, None, *jobs[2:]]
    assert [board.get(job.id) for job in waiting] == waiting


def wanted(board, kind="live"):
    """Jobs of that kind that anybody still wants: active, and not on their way out."""
    jobs = list(board._jobs.values())
    return [j for j in jobs if j.active and j.kind == kind and not j.cancelled.is_set()]


def asked(board, number, events, visitor="me"):
    """What a visitor asks for in place of what he asked for before."""
    return board.ask(visitor, "live", "l", events, spec=number, shown=False)


@pytest.mark.parametrize("busy", [False, True])
def test_of_a_burst_of_requests_only_the_newest_is_ever_wanted_or_queued(board, busy):
    begun: list[int] = []
    if busy:  # something that was launched is at work, and the requests wait
        launched = board.submit("merge", "m", endless)
        until(lambda: launched.state == "running")

    def events(number):
        begun.append(number)
        yield from endless()

    for number in range(20):
        newest = asked(board, number, lambda n=number: events(n))
        assert wanted(board) == [newest]
    if busy:
        assert begun == [] and launched.state == "running", "what was launched is left alone"
        launched.cancel()
    until(lambda: newest.state == "running" and bool(newest.events))
    others = [j for j in board._jobs.values() if j.kind == "live" and j is not newest]
    assert {j.state for j in others} <= {"cancelled"} and begun[-1] == 19
    assert begun == [19] if busy else len(begun) <= 20
    assert board.find("live", 18) is None and board.find("live", 19) is newest


def test_a_job_that_is_being_replaced_is_not_found_again(board):
    gate = threading.Event()
    first = asked(board, "a", lambda: gated(gate, "xy"))
    until(lambda: first.state == "running")
    second = asked(board, "b", lambda: listed("z"))
    assert first.active and board.find("live", "a") is None
    gate.set()
    until(lambda: second.state == "finished")
    assert first.state == "cancelled" and first.events == ["x"]


def test_from_gives_way_on_a_job_lets_others_in_and_is_no_event(board):
    gate = threading.Event()
    job = board.submit("live", "l", lambda: giving_way(gate, ["merged"], ["refined", "done"]))
    until(lambda: job.idle)
    other = board.submit("merge", "m", lambda: listed("x"))
    assert other.state == "queued"
    gate.set()
    until(lambda: job.state == "finished")
    assert other.state == "finished" and job.events == ["merged", "refined", "done"]
    assert other.ended <= job.ended


def test_what_gave_way_comes_before_idle_work_and_in_its_order(board):
    """Twenty pupils' refinements wait in a row, not in a heap on top of each other."""
    order: list[str] = []
    gate, opened = threading.Event(), threading.Event()

    def refined(name):
        yield GIVES_WAY
        opened.wait(20)
        order.append(name)
        yield name

    first = board.submit("merge", "m", lambda: gated(gate, "x"))
    idle = board.submit("references", "r", lambda: order.append("idle") or listed("x"), idle=True)
    jobs = [asked(board, n, lambda n=n: refined(str(n)), f"visitor {n}") for n in range(20)]
    gate.set()
    until(lambda: all(job.idle for job in jobs))
    opened.set()
    until(lambda: not idle.active)
    assert first.state == "finished"
    assert order == [*map(str, range(20)), "idle"]


def test_each_visitor_keeps_a_wish_of_his_own_and_equal_wishes_are_done_once(board):
    gate = threading.Event()
    mine = asked(board, "a", lambda: gated(gate, "x"), "me")
    yours = asked(board, "b", lambda: listed("y"), "you")
    same = asked(board, "a", lambda: listed("never"), "third")
    assert same is mine and not mine.cancelled.is_set() and not yours.cancelled.is_set()
    asked(board, "c", lambda: listed("z"), "me")
    assert not mine.cancelled.is_set(), "the third still wants it"
    asked(board, "c", lambda: listed("z"), "third")
    assert mine.cancelled.is_set(), "nobody wants it any more"
    gate.set()
    until(lambda: yours.state == "finished" and mine.state == "cancelled")


def test_what_stood_back_and_is_cancelled_is_closed_while_others_work(board):
    closed: list[bool] = []
    idle = board.submit("references", "r", lambda: endless(closed), idle=True)
    until(lambda: idle.events != [])
    urgent = board.submit("merge", "m", endless)
    until(lambda: urgent.state == "running")
    idle.cancel()
    assert until(lambda: idle.state == "cancelled") < 2 and closed == [True]
    assert urgent.state == "running" and idle.over.is_set()


def test_settings_tried_do_not_push_out_what_was_launched(board):
    launched = board.submit("merge", "m", lambda: listed("x"))
    until(lambda: not launched.active)
    for number in range(10):
        job = asked(board, number, lambda: listed("x"))
        until(lambda job=job: not job.active)
    assert board.get(launched.id) is launched
    assert len([j for j in board._jobs.values() if j.kind == "live"]) <= 4


def test_what_its_own_page_shows_is_told_of_on_no_other(board):
    job = board.submit("live", "l", endless, shown=False)
    until(lambda: job.state == "running")
    assert board.active() == []


def test_what_is_moved_goes_before_or_after_others(board):
    order: list[str] = []
    gate = threading.Event()
    first = board.submit("merge", "m", lambda: gated(gate, "x"))

    def named(name):
        order.append(name)
        yield name

    left = board.submit("compatibility", "of the page that was left", lambda: named("left"))
    here = board.submit("look", "of the page that is open", lambda: named("here"))
    board.move(left, IDLE)
    board.move(here, GAVE_WAY)
    asked = board.submit("merge", "asked for", lambda: named("asked"))
    assert board.active() == [first, here, asked] and left.idle
    gate.set()
    until(lambda: not left.active)
    assert order == ["asked", "here", "left"]
    board.move(left, GAVE_WAY)
    assert left.state == "finished", "what has ended stays where it is"


def test_a_running_job_that_is_moved_back_lets_the_next_one_in(board):
    running = board.submit("compatibility", "of the page that was left", endless)
    until(lambda: running.events != [])
    board.move(running, IDLE)
    other = board.submit("look", "here", lambda: listed("x"))
    until(lambda: other.state == "finished")
    assert running.state == "running"
