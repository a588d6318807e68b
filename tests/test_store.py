"""Runs on disk: written while they happen, whatever happens."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from mloss_core import (
    Accuracy,
    BlockScored,
    Evaluator,
    Finished,
    MergeRecipe,
    MlossError,
    TaskEvaluated,
    keep_rates,
    launch,
    list_runs,
    load,
    load_run,
    recorded,
    run,
)
from mloss_core.checkpoints.image_tower import save
from mloss_core.errors import BadFile, BadValue
from mloss_core.runs import store
from mloss_core.runs import write as recording
from mloss_core.runs.writer import BOOT

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
FILES = ["events.jsonl", "hits.npz", "model.safetensors", "recipe.json", "record.json"]
FILES += ["scores.safetensors", "state.json"]
RECIPE = MergeRecipe(
    family="tiny",
    method="m-ties",
    sources=("apples", "bridges", "clouds"),
    keep=0.5,
    variation=0.2,
    samples=6,
    blocks=(0, 2),
)


@pytest.fixture(scope="module")
def events(models):
    """A whole run with two evaluated tasks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOSS_MODELS", str(models))
        family = load("tiny")
        options = {"evaluator": Evaluator(family, CPU), "tasks": family.tasks[:2]}
        return list(run(RECIPE, family, stages=launch(quick=7), **options))


def written(events, kind="merge", **options):
    """The run that these events leave."""
    before = {name for name, _ in store.folders()}
    assert list(recorded(iter(events), RECIPE, kind=kind, **options)) == list(events)
    (name,) = {name for name, _ in store.folders()} - before
    return load_run(name)


def begun(events, **options):
    """A run that is being written, after its first event."""
    log = recorded(iter(events), RECIPE, kind=options.pop("kind", "merge"), **options)
    next(log)
    return log


def state_of(folder):
    return json.loads((folder / "state.json").read_text())


# --- finished runs --------------------------------------------------------------------------------


def test_a_recorded_run_comes_back_as_it_was(events, runs):
    record = written(events, facts={"cell": [1, 2]})
    assert [path.name for path in runs.iterdir()] == [record.id]
    assert sorted(p.name for p in record.folder.iterdir()) == FILES
    assert (record.kind, record.state, record.error, record.title) == (
        "merge",
        "finished",
        "",
        None,
    )
    assert record.metadata == json.loads(json.dumps(events[-1].metadata))
    assert (record.seconds, record.device) == (events[-1].seconds, "cpu")
    assert record.recipe() == RECIPE and record.facts == {"cell": [1, 2]}
    assert record.versions["torch"] == torch.__version__ and len(record.versions) == 5
    whole = [e for e in events if isinstance(e, TaskEvaluated) and e.block is None]
    last = {(e.model, e.task): e for e in whole}
    assert {(m, t) for m, tasks in record.hits.items() for t in tasks} == last.keys()
    for (model, task), event in last.items():
        np.testing.assert_array_equal(record.hits[model][task], event.hits)
        assert record.accuracies[model][task] == event.accuracy


def test_tensors_are_the_runs_own_and_keep_rates_follow_from_the_scores(events):
    record = written(events)
    tensors = load_file(record.model)
    assert tensors.keys() == events[-1].weights.keys()
    assert all(torch.equal(tensors[name], events[-1].weights[name]) for name in tensors)
    scored = {e.scores.block: e for e in events if isinstance(e, BlockScored)}
    assert record.scores().keys() == scored.keys() == {0, 2}
    for block, node in record.scores().items():
        rates = keep_rates(node, RECIPE.keep, RECIPE.variation)
        np.testing.assert_allclose(rates, scored[block].rates)


def test_every_event_is_a_line_as_it_happens(events, runs):
    log = begun(events)
    (part,) = runs.iterdir()
    assert len((part / "events.jsonl").read_text().splitlines()) == 1
    list(log)
    lines = (load_run(list_runs()[0].id).folder / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == [type(e).__name__ for e in events]


def test_the_run_is_finished_before_its_last_event_is_passed_on(events):
    log = recorded(iter(events), RECIPE, kind="merge")
    assert isinstance(next(e for e in log if isinstance(e, Finished)), Finished)
    log.close()
    assert [record.state for record in list_runs()] == ["finished"]


@pytest.mark.parametrize("end", ["without weights", "never"])
def test_a_score_without_model_is_recorded_whole(end, events):
    scored = [e for e in events if isinstance(e, BlockScored)]
    last = [dataclasses.replace(events[-1], weights=None)] if end == "without weights" else []
    record = written([*scored, *last], kind="score")
    assert (record.kind, record.state, record.model, record.hits) == ("score", "finished", None, {})
    assert record.scores().keys() == {0, 2} and record.recipe() == RECIPE
    assert record.accuracies == {}


def test_a_model_is_left_out_where_nobody_wants_it(events):
    record = written(events, kind="cell", keep_model=False)
    assert record.model is None and list_runs() == [] and record.hits
    assert [listed.id for listed in list_runs(("cell",))] == [record.id]


# --- unfinished runs ------------------------------------------------------------------------------


def test_a_run_is_listed_as_running_while_it_runs(events):
    log = begun(events)
    (record,) = list_runs()
    assert (record.state, record.seconds, record.model, record.hits) == ("running", None, None, {})
    assert record.metadata["recipe"]["method"] == "m-ties" and record.recipe() == RECIPE
    with pytest.raises(BadFile, match="cancel it first"):
        store.delete(record.id)
    list(log)
    assert list_runs()[0].id == record.id and list_runs()[0].state == "finished"


def test_a_run_that_is_closed_early_is_cancelled_and_closes_what_feeds_it(events, runs):
    closed = []

    def feed():
        try:
            yield from events
        finally:
            closed.append(True)

    log = recorded(feed(), RECIPE, kind="merge")
    next(log)
    log.close()
    (record,) = list_runs()
    assert (record.state, record.error, closed) == ("cancelled", "", [True])
    assert [path.name for path in runs.iterdir()] == [record.id]


@pytest.mark.parametrize(
    ("error", "words"),
    [(MlossError("device cpu: out of memory"), "device cpu: out of memory"),
     (ZeroDivisionError("no luck"), "ZeroDivisionError: no luck")],
)  # fmt: skip
def test_a_run_that_raises_is_failed_with_its_words(error, words, events):
    def failing():
        yield events[0]
        raise error

    with pytest.raises(type(error), match=r"no luck|out of memory"):
        list(recorded(failing(), RECIPE, kind="merge"))
    (record,) = list_runs()
    assert (record.state, record.error) == ("failed", words)


def test_ctrl_c_is_a_cancelled_run(events):
    def interrupted():
        yield events[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(recorded(interrupted(), RECIPE, kind="merge"))
    assert [record.state for record in list_runs()] == ["cancelled"]


KILLED = """
import sys, time
from mloss_core import MergeRecipe, load, recorded, run
family = load("tiny")
recipe = MergeRecipe(family="tiny", method="m-ties", sources=family.sources, samples=6)
for event in recorded(run(recipe, family, device="cpu"), recipe, kind="merge"):
    print("event", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_leaves_a_run_that_is_interrupted(models, runs, events):
    whole = written(events)
    environment = os.environ | {"MLOSS_MODELS": str(models)}
    command = [sys.executable, "-c", KILLED]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"event\n"
        assert [record.state for record in list_runs()] == ["running", "finished"]
        process.send_signal(signal.SIGKILL)
    first, second = list_runs()
    assert (first.state, second.id) == ("interrupted", whole.id)
    assert first.recipe().samples == 6
    assert first.hits == {} and first.scores() == {} and first.model is None
    store.delete(first.id)
    assert [record.id for record in list_runs()] == [whole.id]
    assert store.undelete(first.id).state == "interrupted"


def test_another_process_of_the_same_number_is_another_process(events, runs):
    log = begun(events)
    (part,) = runs.iterdir()
    state = state_of(part)
    for other in ("started", "since_boot"):
        changed = state | {other: state[other] - 100}
        old = {key: value for key, value in changed.items() if "boot" not in key}
        (part / "state.json").write_text(json.dumps(old if other == "started" else changed))
        assert [record.state for record in list_runs()] == ["interrupted"]
    (part / "state.json").write_text(json.dumps(state | {"boot": "another"}))
    assert [record.state for record in list_runs()] == ["interrupted"]
    log.close()


@pytest.mark.skipif(not BOOT.exists(), reason="needs Linux's name of a boot")
@pytest.mark.parametrize("hours", [-30, 30])
def test_a_clock_that_is_set_interrupts_no_run(hours, events, monkeypatch):
    log = begun(events)
    booted = psutil.boot_time() + 3600 * hours
    for place in (psutil, psutil._psplatform):
        monkeypatch.setattr(place, "boot_time", lambda: booted)
    assert [record.state for record in list_runs()] == ["running"]
    log.close()


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), BadFile("--out", "b", "is full", "d")]
)
def test_a_full_disk_at_the_end_is_a_failed_run_that_names_the_folder(error, events, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(recording, "save", fail)
    with pytest.raises(BadFile, match="set MLOSS_RUNS to another folder"):
        list(recorded(iter(events), RECIPE, kind="merge"))
    (record,) = list_runs()
    assert record.state == "failed" and "cannot be written" in record.error
    assert record.model is None


def test_a_disk_that_takes_nothing_more_keeps_nothing(events, runs, monkeypatch):
    log = begun(events)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording, "put", full)
    with pytest.raises(BadFile, match="No space left"):
        list(log)
    assert list(runs.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(events, runs):
    runs.write_text("a file")
    with pytest.raises(BadFile, match="MLOSS_RUNS"):
        list(recorded(iter(events), RECIPE, kind="merge"))
    assert list_runs() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(events, runs):
    runs.mkdir(mode=0o500)
    with pytest.raises(BadFile, match="MLOSS_RUNS"):
        list(recorded(iter(events), RECIPE, kind="merge"))


# --- given ids ------------------------------------------------------------------------------------


def test_a_finished_run_is_never_overwritten(events):
    record = written(events, id="cell-1", kind="cell")
    before = (record.folder / "record.json").read_bytes()
    with pytest.raises(BadFile, match="finished and never overwritten"):
        list(recorded(iter(events), RECIPE, kind="cell", id="cell-1"))
    assert (record.folder / "record.json").read_bytes() == before


def test_an_unfinished_run_of_the_same_id_is_replaced(events, runs):
    begun(events, id="cell-1", kind="cell").close()
    assert [r.state for r in list_runs(("cell",))] == ["cancelled"]
    list(recorded(iter(events), RECIPE, kind="cell", id="cell-1"))
    assert [(r.id, r.state) for r in list_runs(("cell",))] == [("cell-1", "finished")]
    assert [path.name for path in runs.iterdir()] == ["cell-1"]


def test_two_writers_of_one_id_leave_one_whole_run(events, runs):
    logs = [begun(events, id="cell-1", kind="cell") for _ in range(2)]
    assert [(r.id, r.state) for r in list_runs(("cell",))] == [("cell-1", "running")]
    for log in logs:
        list(log)
    assert [path.name for path in runs.iterdir()] == ["cell-1"]
    record = load_run("cell-1")
    assert record.state == "finished" and record.hits and record.model.is_file()


def test_a_writer_that_gives_up_leaves_the_others_run_alone(events, runs):
    first, second = (begun(events, id="cell-1", kind="cell") for _ in range(2))
    second.close()
    list(first)
    third = begun(events, id="cell-2", kind="cell")
    fourth = begun(events, id="cell-2", kind="cell")
    list(third)
    fourth.close()
    assert {(r.id, r.state) for r in list_runs(("cell",))} == {
        ("cell-1", "finished"),
        ("cell-2", "finished"),
    }
    assert sorted(path.name for path in runs.iterdir()) == ["cell-1", "cell-2"]


def test_many_writers_of_one_id_at_the_same_time(events, runs):
    short, wrong = [events[0], events[-1]], []
    gate = threading.Barrier(8)

    def work():
        gate.wait()
        try:
            list(recorded(iter(short), RECIPE, kind="cell", id="cell-1"))
        except BadFile as error:  # another had finished before this one began
            wrong.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("never overwritten" in words for words in wrong) and len(wrong) < 8
    assert [path.name for path in runs.iterdir()] == ["cell-1"]
    assert load_run("cell-1").model.is_file()


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "x" * 200, "a\nb", "a b"])
def test_an_id_that_is_no_plain_name_is_refused(name, events, runs):
    with pytest.raises(BadValue):
        list(recorded(iter(events), RECIPE, kind="cell", id=name))
    assert not runs.exists()


def test_an_unknown_kind_is_refused(events, runs):
    with pytest.raises(BadValue, match="merge, score, cell"):
        list(recorded(iter(events), RECIPE, kind="toy"))
    assert not runs.exists()


# --- the list -------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first(events):
    assert list_runs() == []
    ids = []
    for _ in range(3):
        ids.append(written(events[-1:]).id)
        time.sleep(0.002)
    assert [record.id for record in list_runs()] == ids[::-1]


def test_listing_reads_no_hits(events, runs, monkeypatch):
    """What makes a list of hundreds of runs quick: accuracies come from record.json alone."""
    record = written(events)
    for number in range(20):
        shutil.copytree(record.folder, runs / f"run-{number}", copy_function=os.link)
    monkeypatch.setattr(np, "load", lambda *a, **k: pytest.fail("hits were read"))
    means = [np.mean([a.rate for a in r.accuracies["merged"].values()]) for r in list_runs()]
    assert len(means) == 21


@pytest.mark.parametrize("file", ["record.json", "state.json"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_torn_run_is_passed_over(file, share, events):
    whole, torn = written(events), written(events)
    content = (torn.folder / file).read_bytes()
    (torn.folder / file).write_bytes(content[: int(len(content) * share)])
    assert [record.id for record in list_runs()] == [whole.id]
    with pytest.raises(BadFile, match=torn.id):
        load_run(torn.id)
    store.delete(torn.id)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_torn_arrays_are_refused_when_they_are_read(share, events):
    torn = written(events)
    for file in ("hits.npz", "scores.safetensors"):
        content = (torn.folder / file).read_bytes()
        (torn.folder / file).write_bytes(content[: int(len(content) * share)])
    (record,) = list_runs()
    for read in (lambda: record.hits, record.scores, lambda: load_run(torn.id)):
        with pytest.raises(BadFile, match=torn.id):
            read()


HOSTILE = {
    "no object": "[]",
    "no recipe": '{"kind": "merge", "created": "x", "metadata": {}}',
    "a recipe of numbers": '{"created": "x", "metadata": {"recipe": 7}}',
    "no sources": '{"created": "x", "metadata": {"recipe": {"family": "a", "method": "b"}}}',
    "deep": "[" * 100_000,
    "huge number": '{"pid": 1e999, "created": "x"}',
    "not text": "\udcff",
}


@pytest.mark.parametrize("file", ["record.json", "state.json"])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_folders_are_passed_over(file, text, events, runs):
    whole = written(events)
    folder = runs / "hostile"
    folder.mkdir()
    (folder / "recipe.json").write_text("{}")
    (folder / file).write_bytes(text.encode(errors="surrogateescape"))
    for name in (".x.part", "..", ".a.12345678.part", "a b", "file"):
        path = runs / name
        path.write_text("") if name == "file" else path.mkdir(exist_ok=True)
    assert [record.id for record in list_runs()] == [whole.id]
    with pytest.raises(BadFile, match="hostile"):
        load_run("hostile")


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "", ".", "nothing", "..", "a\0b"])
def test_a_run_is_asked_for_by_its_plain_name(name, events, runs):
    record = written(events)
    record.folder.rename(runs.parent / "elsewhere")
    for ask in (load_run, store.delete, store.undelete, lambda n: store.rename(n, "x")):
        with pytest.raises(BadFile):
            ask(name)


def test_a_recipe_of_another_version_is_refused_in_words(events):
    record = written(events)
    path = record.folder / "recipe.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"magic": 1}))
    with pytest.raises(BadFile, match="has magic, which this version does not know"):
        load_run(record.id).recipe()
    path.write_text(json.dumps({"keep": 7}))
    with pytest.raises(BadFile, match=record.id):
        load_run(record.id).recipe()


# --- titles and trash -----------------------------------------------------------------------------


def test_a_run_gets_a_title_and_loses_it(events):
    record = written(events)
    store.rename(record.id, "  the best\nso far ")
    assert load_run(record.id).title == list_runs()[0].title == "the best so far"
    store.rename(record.id, "")
    assert load_run(record.id).title is None


def test_a_title_given_while_it_runs_stays(events):
    log = begun(events)
    store.rename(list_runs()[0].id, "mine")
    list(log)
    assert [(r.title, r.state) for r in list_runs()] == [("mine", "finished")]


def test_a_deleted_run_comes_back_whole(events, runs):
    record = written(events)
    store.delete(record.id)
    assert list_runs() == [] and (runs / ".trash" / record.id).is_dir()
    with pytest.raises(BadFile, match=record.id):
        load_run(record.id)
    assert store.undelete(record.id).hits.keys() == record.hits.keys()
    assert sorted(p.name for p in record.folder.iterdir()) == FILES
    with pytest.raises(BadFile, match="not in the trash"):
        store.undelete(record.id)


def test_an_id_in_use_is_not_taken_out_of_the_trash(events):
    written(events, id="cell-1", kind="cell")
    store.delete("cell-1")
    written(events, id="cell-1", kind="cell")
    with pytest.raises(BadFile, match="exists again"):
        store.undelete("cell-1")
    store.delete("cell-1")  # replaces the older one
    assert store.undelete("cell-1").state == "finished"


def test_the_trash_forgets_after_thirty_days(events, runs):
    old, new = written(events[-1:]), written(events[-1:])
    store.delete(old.id)
    ago = time.time() - 31 * 24 * 3600
    os.utime(runs / ".trash" / old.id, (ago, ago))
    store.delete(new.id)
    assert [path.name for path in (runs / ".trash").iterdir()] == [new.id]


# --- runs of earlier versions ---------------------------------------------------------------------


def old_run(runs, events, name="20260101-120000-m-ties-abcdef"):
    """A run as version 0.1.0 wrote it at first: no state, the recipe as its method reads it."""
    finished, folder = events[-1], runs / name
    folder.mkdir(parents=True)
    metadata = dict(finished.metadata)
    recipe = {"keep": 0.05, "method": "ties", "family": "tiny", "sources": list(RECIPE.sources)}
    metadata["recipe"] = recipe | {"weights": [1 / 3] * 3, "scaling": 1.0}
    (folder / "recipe.json").write_text(json.dumps(metadata["recipe"]))
    record = {"created": "2026-01-01T12:00:00+00:00", "seconds": 1.5, "device": "cpu"}
    (folder / "record.json").write_text(json.dumps(record | {"metadata": metadata}))
    (folder / "events.jsonl").write_text(json.dumps(store.event_json(finished)) + "\n")
    flat = {
        f"{m}/{t}": h for m, tasks in store.final_hits(events).items() for t, h in tasks.items()
    }
    np.savez_compressed(folder / "hits.npz", **flat)
    save(folder / "model.safetensors", finished.weights, metadata)
    return name


def test_runs_of_earlier_versions_are_read(events, runs):
    name = old_run(runs, events)
    new = written(events)
    assert [record.id for record in list_runs()] == [new.id, name]
    record = load_run(name)
    assert (record.kind, record.state, record.versions) == ("merge", "finished", {})
    assert record.accuracies["merged"].keys() == set(RECIPE.sources[:2])
    hits = record.hits["merged"]["apples"]
    assert record.accuracies["merged"]["apples"] == Accuracy(correct=int(hits.sum()), total=12)
    assert record.model.is_file() and record.scores() == {}
    again = record.recipe()
    assert (again.keep, again.weights, again.sources) == (0.05, (1 / 3,) * 3, RECIPE.sources)
