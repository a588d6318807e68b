"""MLOSS_MODE: what visitors of a shared server may do; pages say so, and actions refuse."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest
from test_app_runs import kept, ticked
from visitor import button, go, merged, press, settled, sound, view, visit, words

from mloss_core import MergeRecipe, list_runs
from mloss_core.runs import store
from views.explore import look, stream
from views.jobs import kinds, lab, live
from views.shared import nav
from views.state import allowed, session
from views.state.allowed import NotAllowed
from views.state.job_board import JobBoard

LOOKING = "This server is for looking (MLOSS_MODE=view)"
BEGIN = (  # what buttons say that begin work or change something, on all pages
    "Launch and keep", "Compare", "Keep the best", "Measure", "Merge with", "Merge them",
    "Look into", "Delete", "Train", "Merge the checkpoints", "Keep",
)  # fmt: skip
HARMLESS = ("Merge with it on Explore",)  # it only leads there


def begins(label: str) -> bool:
    return label.startswith(BEGIN) and label not in HARMLESS


def recipe_of(family, **changes) -> MergeRecipe:
    return MergeRecipe(family="tiny", method="ties", sources=family.sources, keep=0.5, **changes)


def jobs(kind: str = "") -> list:
    return [j for j in session.board()._jobs.values() if not kind or j.kind == kind]


def slow():
    """Work of a minute and more."""
    for number in range(9999):
        yield number
        allowed.time.sleep(0.01)


def later(monkeypatch, seconds: float) -> None:
    """So much time passes for the limit."""
    now = allowed.time.monotonic()
    monkeypatch.setattr(allowed.time, "monotonic", lambda: now + seconds)


@pytest.fixture
def viewing(monkeypatch):
    monkeypatch.setenv("MLOSS_MODE", "view")


@pytest.fixture
def in_class(monkeypatch):
    monkeypatch.setenv("MLOSS_MODE", "class")


@pytest.mark.parametrize("page", [*nav.TITLES, "explain?", "compatibility?"])
def test_looking_begins_and_writes_nothing_on_any_page(page, visit, viewing, runs):
    """Tabs of Explain are pages, too."""
    link = "explain=left" if page == "explain?" else "view=lecture" if page.endswith("?") else ""
    test = settled(visit(page.rstrip("?"), link))
    assert {job.kind for job in jobs()} <= set(allowed.ONCE)
    assert not runs.exists()
    enabled = [b.label for b in test.button if begins(b.label) and not b.disabled]
    assert enabled == []
    barred = [b for b in test.button if begins(b.label)]
    assert [b.label for b in barred if LOOKING not in b.help] == []


BEGUN = {
    "merge": lambda f, r: kinds.merge(f, r),
    "score": lambda f, r: kinds.score(f, r),
    "experiment": lambda f, r: kinds.experiment("methods", f, r),
    "compare": lambda f, r: kinds.compare(f, [r]),
    "theory": lambda f, r: kinds.theory(f, r),
    "compatibility": lambda f, r: kinds.measure(f, r),
    "study": lambda f, r: kinds.predict(f, r),
    "gap": lambda f, r: kinds.gap(f, r, f.tasks),
    "look": lambda f, r: kinds.look(f, r, 0),
    "live": lambda f, r: live.ask("me", f, r),
    "details": lambda f, r: live.details("me", f, r),
    "grid": lambda f, r: live.grid(f, r),
    "along": lambda f, r: lab.merges(SimpleNamespace(key=0, lesson=SimpleNamespace(title="l")), ()),
    "finetune": lambda f, r: lab.train(SimpleNamespace(lesson=SimpleNamespace(title="l"))),
}


@pytest.mark.parametrize("kind", BEGUN)
def test_looking_no_kind_of_job_is_begun(kind, visit, family, viewing, runs):
    """Whatever a button, a route or a page of somebody's own asks for."""
    with pytest.raises(NotAllowed, match="for looking"):
        BEGUN[kind](family, recipe_of(family))
    assert jobs() == [] and not runs.exists()


@pytest.mark.parametrize(("why", "pressed"), [("", True), ("Not now.", False)])
def test_a_button_that_is_not_allowed_is_never_pressed(why, pressed):
    """Whatever a browser sends."""
    given = []
    place = SimpleNamespace(button=lambda label, **options: given.append(options) or True)
    assert allowed.button("Delete", why, place, help="Gone.") is pressed
    assert given == [{"help": "Gone."} if pressed else {"disabled": True, "help": why}]


def test_looking_the_view_says_why_and_a_launch_is_refused(visit, viewing, runs):
    test = visit("explore")
    data = view(test)
    assert LOOKING in data["barred"] and data["live"] is False
    press(test, "launch")
    assert jobs("merge") == [] and not runs.exists()


def test_looking_the_routes_of_the_view_begin_nothing(family, visit, viewing):
    async def lines():
        return [
            json.loads(line) async for line in stream.lines({"family": "tiny", "visitor": "me"})
        ]

    visit("explore")
    (said,) = asyncio.run(lines())
    assert LOOKING in said["note"] and said["end"]
    said = asyncio.run(look.answer({"family": "tiny", "node": "0:1"}))
    assert LOOKING in said["error"]
    assert {job.kind for job in jobs()} <= set(allowed.ONCE)


def test_looking_no_run_is_renamed_or_deleted(visit, family, viewing):
    run = kept(family)
    test = ticked(visit("runs"), run)
    assert LOOKING in button(test, "Delete").help and button(test, "Delete").disabled
    name = test.text_input(key=f"name-{run.id}")
    assert name.disabled and LOOKING in name.help


def test_a_class_deletes_and_renames_its_own_runs_and_no_others(visit, in_class):
    mine = merged(visit("explore"))
    (run,) = list_runs(("merge",))
    other = ticked(visit("runs"), run)
    assert button(other, "Delete").disabled and "whoever began" in button(other, "Delete").help
    assert other.text_input(key=f"name-{run.id}").disabled
    own = ticked(go(mine, "runs"), run)
    assert not button(own, "Delete").disabled
    own.text_input(key=f"name-{run.id}").set_value("my first").run()
    assert list_runs(("merge",))[0].title == "my first"
    button(sound(own), "Delete").click().run()
    assert list_runs(("merge",)) == []
    button(sound(own), "Undo").click().run()
    assert [r.id for r in list_runs(("merge",))] == [run.id]


def test_a_name_that_changed_elsewhere_is_not_changed_back(visit, family, in_class):
    run = kept(family)
    test = ticked(visit("runs"), run)
    store.rename(run.id, "another's")
    sound(test.run())
    assert list_runs()[0].title == "another's" and not test.error


def test_a_class_cancels_its_own_jobs_and_no_others(visit, in_class):
    test = visit("runs")
    job = session.board().submit("merge", "A long one", slow)
    assert job.owner == "", "nobody's page asked for it"
    test.run()
    assert button(test, "Cancel").disabled and "Somebody else" in button(test, "Cancel").help
    job.owner = test.session_state["visitor"]
    button(test.run(), "Cancel").click().run()
    assert job.cancelled.is_set()


def test_a_class_may_begin_so_many_jobs_and_goes_on_later(visit, in_class, monkeypatch):
    monkeypatch.setattr(allowed, "JOBS", 2)
    first, second = visit("methods"), visit("methods")
    for _ in range(2):
        button(first, "Launch and keep").click().run()
        settled(first)
    assert len(jobs("merge")) == 2
    launch = button(first, "Launch and keep")
    assert launch.disabled and "You have begun 2 jobs in the last 10 min 0 s" in launch.help
    assert not button(second.run(), "Launch and keep").disabled, "each has a limit of his own"
    later(monkeypatch, allowed.WINDOW)
    assert not button(sound(first.run()), "Launch and keep").disabled


def test_what_a_page_begins_by_itself_does_not_count(visit, in_class):
    test = settled(visit("explain"))
    assert jobs("score") and test.session_state["jobs-begun"] == {}


def test_two_merges_of_one_click_are_begun_together_or_not_at_all(visit, in_class, monkeypatch):
    test = settled(visit("explain", "explain=blocks&blocks=0"))
    monkeypatch.setattr(allowed, "JOBS", 2)
    test.session_state["jobs-begun"] = {"another": allowed.time.monotonic()}
    sound(test.run())
    some = next(b for b in test.button if b.label.startswith("Merge with"))
    assert some.disabled and jobs("merge") == []


def test_the_board_itself_refuses(family, viewing):
    board = JobBoard(admit=allowed.admit)
    with pytest.raises(NotAllowed, match="for looking"):
        board.submit("merge", "m", lambda: iter(()))
    with pytest.raises(NotAllowed, match="for looking"):
        board.ask("me", "live", "l", lambda: iter(()), spec=recipe_of(family))
    assert board._jobs == {} and board.find("live", recipe_of(family)) is None
    board.submit("references", "r", lambda: iter(())).wait(10)


def test_without_a_mode_everything_is_as_on_ones_own_machine(visit, family):
    run = kept(family)
    test = ticked(visit("runs"), run)
    assert not button(test, "Delete").disabled and not button(test, "Delete").help
    button(test, "Delete").click().run()
    assert list_runs(store.KINDS) == []
    assert view(visit("explore"))["barred"] == "" and kinds.NARROW
