"""The Experiments page: launch, watch, cancel and go on, what follows, what can be taken away."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import pytest
from test_experiments import short
from visitor import button, link_of, settled, sound, visit, words

from mloss_core import list_runs
from mloss_core.experiments import EXPERIMENTS, Lab
from views.experiments import figures as experiment_figures
from views.state import session


def launched(test):
    button(test, "Measure, or go on").click()
    return sound(test.run())


def test_the_page_says_what_it_will_do_before_anything_is_measured(visit):
    test = visit("experiments")
    assert "Nothing measured in this session yet" in words(test)
    assert EXPERIMENTS["methods"].question in words(test)
    assert "not measured here" in test.expander[0].label


@pytest.mark.parametrize("name", [n for n in EXPERIMENTS if n != "out-of-domain"])
def test_every_experiment_is_measured_and_says_what_follows(
    name, visit, short, runs, measured_methods
):
    if name == "methods":  # ninety cells: drawn as they come from disk
        measured_methods.copied_to(runs)
    test = settled(launched(visit("experiments", f"experiment={name}&samples=6")), 200)
    assert "What follows" in words(test), words(test)
    table = test.dataframe[0].value
    assert {"model", "mean, %", "Apples"} <= set(table.columns) and len(table) >= 3
    assert link_of(test)["experiment_job"]
    assert test.get("plotly_chart") and (name in experiment_figures.FIGURES or name == "experts")


def test_a_family_without_tasks_out_of_domain_measures_nothing(visit):
    test = settled(launched(visit("experiments", "experiment=out-of-domain&samples=6")))
    assert "What follows" not in words(test)


def test_a_cancelled_experiment_goes_on_where_it_was(visit, short, monkeypatch):
    test = launched(visit("experiments", "experiment=keep-and-variation&samples=6"))

    (active,) = session.board().active() or [None]
    if active is not None:
        active.cancel()
        active.wait(30)

    before = {run.id for run in list_runs(("cell",)) if run.state == "finished"}
    computed, compute = [], Lab.compute
    monkeypatch.setattr(
        Lab, "compute", lambda lab, cell: computed.append(lab.id(cell)) or compute(lab, cell)
    )
    settled(launched(test), 200)
    assert not before & set(computed)
    assert len(before | set(computed)) == len(list_runs(("cell",)))
