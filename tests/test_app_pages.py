"""Every page as a visitor finds it: happy, empty, with a failed or cancelled job."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from pathlib import Path

import pytest
from safetensors import safe_open
from starlette.requests import Request
from visitor import (
    button,
    choose,
    compared,
    go,
    merged,
    pills,
    press,
    settled,
    view,
    visit,
    words,
)

import app
from mloss_core import METHODS, list_runs, run
from mloss_core.errors import MlossError
from views.jobs import kinds
from views.state.job_board import Job


def test_the_first_screen_says_what_this_is_and_shows_the_family(visit):
    test = settled(visit("explore"))
    assert "This app measures it" in words(test) and test.error.len == 0 and test.warning.len == 0
    shown = view(test)
    assert [task["title"] for task in shown["tasks"]] == ["Apples", "Bridges", "Clouds"]
    assert pills(test, "Sources").value == ["apples", "bridges", "clouds"]
    assert shown["live"] and shown["problem"] == "" and shown["sources"] == 3
    marks = shown["picture"]["references"]
    assert {model: of["average"][0] for model, of in marks.items()}.keys() == {
        "base", "own", "ensembling",
    }  # fmt: skip
    assert all(of["tasks"]["apples"][3] == 12 for of in marks.values()), "each with its count"


def test_the_sources_page_measures_each(visit):
    test = settled(visit())
    assert test.title[0].value == "Sources"
    table = test.dataframe[0].value
    assert list(table["source"]) == ["Apples", "Bridges", "Clouds"]
    assert table["own task, this source"].str.contains("n = 12").all()
    assert table["own task, base"].str.contains("n = 12").all()
    assert test.error.len == 0 and test.warning.len == 0
    assert "3 sources" in words(test).replace("*", "")


def test_what_a_merge_has_measured_the_sources_page_knows(visit, monkeypatch):
    gone = Job("1", "references", "never begun", None)
    monkeypatch.setattr(kinds, "begin_references", lambda family: None)
    monkeypatch.setattr(kinds, "references", lambda family, again=False: gone)
    test = merged(visit("explore", "live=off"))
    table = go(test, "sources").dataframe[0].value
    assert table["own task, this source"].str.contains("n = 12").all()
    assert table["own task, base"].str.contains("n = 12").all()


def test_a_finished_merge_is_shown_compared_and_can_be_downloaded(visit):
    test = visit("explore")
    assert "Nothing is kept yet" in words(press(test, "compare"))
    assert view(test)["kept"] is None and not view(test)["isKept"]
    test = compared(visit("explore"))
    (run,) = list_runs()
    shown = view(test)
    assert shown["kept"]["href"] == f"/download/{run.id}" and shown["isKept"]
    assert list(test.dataframe[0].value["task"]) == ["Apples", "Bridges", "Clouds", "average"]
    assert "TIES at the same k" in words(test) and "the ensemble" in words(test)
    links = [e.proto.url for e in test.get("link_button")]
    assert links == [f"/{what}/{run.id}" for what in ("download", "card", "export")]
    response = asyncio.run(app.download(request_for(run.id)))
    assert response.status_code == 200 and Path(response.path) == run.model
    with safe_open(response.path, "pt") as file:
        assert all(name.startswith("visual.") for name in file.keys())


@pytest.mark.parametrize(("page", "leads"), [("merge", "explore"), ("heatmap", "explore")])
def test_pages_of_earlier_versions_lead_on_with_their_settings(visit, page, leads):
    test = visit(page, "keep=0.3&variation=0.2&blocks=1")
    assert view(test)["setting"] | {} == {
        "method": "m-ties", "keep": 0.3, "variation": 0.2, "scaling": 1.0, "blocks": [1],
    }  # fmt: skip
    assert visit("heatmap", "explain=source").title[0].value == "Explain"


def test_a_map_is_recorded_as_a_score(visit):
    settled(visit("explain"))
    (run,) = list_runs()
    assert (run.kind, run.state, run.model) == ("score", "finished", None)
    assert run.scores().keys() == {0, 1, 2} and run.metadata["sources"].keys() == {
        "apples",
        "bridges",
        "clouds",
    }


@pytest.mark.parametrize("method", ["simple-average", "task-arithmetic", "dare", "ensembling"])
def test_every_method_can_be_launched(visit, method):
    test = visit("explore", f"method={method}")
    assert view(test)["setting"]["method"] == method
    test = compared(test)
    assert METHODS[method].title in words(test) and test.dataframe.len == 1
    assert [run.metadata["recipe"]["method"] for run in list_runs()] == [method]


@pytest.mark.parametrize("page", ["explore", "explain"])
@pytest.mark.parametrize("error", [MlossError("device cpu: out of memory"), ValueError("oh no")])
def test_a_failed_job_is_shown_in_place(visit, monkeypatch, page, error, capfd):
    def failing(*arguments, **options):
        raise error
        yield

    monkeypatch.setattr(kinds, "run", failing)
    test = visit(page)
    if page == "explore":
        test = settled(press(test, "launch"))
        assert str(error) in view(test)["said"]
    else:
        assert any(str(error) in e.value for e in settled(test).error)
    assert "Traceback" not in words(test)
    assert [r.state for r in list_runs()] == ["failed"] and str(error) in list_runs()[0].error
    monkeypatch.undo()


def test_moving_a_slider_never_loses_a_job(visit, monkeypatch):
    gate = threading.Event()

    def slow(*arguments, **options):
        gate.wait(30)
        yield from run(*arguments, **options)

    monkeypatch.setattr(kinds, "run", slow)
    test = press(visit("explore", "live=off"), "launch")
    assert view(test)["follow"], "the view follows it"
    test = choose(test, keep=0.25)
    assert test.get("progress"), "the job is still shown"
    gate.set()
    test = settled(test)
    assert view(test)["kept"] and not view(test)["isKept"], "of another setting than the chosen"
    assert list_runs()[0].metadata["recipe"]["keep"] == 0.5


def test_cancel_says_so_and_keeps_no_result(visit, monkeypatch):
    begun = threading.Event()

    def endless(*arguments, **options):
        for event in itertools.repeat(next(run(*arguments, **options))):
            yield event
            begun.set()
            time.sleep(0.02)

    test = settled(visit("explore", "live=off"))
    monkeypatch.setattr(kinds, "run", endless)
    test = press(test, "launch")
    assert begun.wait(30)
    button(test, "Cancel").click().run()
    assert view(settled(test, 2))["said"].startswith("Cancelled: Merging 3 sources")
    assert [(r.state, r.model) for r in list_runs()] == [("cancelled", None)]


@pytest.mark.parametrize("name", ["..", "../x", "x/../y", "", "unknown", "a b", "%2e%2e", "x\n"])
def test_downloads_of_unknown_or_hostile_names_are_not_found(name, runs):
    (runs / "x").mkdir(parents=True)
    (runs / "model.safetensors").write_bytes(b"secret")
    (runs.parent / "model.safetensors").write_bytes(b"secret")
    for answer in (app.download, app.card, app.bundle):
        response = asyncio.run(answer(request_for(name)))
        assert response.status_code == 404 and b"secret" not in response.body


def request_for(run: str) -> Request:
    return Request({"type": "http", "path_params": {"run": run}, "headers": []})
