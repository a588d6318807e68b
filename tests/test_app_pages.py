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
from visitor import button, link_of, merged, pills, settled, slider, sound, visit, words

import app
from mloss_core import list_runs, run
from mloss_core.errors import MlossError
from views.jobs import kinds


def test_the_first_screen_says_what_this_is_and_measures_the_sources(visit):
    test = settled(visit())
    assert test.title[0].value == "Where do these models disagree?"
    assert test.markdown[0].value.count(". ") == 2, "three sentences"
    table = test.dataframe[0].value
    assert list(table["source"]) == ["Apples", "Bridges", "Clouds"]
    assert table["own task, this source"].str.contains("n = 12").all()
    assert table["own task, base"].str.contains("n = 12").all()
    assert test.error.len == 0 and test.warning.len == 0
    assert "3 sources" in words(test).replace("*", "")


def test_the_heatmap_measures_by_itself_and_exports(visit):
    test = settled(visit("heatmap"))
    assert "3 of 3 blocks measured" in words(test)
    assert list(test.dataframe[0].value["block"]) == [0, 1, 2]
    pills(test, "Colours").set_value("rank").run()
    pills(test, "Scores").set_value("normalised").run()
    assert link_of(sound(test))["colours"] == "rank"


def test_a_finished_merge_is_shown_listed_and_can_be_downloaded(visit):
    test = visit("merge")
    assert "None yet" in words(test)
    merged(test)
    assert "Merged in" in test.success[0].value and test.metric.len == 3
    (run,) = list_runs()
    assert list(test.dataframe[-1].value["id"]) == [run.id]
    links = [e.proto.url for e in test.get("link_button")]
    assert links == [f"/{what}/{run.id}" for what in ("download", "card", "export")]
    again = visit("merge")  # another session: the store has it
    assert list(again.dataframe[-1].value["id"]) == [run.id]
    response = asyncio.run(app.download(request_for(run.id)))
    assert response.status_code == 200 and Path(response.path) == run.model
    with safe_open(response.path, "pt") as file:
        assert all(name.startswith("visual.") for name in file.keys())


def test_a_map_is_recorded_as_a_score(visit):
    settled(visit("heatmap"))
    (run,) = list_runs()
    assert (run.kind, run.state, run.model) == ("score", "finished", None)
    assert run.scores().keys() == {0, 1, 2} and run.metadata["sources"].keys() == {
        "apples",
        "bridges",
        "clouds",
    }


@pytest.mark.parametrize("method", ["simple-average", "task-arithmetic", "dare", "ensembling"])
def test_every_method_can_be_launched(visit, method):
    test = visit("merge", f"method={method}")
    assert test.selectbox[0].value == method
    merged(test)
    assert "Merged in" in test.success[0].value
    assert [run.metadata["recipe"]["method"] for run in list_runs()] == [method]


@pytest.mark.parametrize(("page", "pressed"), [("merge", "Launch merge"), ("heatmap", None)])
@pytest.mark.parametrize("error", [MlossError("device cpu: out of memory"), ValueError("oh no")])
def test_a_failed_job_is_shown_in_place(visit, monkeypatch, page, pressed, error, capfd):
    def failing(*arguments, **options):
        raise error
        yield

    monkeypatch.setattr(kinds, "run", failing)
    test = visit(page)
    if pressed:
        button(test, pressed).click().run()
    settled(test)
    assert any(str(error) in e.value for e in test.error)
    assert "Traceback" not in words(test)
    assert [r.state for r in list_runs()] == ["failed"] and str(error) in list_runs()[0].error
    monkeypatch.undo()


def test_moving_a_slider_never_loses_a_job(visit, monkeypatch):
    gate = threading.Event()

    def slow(*arguments, **options):
        gate.wait(30)
        yield from run(*arguments, **options)

    monkeypatch.setattr(kinds, "run", slow)
    test = visit("merge")
    button(test, "Launch merge").click().run()
    slider(test, "keep").set_value(0.25).run()
    assert test.get("progress"), "the job is still shown"
    gate.set()
    assert "Merged in" in settled(test).success[0].value
    assert list_runs()[0].metadata["recipe"]["keep"] == 0.5


def test_cancel_says_so_and_keeps_no_result(visit, monkeypatch):
    begun = threading.Event()

    def endless(*arguments, **options):
        for event in itertools.repeat(next(run(*arguments, **options))):
            yield event
            begun.set()
            time.sleep(0.02)

    test = settled(visit("merge"))
    monkeypatch.setattr(kinds, "run", endless)
    button(test, "Launch merge").click().run()
    assert begun.wait(30)
    button(test, "Cancel").click().run()
    assert "Cancelled: Merging 3 sources" in words(settled(test, 2))
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
