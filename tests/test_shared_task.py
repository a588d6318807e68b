"""A task that names its sources: several share it, and each still has an own task."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from visitor import merged, settled, visit  # noqa: F401

from mloss_core import Family, MergeRecipe, TaskEvaluated, run
from mloss_core.errors import BadValue
from mloss_core.evaluation.evaluator import Evaluator
from mloss_core.experiments import own_tasks
from mloss_core.families import family as zoo
from mloss_core.families.pool import make_pool
from mloss_core.recipe import calibration_of


def rewritten(folder: Path, sources: object) -> Family:
    """The tiny family, whose task apples names these sources and whose task bridges is gone."""
    about = json.loads((folder / "family.json").read_text())
    about["tasks"] = [task for task in about["tasks"] if task["name"] != "bridges"]
    about["tasks"][0]["sources"] = sources
    (folder / "family.json").write_text(json.dumps(about))
    return zoo.load("tiny")


@pytest.fixture
def shared(own_family: Path) -> Family:
    return rewritten(own_family, ["apples", "bridges"])


def recipe_of(*sources: str, method: str = "simple-average") -> MergeRecipe:
    return MergeRecipe(family="tiny", method=method, sources=sources, samples=8)


def test_sources_know_their_task(shared):
    assert shared.sources == ("apples", "clouds", "bridges")
    assert [shared.own_task(name) for name in shared.sources] == ["apples", "clouds", "apples"]
    assert shared.own_tasks(("bridges",)) == ("apples",)
    assert own_tasks(shared, recipe_of("clouds", "bridges")) == ("apples", "clouds")
    assert shared.pool_tasks(("bridges", "apples")) == ("apples",)


def test_a_source_that_no_task_names_goes_by_its_own_name(own_family):
    family = rewritten(own_family, ["apples"])
    assert family.own_task("bridges") == "bridges" and family.own_tasks(("bridges",)) == ()
    assert family.pool_tasks(("bridges",)) == ("bridges",), "its calibration images are still there"


@pytest.mark.parametrize("sources", ["apples", [], [1], {"apples": "bridges"}])
def test_sources_of_a_task_are_a_list_of_names(own_family, sources):
    with pytest.raises(BadValue, match="sources of task apples"):
        rewritten(own_family, sources)


def test_own_accuracy_is_of_the_first_source_that_takes_part(shared):
    evaluator = Evaluator(shared, torch.device("cpu"))
    for sources in (("bridges", "apples"), ("clouds", "bridges"), ("apples", "bridges")):
        mine = next(name for name in sources if name != "clouds")
        events = run(recipe_of(*sources), shared, device="cpu", tasks=shared.tasks)
        evaluations = [e for e in events if isinstance(e, TaskEvaluated) and e.model == "own"]
        assert {e.task for e in evaluations} == {"apples", "clouds"}
        expected = evaluator.judged("own", "apples", evaluator.of_file(mine, "apples"), 0.0).hits
        whole = [e.hits for e in evaluations if e.task == "apples"][-1]
        np.testing.assert_array_equal(whole, expected)


def test_calibration_images_are_those_of_the_shared_task(shared):
    batch = calibration_of(recipe_of("bridges", "apples", method="m-ties"), shared)
    with np.load(shared.calibration_pool) as pool:
        apples = {image.tobytes() for image in pool["images"][pool["tasks"] == "apples"]}
    assert batch is not None and {image.tobytes() for image in batch.images} == apples


def test_a_pool_is_made_of_a_shared_task_once(shared):
    shared.calibration_pool.unlink()
    assert list(make_pool(shared, 4)) == ["apples", "clouds"]


@pytest.mark.slow
def test_the_contrast_family_in_the_app(visit):  # noqa: F811
    table = settled(visit(link="family=contrast")).dataframe[0].value
    own = dict(zip(table["source"], table["own task, this source"], strict=True))
    assert len(own) == 5 and all("n = 250" in shown for shown in own.values())
    assert len(set(own.values())) > 2, "every source has an accuracy of its own"
    apart = visit("merge", "family=contrast&sources=letters_other,letters_slow")
    merged(apart)
    assert "Merged in" in apart.success[0].value and not apart.exception


def test_compatibility_is_judged_on_the_shared_task(shared, cli, tmp_path):
    out = tmp_path / "section.md"
    outcome = cli("compatibility", "--family=tiny", "--samples=6", "--out", out)
    assert outcome.status == 0, outcome.err
    assert "4 sets of 3 sources" in out.read_text()
    assert "has no test images" not in outcome.err
