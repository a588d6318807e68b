"""The theory page as a visitor finds it: every slider, links, the family's job."""
# ruff: noqa: F401, F811 (imported fixtures are asked for by name)

from __future__ import annotations

import itertools
import threading
import time

import pytest
from visitor import button, go, link_of, settled, slider, sound, visit, words

from mloss_core import Setting, expected, theory
from mloss_core.analysis.expectation import printed
from mloss_core.errors import MlossError
from views.jobs import kinds
from views.shared import figures, theme
from views.state import theory_fields


def number(text: str) -> float:
    """What a metric says."""
    digits, _, power = text.partition("×10")
    lowered = power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    return float(digits) * 10 ** int(lowered or 0)


def shown(test) -> dict[str, str]:
    """The four numbers at the sliders."""
    return {m.label: m.value for m in test.metric}


def test_every_slider_moves_the_numbers_and_the_link(visit):
    test = visit("theory")
    assert test.title[0].value == "Theory"
    now = {"activation": "gelu", "k": 10.0, "s": 1.0, "q": 2}
    for key, value in (("k", 20.0), ("s", 0.5), ("q", 5)):
        slider(test, f"theory_{key}").set_value(value).run()
        now[key] = value
        setting = Setting(**now)
        assert link_of(sound(test))[f"theory_{key}"] == f"{value:g}"
        assert number(shown(test)["Exact"]) == pytest.approx(expected(setting), rel=5.1e-3)
        assert shown(test)["Printed / exact"] == f"{printed(setting) / expected(setting):.2f}"
        assert "95 %" in test.metric[1].delta
    test.selectbox[0].select("leaky_relu").run()
    slider(test, "theory_slope").set_value(0.5).run()
    assert link_of(sound(test))["theory_slope"] == "0.5"
    setting = Setting(**(now | {"activation": "leaky_relu", "slope": 0.5}))
    assert number(shown(test)["Exact"]) == pytest.approx(expected(setting), rel=5.1e-3)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu", "quick_gelu", "silu"])
def test_every_activation_is_drawn(visit, name):
    test = visit("theory", f"theory_activation={name}")
    assert test.selectbox[0].value == name and len(test.get("plotly_chart")) == 1
    none = name in ("quick_gelu", "silu")
    assert (shown(test)["Printed in the paper"] == "none") == none


def test_a_straight_line_has_no_loss(visit):
    test = visit("theory", "theory_activation=leaky_relu&theory_slope=1")
    assert shown(test)["Exact"] == "0" and "no M-Loss" in words(test)


BAD = {
    "theory_activation=tanh": "choose from relu",
    "theory_k=0": "theory_k=0 was not used",
    "theory_k=nan": "theory_k=nan was not used",
    "theory_s=-1": "theory_s=-1 was not used",
    "theory_s=1e9": "theory_s=1e9 was not used",
    "theory_q=1": "theory_q=1 was not used",
    "theory_q=2.5": "theory_q=2.5 was not used",
    "theory_slope=2": "theory_slope=2 was not used",
    "theory_slope=x": "theory_slope=x was not used",
}


@pytest.mark.parametrize("link", BAD)
def test_bad_links_are_said_and_not_used(visit, link):
    test = visit("theory", link)
    assert any(BAD[link] in w.value for w in test.warning), words(test)
    chosen = test.session_state["chosen"]
    assert all(chosen[f.name] == f.format(f.default) for f in theory_fields.FIELDS)


@pytest.mark.parametrize("link", ["theory_k=900", "theory_s=0.001", "theory_q=60", "theory_s=99"])
def test_links_past_a_sliders_end_do_no_harm(visit, link):
    assert visit("theory", link).warning.len == 0


def test_the_family_is_measured_when_asked_and_found_again(visit):
    test = visit("theory")
    assert "Nothing measured yet. Press" in words(test)
    button(test, "Measure this family").click().run()
    settled(test)
    assert "3 of 3 blocks measured" in words(test)
    assert "Section 4's model" in words(test) and "of the measured M-Loss" in words(test)
    assert len(test.get("plotly_chart")) == 5
    table = test.dataframe[0].value
    assert list(table["block"]) == [0, 1, 2]
    np_ratio = table["predicted"] / table["measured"]
    assert list(table["predicted / measured"]) == pytest.approx(list(np_ratio))
    job = link_of(test)["theory_job"]
    assert "3 of 3 blocks measured" in words(go(go(test, "sources"), "theory"))
    assert link_of(test)["theory_job"] == job
    test.session_state["chosen"]["seed"] = "7"
    assert "settings have changed" in words(go(test, "theory"))


def test_an_unknown_theory_job_is_said_to_be_gone(visit):
    assert "The job of this link is gone" in words(visit("theory", "theory_job=unknown"))


@pytest.mark.parametrize("error", [MlossError("device cpu: out of memory"), ValueError("oh no")])
def test_a_failed_job_is_shown_in_place(visit, monkeypatch, error, capfd):
    def failing(*arguments):
        raise error
        yield

    monkeypatch.setattr(kinds, "measure_theory", failing)
    test = visit("theory")
    button(test, "Measure this family").click().run()
    assert any(str(error) in e.value for e in settled(test).error)


def test_the_job_can_be_cancelled(visit, monkeypatch):
    begun = threading.Event()

    def endless(*arguments):
        for event in itertools.repeat(next(theory(*arguments))):
            yield event
            begun.set()
            time.sleep(0.02)

    monkeypatch.setattr(kinds, "measure_theory", endless)
    test = visit("theory")
    button(test, "Measure this family").click().run()
    assert begun.wait(30)
    button(test, "Cancel").click().run()
    assert "Cancelled: Theory beside measurement" in words(settled(test, 5))


def test_one_source_only_is_refused_in_place(visit):
    test = visit("theory")
    test.session_state["chosen"]["sources"] = "apples"
    assert "at least two sources" in go(test, "theory").error[0].value
