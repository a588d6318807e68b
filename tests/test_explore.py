"""What the server tells an open Explore view: parts of a picture, each as the library has it."""
# ruff: noqa: F811 (the imported fixture is asked for by name)

from __future__ import annotations

import asyncio
import base64
import dataclasses
import itertools
import json
import threading
import time

import numpy as np
import pytest
from visitor import settled, view, visit  # noqa: F401

from mloss_core import (
    METHODS,
    Accuracy,
    BlockMerged,
    BlockScored,
    Evaluator,
    Merge,
    MlossError,
    compare,
    families,
    list_runs,
    load,
    mean_accuracy,
    run,
)
from mloss_core.analysis.left import left_after
from mloss_core.hardware import device
from mloss_core.run import Evaluate
from views.explore import look, picture, shipped, stream
from views.jobs import kinds, live
from views.state import session

LINK = {"family": "tiny", "samples": "6", "visitor": "me"}


@pytest.fixture
def ask(visit, monkeypatch):
    """The lines of an answer, as the view reads them."""
    monkeypatch.setattr(live, "KEEPS", (0.5, 1.0))

    def answered(**query: str) -> list[dict]:
        async def gathered() -> list[dict]:
            return [json.loads(line) async for line in stream.lines(LINK | query)]

        return asyncio.run(gathered())

    return answered


def last(lines: list[dict], part: str):
    return [line[part] for line in lines if part in line][-1]


def unpacked(text: str, blocks: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(blocks, -1)


def recipe_of(**query: str):
    chosen, wrong = session.of_link(LINK | query)
    assert wrong == []
    return session.recipe_of(chosen, load("tiny"))


def evaluated(recipe, models=("merged",)) -> dict[str, dict]:
    """Answers on all test images, by another run."""
    family = load("tiny")
    stages = (Merge(), Evaluate(stage="full", models=models))
    events = run(recipe, family, stages=stages, evaluator=Evaluator(family, device.choose("cpu")),
                 tasks=family.tasks)  # fmt: skip
    hits: dict[str, dict] = {model: {} for model in models}
    for event in events:
        if type(event).__name__ == "TaskEvaluated":
            hits[event.model][event.task] = event.hits
    return hits


def test_a_live_merge_is_told_part_by_part_as_the_library_measures_it(ask, family):
    lines = ask(keep="0.4", variation="0.2")
    recipe, blocks = recipe_of(keep="0.4", variation="0.2"), family.model.blocks
    events = list(run(recipe, family, device="cpu"))
    scores = [e.scores for e in events if isinstance(e, BlockScored)]
    merged = [e for e in events if isinstance(e, BlockMerged)]
    told = last(lines, "scores")
    np.testing.assert_array_equal(
        unpacked(told["raw"], blocks), np.float32([s.node for s in scores])
    )
    assert told["means"] == [list(s.mean_interval()) for s in scores]
    assert last(lines, "merged")["kept"] == [e.kept for e in merged]
    np.testing.assert_array_equal(
        unpacked(last(lines, "merged")["rows"], blocks),
        np.float32([e.kept_by_node for e in merged]),
    )
    left = list(left_after(recipe, family, events[-1].weights, device="cpu"))
    np.testing.assert_allclose(
        unpacked(last(lines, "left"), blocks), [b.node for b in left], rtol=1e-5
    )
    assert last(lines, "after")["images"] == 12 and len(last(lines, "after")["rates"]) == blocks
    assert lines[-1] == {"end": True} and list_runs() == [], "nothing is recorded"
    shares = [line["share"] for line in lines if "share" in line]
    assert all(0 <= share <= 1 for share in shares)


def test_readouts_are_the_counts_intervals_and_paired_differences_of_the_library(ask):
    lines, recipe = ask(keep="0.4", variation="0.2"), recipe_of(keep="0.4", variation="0.2")
    hits = evaluated(recipe, ("merged", "ties"))
    told = last(lines, "readouts")
    for task, answers in hits["merged"].items():
        accuracy = Accuracy(correct=int(answers.sum()), total=len(answers))
        assert told["tasks"][task] == [accuracy.rate, *accuracy.interval(), accuracy.total]
    assert told["average"] == list(mean_accuracy(hits["merged"])) and told["images"] == 12
    paired = compare(hits["merged"], hits["ties"])
    assert told["ties"]["difference"] == [paired.difference, paired.low, paired.high]
    assert told["ties"]["average"] == mean_accuracy(hits["ties"])[0]
    assert told["change"] is None
    assert last(lines, "after")["rates"][-1] == told["average"][0], "after the last block: all"


@pytest.mark.parametrize("launched", [False, True])
def test_a_change_is_paired_with_the_setting_before(ask, launched):
    before, after = ({"keep": k, "variation": e} for k, e in (("0.9", "0"), ("0.2", "0.1")))
    job = kinds.merge(load("tiny"), recipe_of(**before)) if launched else None
    first = ask(follow=job.id) if job else ask(**before)
    second = ask(**after, former=last(first, "readouts")["job"])
    a, b = evaluated(recipe_of(**before)), evaluated(recipe_of(**after))
    paired = compare(b["merged"], a["merged"])
    told = last(second, "readouts")["change"]
    assert told["difference"] == [paired.difference, paired.low, paired.high]


def test_counts_are_never_mixed_in_one_average(ask, monkeypatch):
    monkeypatch.setattr(live, "live_stages", lambda: kinds_of_live(5))
    readouts = [line["readouts"] for line in ask() if "readouts" in line]
    assert {r["images"] for r in readouts} == {5, 12}
    for readout in readouts:
        assert {rate[3] for rate in readout["tasks"].values()} == {readout["images"]}


def kinds_of_live(images: int):
    from mloss_core import live as stages

    return stages(quick=images)


def test_where_some_blocks_are_chosen_the_map_of_all_follows(ask, family):
    lines = ask(blocks="1")
    assert len(last(lines, "scores")["means"]) == 3
    merged = next(i for i, line in enumerate(lines) if "readouts" in line)
    mapped = next(i for i, line in enumerate(lines) if "scores" in line)
    assert merged < mapped, "the readouts come first"
    whole = [
        e.scores
        for e in run(live.map_recipe(recipe_of(blocks="1")), family, device="cpu")
        if isinstance(e, BlockScored)
    ]
    assert last(lines, "scores")["means"] == [list(s.mean_interval()) for s in whole]


def test_the_coarse_grid_holds_the_librarys_accuracies(ask):
    grid = last(ask(), "grid")
    assert (grid["keeps"], grid["shares"], grid["images"]) == ([0.5, 1.0], [0.0, 0.5, 1.0], 12)
    assert len(grid["cells"]) == 6
    for cell in grid["cells"]:
        method = "m-ties" if cell["share"] else "ties"
        recipe = dataclasses.replace(
            recipe_of(), method=method, keep=cell["keep"],
            variation=round(cell["keep"] * cell["share"], 3),
        )  # fmt: skip
        hits = evaluated(recipe)["merged"]
        assert cell["rates"] == {task: float(h.mean()) for task, h in hits.items()}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"keep": "7"}, "Base keep rate k: 7.0 is outside (0, 1]"),
        ({"family": "nope"}, "Family: nope is not known"),
        ({"visitor": "../x"}, "visitor: give letters, digits and -"),
        ({"sources": "apples"}, "Sources: apples is too few"),
    ],
)
def test_a_bad_question_is_answered_in_words_and_begins_nothing(ask, query, said):
    lines = ask(**query)
    assert [said in line["error"] for line in lines] == [True]
    assert not [j for j in session.board()._jobs.values() if j.kind == "live"]


@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if not m.one_model])
def test_without_a_single_model_it_says_so(ask, method):
    assert ask(method=method) == [
        {"note": "Not live: this method leaves no single model. Launch it.", "end": True}
    ]


def test_what_fails_is_told(ask, monkeypatch):
    def failing(*arguments, **options):
        raise MlossError("device cpu: out of memory")
        yield

    monkeypatch.setattr(live, "run", failing)
    assert last(ask(), "error") == "device cpu: out of memory"


def test_two_visitors_keep_their_own_and_equal_settings_are_computed_once(ask, monkeypatch):
    gate, calls = threading.Event(), itertools.count()

    def slow(*arguments, **options):
        next(calls)
        gate.wait(30)
        yield from run(*arguments, **options)

    monkeypatch.setattr(live, "run", slow)
    answers: dict[str, list[dict]] = {}
    settings = {"a": "0.4", "b": "0.4", "c": "0.6"}
    threads = [
        threading.Thread(target=lambda v=v, k=k: answers.update({v: ask(visitor=v, keep=k)}))
        for v, k in settings.items()
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 20
    while len([j for j in session.board()._jobs.values() if j.kind == "live"]) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(0.2)
    gate.set()
    for thread in threads:
        thread.join(60)
    jobs = [j for j in session.board()._jobs.values() if j.kind == "live"]
    assert sorted(j.spec.keep for j in jobs) == [0.4, 0.6]
    assert {j.state for j in jobs} == {"finished"}
    assert last(answers["a"], "readouts") == last(answers["b"], "readouts")


def test_a_launched_merge_is_followed(ask):
    family = load("tiny")
    job = kinds.merge(family, recipe_of())
    lines = ask(follow=job.id)
    assert last(lines, "readouts")["images"] == 12 and "after" in {k for li in lines for k in li}
    assert ask(follow="unknown") == [{"end": True}]


def test_what_is_known_already_is_drawn_without_asking(ask, visit):
    first = visit("explore", "samples=6&live=off")
    assert not view(first)["settled"] and "readouts" not in view(first)["picture"]
    lines = ask()
    again = view(first.run())
    assert again["settled"], "the same setting, whoever asked for it"
    for part in ("readouts", "scores", "merged", "after", "left"):
        assert again["picture"][part] == last(lines, part)


def test_the_side_card_shows_the_node_as_the_library_does(visit, family):
    answer = asyncio.run(look.answer(LINK | {"node": "1:7"}))
    recipe = live.map_recipe(recipe_of())
    scores = next(
        e.scores for e in run(recipe, family, device="cpu")
        if isinstance(e, BlockScored) and e.scores.block == 1
    )  # fmt: skip
    assert answer["loss"] == pytest.approx(scores.node[7], rel=1e-4)
    mean = np.mean(answer["activated"])
    assert answer["ensembled"] == pytest.approx(mean) and len(answer["h"]) == 3
    assert answer["mean"] == pytest.approx(np.mean(answer["h"]))
    for bad in ("", "x", "1", "9:9999999999"):
        assert "error" in asyncio.run(look.answer(LINK | {"node": bad}))
    assert (
        "nodes run from 0:0 to 2:127" in asyncio.run(look.answer(LINK | {"node": "1:999"}))["error"]
    )


# --- what the demo ships --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo():
    if "demo" not in families():
        pytest.skip("the demo family is not built")
    return load("demo")


def test_the_shipped_picture_is_of_a_first_visit_and_its_map_is_what_run_gives(demo):
    recipe = session.recipe_of(session.usual(demo), demo)
    shown = shipped.picture(demo, recipe)
    assert shown and shipped.grid_and_map(demo, live.grid_of(recipe)), "of these files"
    assert not shipped.picture(demo, dataclasses.replace(recipe, seed=7))
    assert shipped.references(demo), "whatever is chosen"
    other_k = dataclasses.replace(recipe, keep=0.3, blocks=(1,))
    assert shipped.grid_and_map(demo, live.grid_of(other_k)).keys() == {"grid", "scores"}
    fewer = dataclasses.replace(recipe, sources=recipe.sources[:3])
    assert shipped.grid_and_map(demo, live.grid_of(fewer)) == {}, "a map of other sources"
    assert shipped.references(load("contrast")) == {}
    assert shipped.first_sight(demo.folder)["family"] == "demo"
    events = list(run(recipe, demo, stages=(Merge(),), device="cpu"))
    scores = [e.scores for e in events if isinstance(e, BlockScored)]
    np.testing.assert_allclose(
        unpacked(shown["scores"]["raw"], 12), [s.node for s in scores], rtol=1e-4
    )
    kept = [e.kept for e in events if isinstance(e, BlockMerged)]
    assert shown["merged"]["kept"] == pytest.approx(kept, abs=1e-4)
    left = left_after(recipe, demo, events[-1].weights, device="cpu")
    np.testing.assert_allclose(unpacked(shown["left"], 12)[0], next(left).node, rtol=1e-3)


@pytest.mark.slow
def test_the_shipped_readouts_and_grid_are_what_run_gives(demo):
    recipe = session.recipe_of(session.usual(demo), demo)
    shown = shipped.picture(demo, recipe)
    grid = shipped.grid_and_map(demo, live.grid_of(recipe))["grid"]
    evaluator = Evaluator(demo, device.choose("cpu"))
    stages = (Merge(), Evaluate(stage="full", models=("merged", "ties", *picture.REFERENCES)))
    hits: dict = {}
    for event in run(recipe, demo, stages=stages, evaluator=evaluator, tasks=demo.tasks[:8]):
        if type(event).__name__ == "TaskEvaluated":
            hits.setdefault(event.model, {})[event.task] = event.hits
    told = picture.readouts_of(hits["merged"], hits["ties"], {})
    assert told["average"][0] == pytest.approx(shown["readouts"]["average"][0], abs=0.002)
    assert shown["readouts"]["images"] == 500
    for model in picture.REFERENCES:
        assert shown["references"][model]["average"][0] == pytest.approx(
            mean_accuracy(hits[model])[0], abs=0.002
        )
    quick = Evaluate(stage="quick", models=("merged",), images=grid["images"])
    for cell in grid["cells"][::7]:
        method = "m-ties" if cell["share"] else "ties"
        one = dataclasses.replace(
            recipe, method=method, keep=cell["keep"],
            variation=round(cell["keep"] * cell["share"], 3),
        )  # fmt: skip
        events = run(one, demo, stages=(Merge(), quick), evaluator=evaluator, tasks=demo.tasks[:8])
        rates = {e.task: e.accuracy.rate for e in events if type(e).__name__ == "TaskEvaluated"}
        assert cell["rates"] == pytest.approx(rates, abs=0.021), "one image of fifty at the most"
