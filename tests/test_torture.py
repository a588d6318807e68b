"""The quick part of scripts/torture.py: some hundreds of its cases, in this process."""

from __future__ import annotations

from random import Random

import pytest

from mloss_core.families import family as zoo
from scripts.torture import fuzz, mutate
from scripts.torture.report import Row, line
from scripts.torture.subjects import SUBJECTS, tricks

CASES = 150


@pytest.mark.parametrize("name", SUBJECTS)
def test_fuzzed_input_runs_nothing_and_raises_nothing(name, tmp_path, monkeypatch):
    folder = tmp_path / "inside"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLOSS_MODELS", str(folder / "models"))
    monkeypatch.setenv("MLOSS_RUNS", str(folder / "runs"))
    monkeypatch.setattr(zoo, "_LOADED", {})
    case = SUBJECTS[name].build(folder)
    said = [fuzz.attempt(case, number, 1, folder) for number in range(CASES)]
    assert [s for s in said if "traceback" in s or s["ran"]] == []
    assert max(s["seconds"] for s in said) < fuzz.PATIENCE
    # A mutator that leaves all as it was, or a reader that refuses all, would show nothing.
    refused = sum(bool(s.get("refused")) for s in said)
    assert name == "links" or 0.2 * CASES < refused < CASES


def test_what_the_fuzzer_looks_for_it_would_notice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def runs_code(number, draw):
        (tmp_path / "ran").touch()
        raise KeyError("no luck")

    said = fuzz.attempt(runs_code, 3, 0, tmp_path)
    assert said["ran"] == ["ran"] and said["traceback"].startswith("KeyError at ")
    assert fuzz.attempt(lambda *_: None, 4, 0, tmp_path)["ran"] == [], "swept after each case"
    assert fuzz.armed() == (12, 12)
    assert len(tricks(tmp_path / "tricks", tmp_path / "mark")) > 80
    assert not (tmp_path / "mark").exists()


def test_a_case_is_the_same_wherever_it_runs():
    content = bytes(range(256)) * 9
    once, again = (mutate.mutated(content, Random("0 7")) for _ in range(2))
    assert once == again != content
    assert mutate.altered({"a": [1]}, Random("0 1")) == mutate.altered({"a": [1]}, Random("0 1"))


def test_a_row_is_a_line_of_markdown():
    row = Row(part="p", done="a|b", count=1200, must="m", measured="x\ny", holds=False)
    assert line(row.cells()) == "| p | a\\|b | 1,200 | m | x y | **does not hold** |"
